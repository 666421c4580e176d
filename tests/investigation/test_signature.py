"""A signature that is missing, forged, of other files or unproven is a finding; a good one none."""

from pathlib import Path

import pytest

from firebreak.incidents.case import Case
from firebreak.inventory import Model
from firebreak.investigation.report import build_report
from firebreak.investigation.signature import check_signature, has_bundle
from firebreak.records import Finding, FindingType, Severity
from firebreak.recovery.signing import generate_keypair, sign_manifest, write_manifest

BUNDLE = '{"mediaType": "x", "dsseEnvelope": {}}'


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A release of the model `fraud`, signed with `keys/cosign.key`."""
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "w.safetensors").write_bytes(b"weights")
    private, _ = generate_keypair(tmp_path / "keys")
    write_manifest(folder, "fraud", "2.1")
    sign_manifest(folder, private)
    return Model("fraud", folder, "x", version="2.0")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The publisher's public key."""
    return tmp_path / "keys" / "cosign.pub"


def only(found: list[Finding]) -> Finding:
    """The one finding there is, whose evidence always says how to go on."""
    (one,) = found
    assert {"verdict", "detail", "next_step", "files", "path", "problem"} <= set(one.evidence)
    return one


def test_a_signature_that_holds_is_no_finding_in_whatever_version(model: Model, key: Path) -> None:
    """After a rollback the inventory still names the newer version."""
    assert check_signature(model, key) == []


def test_a_signature_of_any_bytes_is_not_a_signature(model: Model, key: Path) -> None:
    """What was taken for signed before: a file that is not empty."""
    (model.path / ".signatures" / "manifest.sig").write_text("c2ln")
    found = only(check_signature(model, key))
    assert (found.type, found.severity) == (FindingType.SIGNATURE_INVALID, Severity.CRITICAL)
    assert found.evidence["verdict"] == "untrusted_signer"
    assert found.evidence["next_step"] in found.message


def test_a_signature_of_another_key_is_critical(model: Model, tmp_path: Path) -> None:
    """The attacker signed what they changed."""
    _, other = generate_keypair(tmp_path / "other")
    found = only(check_signature(model, other))
    assert (found.evidence["verdict"], found.severity) == ("untrusted_signer", Severity.CRITICAL)


def test_files_that_are_not_the_signed_ones_are_named(model: Model, key: Path) -> None:
    """Changed and added alike, and the same look again is the same observation."""
    (model.path / "w.safetensors").write_bytes(b"WEIGHTS")
    (model.path / "extra.bin").write_bytes(b"x")
    found = only(check_signature(model, key))
    assert (found.evidence["verdict"], found.severity) == ("tampered", Severity.CRITICAL)
    assert found.evidence["files"]["modified"] == ["w.safetensors"]
    assert found.evidence["files"]["extra"] == ["extra.bin"]
    assert only(check_signature(model, key)).key == found.key


def test_a_release_of_another_model_is_critical(model: Model, key: Path) -> None:
    """A genuine signature, put in the wrong place."""
    found = only(check_signature(Model("chat", model.path, "x"), key))
    assert (found.type, found.evidence["verdict"]) == (
        FindingType.SIGNATURE_INVALID,
        "wrong_identity",
    )
    assert (found.severity, found.subject) == (Severity.CRITICAL, "chat")


@pytest.mark.parametrize("name", ["manifest.sig", "manifest.json"])
@pytest.mark.parametrize("configured", [True, False])
def test_a_removed_signature_is_unsigned(
    model: Model, key: Path, name: str, configured: bool
) -> None:
    """Half of it does not sign anything, with or without a key to verify it."""
    (model.path / ".signatures" / name).unlink()
    found = only(check_signature(model, key if configured else None))
    assert (found.type, found.severity) == (FindingType.UNSIGNED, Severity.CRITICAL)


def test_a_signature_nobody_can_verify_is_unproven(model: Model, tmp_path: Path) -> None:
    """No key, an unusable key, a signature that cannot be read: medium, never silence."""
    (tmp_path / "bad.pub").write_text("no key")
    missing = Model("fraud", tmp_path / "nothing", "x")
    cases = [(model, None), (model, tmp_path / "none.pub"), (model, tmp_path / "bad.pub")]
    for one, with_key in [*cases, (missing, None)]:
        found = only(check_signature(one, with_key))
        assert (found.type, found.severity) == (FindingType.SIGNATURE_INVALID, Severity.MEDIUM)
        assert found.message.startswith("unproven: ")


def test_a_bundle_that_is_not_verified_is_unproven(tmp_path: Path, key: Path) -> None:
    """Empty or foreign .sig files are no signature; an OMS bundle is one that nobody proved."""
    model = Model("m", tmp_path / "m", "x")
    model.path.mkdir()
    (model.path / "w.safetensors").write_bytes(b"weights")
    (model.path / "model.sig").write_bytes(b"")
    assert only(check_signature(model, key)).type is FindingType.UNSIGNED
    (model.path / "model.sig").write_text(BUNDLE)
    found = only(check_signature(model, key))
    assert (found.type, found.severity) == (FindingType.SIGNATURE_INVALID, Severity.MEDIUM)
    assert "does not verify" in found.message
    assert has_bundle(model.path / "w.safetensors")


def test_a_model_of_one_file_has_only_the_bundle_beside_it(tmp_path: Path) -> None:
    """A neighbour's bundle says nothing about it."""
    file = tmp_path / "fraud.bin"
    file.write_bytes(b"weights")
    (tmp_path / "chat.sig").write_text(BUNDLE)
    assert only(check_signature(Model("m", file, "x"), None)).type is FindingType.UNSIGNED
    (tmp_path / "fraud.sig").write_text(BUNDLE)
    found = only(check_signature(Model("m", file, "x"), None))
    assert found.type is FindingType.SIGNATURE_INVALID


def test_the_report_lists_an_unproven_signature_as_not_proven(case: Case, model: Model) -> None:
    """Where a reader looks for what nobody could prove."""
    case.add_findings(check_signature(model, None))
    section = build_report(case).markdown.partition("## What could not be proven")[2]
    assert "no public key is configured" in section.partition("\n## ")[0]
