"""Which archived versions may be restored, and every reason against the others."""

import os
import random
import shutil

import pytest

from firebreak.checks.hashing import scan
from firebreak.checks.release_manifest import content_digest
from firebreak.checks.signatures import Verdict
from firebreak.errors import NoKnownGoodError
from firebreak.recovery.known_good import candidates, choose, version_key
from firebreak.recovery.signing import generate_keypair, sign_manifest, write_manifest

HOUR_NS = 3600 * 10**9


def judged(world, **asked):
    return {c.version: c for c in candidates(world.model, world.inventory, **asked)}


def date(path, moment_ns):
    for name in ("manifest.json", "manifest.sig"):
        os.utime(path / ".signatures" / name, ns=(moment_ns, moment_ns))


@pytest.mark.parametrize(
    "ordered",
    [
        ["1.9", "1.10", "1.10.1", "2"],
        ["1.0rc1", "1.0", "1.0.post1", "1.1.dev1", "1.1"],
        ["v1.2", "v1.10"],
        ["1.0.0-beta.2", "1.0.0-beta.10", "1.0.0"],
        ["build-9-x", "build-10-x", "build-10-y", "0.1"],
        ["release", "snapshot-2", "snapshot-11", "1.0"],
        ["2024.9.1", "2024.10.1", "2025.1.1"],
        ["1.0", "1.0.0"],
    ],
)
def test_versions_compare_part_by_part_and_numbers_as_numbers(ordered):
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert sorted(shuffled, key=version_key) == ordered


def test_candidates_are_listed_newest_first(world):
    for version in ("1.9", "1.10", "1.2"):
        world.publish(version)
    found = candidates(world.model, world.inventory)
    assert [c.version for c in found] == ["1.10", "1.9", "1.2"]
    assert all(c.accepted and c.reasons == () for c in found)
    assert choose(world.model, world.inventory).version == "1.10"


def damaged(world, tmp_path):
    """One version per reason for a rejection: version -> (verdict, words of the reason)."""
    (world.publish("1.01") / "weights.safetensors").write_bytes(b"poison")
    world.publish("1.02", sign=False)
    other, _ = generate_keypair(tmp_path / "other")
    sign_manifest(world.publish("1.03"), other)
    world.publish("1.04", model="somebody-else")
    world.publish("0.9", name="1.05")
    (world.publish("1.06") / ".signatures" / "manifest.sig").write_bytes(b"MEUC")
    (world.publish("1.07") / "config.json").unlink()
    (world.publish("1.08") / "implant.so").write_bytes(b"x")
    (world.publish("1.09") / "link").symlink_to("config.json")
    return {
        "1.01": (Verdict.TAMPERED, "modified: weights.safetensors"),
        "1.02": (Verdict.UNSIGNED, "no manifest.json"),
        "1.03": (Verdict.UNTRUSTED_SIGNER, "another key signed"),
        "1.04": (Verdict.WRONG_IDENTITY, "names model 'somebody-else', expected 'demo'"),
        "1.05": (Verdict.WRONG_IDENTITY, "names version '0.9', expected '1.05'"),
        "1.06": (Verdict.UNTRUSTED_SIGNER, "manifest.sig"),
        "1.07": (Verdict.TAMPERED, "missing: config.json"),
        "1.08": (Verdict.TAMPERED, "extra: implant.so"),
        "1.09": (Verdict.TAMPERED, "unsafe: link"),
    }


def test_each_rejected_version_says_its_verdict_and_why(world, tmp_path):
    expected = damaged(world, tmp_path)
    found = judged(world)
    assert found.keys() == expected.keys()
    for version, (verdict, words) in expected.items():
        candidate = found[version]
        assert not candidate.accepted
        assert candidate.verification.verdict is verdict
        assert words in candidate.reasons[0]
        assert candidate.reasons[0].startswith(f"{verdict.value}: ")


def test_when_none_is_acceptable_the_error_lists_them_all(world, tmp_path):
    expected = damaged(world, tmp_path)
    with pytest.raises(NoKnownGoodError) as caught:
        choose(world.model, world.inventory)
    for version, (_, words) in expected.items():
        assert version in str(caught.value)
        assert words in str(caught.value)


def test_without_a_key_nothing_is_acceptable(attacked):
    inventory = attacked.inventory
    object.__setattr__(inventory, "cosign_key", None)
    found = candidates(attacked.model, inventory)
    assert [c.verification.verdict for c in found] == [Verdict.UNVERIFIABLE] * 2
    assert not any(c.accepted for c in found)


def test_hostile_names_in_the_archive_are_listed_and_never_followed(world, tmp_path):
    good = world.publish("1.0")
    shutil.copytree(good, tmp_path / "elsewhere")
    (world.archive / "2.0").symlink_to(tmp_path / "elsewhere")
    (world.archive / "3.0").write_bytes(b"x")
    os.mkfifo(world.archive / "4.0")
    (world.archive / ".hidden").mkdir()
    (world.archive / "x\x1b[2J").mkdir()
    os.mkdir(os.fsencode(world.archive) + b"/\xff")  # noqa: PTH102 - a name that is not UTF-8
    found = judged(world)
    assert found.pop("1.0").accepted
    assert {version: c.reasons for version, c in found.items()} == {
        "2.0": ("is a symbolic link, which is not followed",),
        "3.0": ("is not a directory",),
        "4.0": ("is not a directory",),
        ".hidden": ("its name is not a version",),
        r"x\x1b[2J": ("its name is not a version",),
        r"\xff": ("its name is not a version",),
    }
    assert not any(c.accepted for c in found.values())
    assert all(c.verification is None for c in found.values())


def test_compromised_content_is_rejected_under_any_version_and_signature(world):
    bad = world.publish("2.0", seed=1)
    world.publish("1.0")
    copy = world.archive / "2.1"
    shutil.copytree(bad, copy)
    write_manifest(copy, "demo", "2.1")
    sign_manifest(copy, world.private)
    digests = frozenset({content_digest(scan(bad).files)})
    found = judged(world, bad_digests=digests)
    for version in ("2.0", "2.1"):
        assert found[version].reasons == ("its content is the compromised content",)
        assert found[version].verification.verified
    assert choose(world.model, world.inventory, bad_digests=digests).version == "1.0"


def test_a_bad_manifest_digest_rejects_the_release(world):
    world.publish("1.0")
    digest = judged(world)["1.0"].verification.manifest_sha256
    assert not judged(world, bad_digests=frozenset({digest}))["1.0"].accepted


def test_all_reasons_against_a_version_are_given(world):
    path = world.publish("0.9", name="1.0", model="other")
    (path / "config.json").unlink()
    date(path, HOUR_NS)
    (world.archive / ".last-verified").touch()
    (candidate,) = judged(world).values()
    text = " | ".join(candidate.reasons)
    for words in ("missing: config.json", "expected 'demo'", "expected '1.0'", "verification mark"):
        assert words in text


def test_an_explicit_version_rules_the_others_out_unread(world):
    world.publish("1.1")
    world.publish("1.2")
    found = judged(world, to="1.1")
    assert found["1.1"].accepted
    assert found["1.2"].reasons == ("not the version asked for, 1.1",)
    assert found["1.2"].verification is None
    assert choose(world.model, world.inventory, to="1.1").version == "1.1"
    with pytest.raises(NoKnownGoodError, match="not the version asked for, 9"):
        choose(world.model, world.inventory, to="9")


def test_versions_not_newer_than_the_mark_are_rejected(world):
    mark = world.archive / ".last-verified"
    mark.touch()
    os.utime(mark, ns=(10 * HOUR_NS, 10 * HOUR_NS))
    for version, hour in (("1.1", 9), ("1.2", 10), ("1.3", 11)):
        date(world.publish(version), hour * HOUR_NS)
    found = judged(world)
    assert found["1.3"].accepted
    for version in ("1.1", "1.2"):
        assert found[version].reasons == ("not newer than the last verification mark",)
    assert ".last-verified" not in found


def test_a_person_may_name_a_version_older_than_the_mark(world):
    date(world.publish("1.1"), HOUR_NS)
    (world.archive / ".last-verified").touch()
    assert judged(world, to="1.1")["1.1"].accepted


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_mark_that_is_no_plain_file_rejects_everything(world, kind):
    world.publish("1.1")
    mark = world.archive / ".last-verified"
    mark.symlink_to("/etc/hostname") if kind == "link" else mark.mkdir()
    assert judged(world)["1.1"].reasons == (".last-verified is not a plain file",)


def test_a_flat_manifest_is_accepted_and_says_that_identity_is_unproven(world):
    path = world.publish("1.1")
    file = path / ".signatures" / "manifest.json"
    files = ", ".join(f'"{f.path}": "{f.sha256}"' for f in scan(path).files if f.path[0] != ".")
    file.write_text(f"{{{files}}}")
    sign_manifest(path, world.private)
    candidate = judged(world)["1.1"]
    assert candidate.accepted
    assert "identity unproven" in candidate.reasons[0]


def test_choosing_stops_at_the_first_good_version_and_reports_what_it_saw(world):
    world.publish("1.1")
    world.publish("1.2")
    (world.publish("1.3") / "config.json").unlink()
    seen = []
    assert choose(world.model, world.inventory, judged=seen.append).version == "1.2"
    assert [(c.version, c.accepted) for c in seen] == [("1.3", False), ("1.2", True)]


def test_a_missing_or_unnamed_or_empty_archive_is_an_error(world, tmp_path):
    for archive, words in (
        (None, "firebreak.yaml:3:11: the model has no `archive`"),
        (tmp_path / "nowhere", "cannot be listed"),
        (world.archive, "is empty"),
    ):
        with pytest.raises(NoKnownGoodError, match=words):
            choose(world.with_model(archive=archive), world.inventory)


def test_a_candidate_is_journaled_as_json(attacked):
    row = choose(attacked.model, attacked.inventory).to_json()
    entry = attacked.case().append("test", row)
    assert entry.body["verification"]["verdict"] == "verified"
