"""Baselines: made on purpose, sealed, and compared with what lies there now."""

import base64
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firebreak.checks import manifest
from firebreak.checks.hashing import FileDigest, Problem, Tree, scan
from firebreak.checks.manifest import (
    Baseline,
    baseline_path,
    compare,
    create_baseline,
    load_baseline,
    look,
    save_baseline,
)
from firebreak.detection import detect
from firebreak.errors import BaselineError, ModelPathError, SealError, UnsafeFileError
from firebreak.records import FindingType, Severity
from firebreak.sealing import create_key

T = FindingType
LIMIT = 1 << 16  # bytes of a sealed baseline, in one test


def seen(world) -> list[tuple[FindingType, Severity, str]]:
    """What differs from the baseline of `chat`."""
    baseline = load_baseline(world.inventory, "chat")
    findings = compare(baseline, look(world.inventory.model("chat")))
    assert all(f.subject == "chat" and f.message.isprintable() for f in findings)
    return [(f.type, f.severity, f.evidence["file"]) for f in findings]


def test_an_untouched_model_equals_its_baseline(world):
    """Nothing differs, also after every file was written again with the same content."""
    world.baseline("chat")
    shutil.copytree(world.chat, world.root / "copy")
    shutil.rmtree(world.chat)
    (world.root / "copy").rename(world.chat)
    assert seen(world) == []


def test_a_changed_missing_and_unexpected_file_are_told_apart(world):
    """Changed and missing are critical, unexpected is high; the evidence has both digests."""
    world.baseline("chat")
    weights = world.chat / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[9000] ^= 1
    weights.write_bytes(data)
    (world.chat / "tokenizer" / "vocab.txt").unlink()
    (world.chat / "payload.py").write_text("import os")
    assert seen(world) == [
        (T.TAMPERED, Severity.CRITICAL, "weights.safetensors"),
        (T.MISSING, Severity.CRITICAL, "tokenizer/vocab.txt"),
        (T.UNEXPECTED, Severity.HIGH, "payload.py"),
    ]
    baseline = load_baseline(world.inventory, "chat")
    evidence = compare(baseline, look(world.inventory.model("chat")))[0].evidence
    assert evidence["expected_sha256"] != evidence["actual_sha256"]
    assert evidence["model"] == "chat"


def test_a_file_that_became_a_folder_a_link_or_a_fifo_is_found(world):
    """Something else under the same name is never taken for the file."""
    world.baseline("chat")
    vocab, empty = world.chat / "tokenizer" / "vocab.txt", world.chat / "empty"
    vocab.unlink()
    vocab.mkdir()
    (vocab / "x").write_text("x")
    empty.unlink()
    empty.symlink_to("weights.safetensors")
    (world.chat / "weights.safetensors").rename(world.root / "aside")
    os.mkfifo(world.chat / "weights.safetensors")
    assert seen(world) == [
        (T.TAMPERED, Severity.CRITICAL, "empty"),
        (T.MISSING, Severity.CRITICAL, "tokenizer/vocab.txt"),
        (T.UNEXPECTED, Severity.HIGH, "tokenizer/vocab.txt/x"),
        (T.UNREADABLE, Severity.CRITICAL, "weights.safetensors"),
    ]


def test_a_link_with_the_content_of_the_file_is_still_a_change(world):
    """A plain file whose bytes are a link's text is not that link."""
    (world.chat / "note").write_text("empty")
    world.baseline("chat")
    (world.chat / "note").unlink()
    (world.chat / "note").symlink_to("empty")
    baseline = load_baseline(world.inventory, "chat")
    (found,) = compare(baseline, look(world.inventory.model("chat")))
    assert found.evidence["problem"] == "was a plain file, is a link to empty"


def test_only_signature_files_may_lie_in_the_signature_folder(world):
    """`manifest.sig` is verified elsewhere; `payload.py` beside it, or deeper, is reported."""
    world.baseline("chat")
    folder = world.chat / ".signatures"
    (folder / "deep").mkdir(parents=True)
    for name in ("manifest.json", "manifest.sig", "cosign.pub", "chain.pem", "x.sigstore"):
        (folder / name).write_text("x")
    assert seen(world) == []
    for name in ("payload.py", "manifest.sig.py", ".sig", "manifest.sig\n", "deep/manifest.sig"):
        (folder / name).write_text("x")
    (world.chat / "manifest.sig").write_text("x")
    assert {file for _, _, file in seen(world)} == {
        ".signatures/payload.py",
        ".signatures/manifest.sig.py",
        ".signatures/.sig",
        ".signatures/manifest.sig\n",
        ".signatures/deep/manifest.sig",
        "manifest.sig",
    }


@pytest.mark.parametrize("gone", ["folder", "parent", "a file in the parent's place"])
def test_a_vanished_model_is_all_its_files_missing(world, gone):
    """Deleting everything does not turn the alarm into a configuration error."""
    world.baseline("chat")
    shutil.rmtree(world.chat if gone == "folder" else world.chat.parent)
    if gone.startswith("a file"):
        world.chat.parent.write_text("x")
    assert {kind for kind, _, _ in seen(world)} == {T.MISSING}
    assert len(seen(world)) == 3


def test_a_model_that_is_one_file_has_a_baseline_too(world):
    """The file's own name is the path that is compared."""
    world.file.write_text(world.file.read_text().replace("models/chat", "models/one.gguf"))
    (world.root / "models" / "one.gguf").write_bytes(b"one")
    world.baseline("chat")
    assert seen(world) == []
    (world.root / "models" / "one.gguf").write_bytes(b"two")
    assert seen(world) == [(T.TAMPERED, Severity.CRITICAL, "one.gguf")]


def test_hostile_file_names_are_escaped_in_messages_and_whole_in_evidence(world):
    """A name that clears the screen or forges a line stays one harmless line."""
    world.baseline("chat")
    name = "x\x1b[2J\nclean: nothing differs\t\u202e"
    (world.chat / name).write_text("x")
    assert seen(world) == [(T.UNEXPECTED, Severity.HIGH, name)]


def test_a_known_file_of_a_hostile_name_that_cannot_be_read_is_known(world):
    """The escaped name of the problem is matched with the baseline's own."""
    name = "w\x1b.bin"
    (world.chat / name).write_text("x")
    world.baseline("chat")
    (world.chat / name).unlink()
    os.mkfifo(world.chat / name)
    assert seen(world) == [(T.UNREADABLE, Severity.CRITICAL, r"w\x1b.bin")]


def test_a_baseline_is_not_made_of_what_must_not_be_trusted(world):
    """A FIFO, or a link out of the model: the error names it and no baseline appears."""
    (world.chat / "out").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeFileError, match="'out': is a symbolic link out of the model"):
        world.baseline("chat")
    assert load_baseline(world.inventory, "chat") is None


def test_a_baseline_needs_files_a_person_and_a_reason(world):
    """An empty folder, a blank name or a blank reason is not trust."""
    model = world.inventory.model("chat")
    for by, reason in [("", "release"), ("ana", "  "), (" ", "x")]:
        with pytest.raises(BaselineError, match="needs a person"):
            create_baseline(world.inventory, model, by=by, reason=reason)
    shutil.rmtree(world.chat)
    with pytest.raises(ModelPathError, match=r"firebreak.yaml:6:11: model path '.*chat' cannot be"):
        create_baseline(world.inventory, model, by="ana", reason="release")
    world.chat.mkdir()
    with pytest.raises(BaselineError, match="holds no file"):
        create_baseline(world.inventory, model, by="ana", reason="release")


def test_a_baseline_is_replaced_only_on_purpose_and_the_old_one_kept(world):
    """The first is never overwritten silently; after --replace both can be read."""
    world.baseline("chat")
    with pytest.raises(BaselineError, match="exists already"):
        world.baseline("chat")
    model = world.inventory.model("chat")
    create_baseline(world.inventory, model, by="ben", reason="release 2", replace=True)
    assert load_baseline(world.inventory, "chat").by == "ben"
    kept = [p for p in baseline_path(world.inventory, "chat").parent.iterdir() if "until" in p.name]
    assert len(kept) == 1


def test_odd_text_in_name_and_reason_is_sealed_escaped(world):
    """An argument that is not UTF-8 does not end in a traceback."""
    model = world.inventory.model("chat")
    made = create_baseline(world.inventory, model, by="an\udce9", reason="r\x1b[2J")
    assert (made.by, made.reason) == (r"an\xe9", r"r\x1b[2J")
    assert load_baseline(world.inventory, "chat") == made


def edited(sealed: dict, how: str) -> object:
    payload = json.loads(base64.b64decode(sealed["payload"]))
    if how == "digest":
        payload["files"][0]["sha256"] = "0" * 64
    elif how == "file dropped":
        del payload["files"][0]
    elif how == "other model":
        payload["model"] = "fraud"
    elif how == "no signature":
        return {**sealed, "signatures": []}
    elif how == "no envelope":
        return payload
    elif how == "a list":
        return [sealed]
    elif how == "type":
        return {**sealed, "payloadType": "application/json"}
    return {**sealed, "payload": base64.b64encode(json.dumps(payload).encode()).decode()}


@pytest.mark.parametrize(
    "how",
    ["digest", "file dropped", "other model", "no signature", "no envelope", "a list", "type"],
)
def test_an_edited_baseline_is_refused(world, how):
    """Whoever may write the file still cannot say what the model was."""
    world.baseline("chat")
    place = baseline_path(world.inventory, "chat")
    place.write_text(json.dumps(edited(json.loads(place.read_text()), how)))
    with pytest.raises(SealError, match=str(place)):
        load_baseline(world.inventory, "chat")


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000, b"null"])
def test_a_damaged_baseline_file_is_refused(world, raw):
    """Cut, foreign or absurd bytes are one clear error with the path."""
    world.baseline("chat")
    baseline_path(world.inventory, "chat").write_bytes(raw)
    with pytest.raises(SealError, match=r"chat\.dsse\.json"):
        load_baseline(world.inventory, "chat")


def put_in_place(place: Path, how: str) -> None:
    """Something else in a baseline's place."""
    content = place.read_bytes()
    place.unlink()
    if how == "fifo":
        os.mkfifo(place)
    elif how == "folder":
        place.mkdir()
    elif how == "link":
        place.with_name("real").write_bytes(content)
        place.symlink_to("real")
    else:
        with place.open("wb") as stream:
            stream.truncate(LIMIT + 1)


@pytest.mark.parametrize("how", ["fifo", "folder", "link", "too large"])
def test_what_is_no_plain_file_in_a_baselines_place_is_refused_and_can_be_replaced(
    world, how, monkeypatch
):
    """Detection goes on with a finding instead of hanging; --replace moves the thing aside."""
    monkeypatch.setattr(manifest, "MAX_SEALED_BYTES", LIMIT)
    world.baseline("chat")
    place = baseline_path(world.inventory, "chat")
    put_in_place(place, how)
    with pytest.raises(SealError, match=r"chat\.dsse\.json: cannot be read"):
        load_baseline(world.inventory, "chat")
    (found,) = detect(world.inventory, ["chat"]).findings
    assert (found.type, found.severity) == (T.BASELINE_INVALID, Severity.CRITICAL)
    model = world.inventory.model("chat")
    made = create_baseline(world.inventory, model, by="ana", reason="again", replace=True)
    assert load_baseline(world.inventory, "chat") == made


def test_the_baseline_of_another_model_is_refused(world):
    """A validly sealed baseline in the wrong place is not this model's."""
    world.baseline()
    shutil.copy(baseline_path(world.inventory, "fraud"), baseline_path(world.inventory, "chat"))
    with pytest.raises(SealError, match="is the baseline of 'fraud', not 'chat'"):
        load_baseline(world.inventory, "chat")


def test_a_baseline_of_another_installation_is_refused(world):
    """The key changed: what the old one sealed is not trusted."""
    world.baseline("chat")
    shutil.rmtree(world.inventory.evidence_key.parent)
    create_key(world.inventory.evidence_key)
    with pytest.raises(SealError, match="no valid signature"):
        load_baseline(world.inventory, "chat")


DIGESTS = st.lists(
    st.builds(
        FileDigest,
        path=st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=20),
        size=st.integers(0, 2**53 - 1),
        sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
        link=st.none() | st.text(st.characters(blacklist_categories=("Cs",)), max_size=9),
    ),
    max_size=6,
    unique_by=lambda f: f.path,
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(files=DIGESTS)
def test_baselines_survive_sealing_and_json(world, files):
    """What was sealed is what is read, for any names, sizes and links."""
    made = Baseline("chat", "1.0", "2026-01-02T03:04:05.000Z", "ana", "why", tuple(files))
    save_baseline(world.inventory, made)
    assert load_baseline(world.inventory, "chat") == made


@settings(max_examples=100, deadline=None)
@given(DIGESTS, DIGESTS)
def test_every_difference_is_a_finding_and_equality_is_none(old, new):
    """Changed, missing and unexpected files together are exactly the difference of the two sets."""
    baseline = Baseline("m", "1", "2026-01-02T03:04:05.000Z", "a", "r", tuple(old))
    before, after = {f.path: f for f in old}, {f.path: f for f in new}
    paths = before.keys() | after.keys()
    differing = {p for p in paths if before.get(p) != after.get(p)}
    findings = compare(baseline, Tree(tuple(new)))
    assert sorted(f.evidence["file"] for f in findings) == sorted(differing)


def test_nothing_is_written_into_the_model(world):
    """The model folder is evidence: baselines, keys and journals lie elsewhere."""
    before = scan(world.chat)
    world.baseline("chat")
    seen(world)
    assert scan(world.chat) == before
    assert Path(os.path.commonpath([world.chat, baseline_path(world.inventory, "chat")])) == (
        world.root
    )


def test_problems_never_make_a_comparison_clean():
    """A tree that could not be read at all is findings, not silence."""
    baseline = Baseline("m", "1", "t", "a", "r", (FileDigest("w", 1, "0" * 64),))
    findings = compare(baseline, Tree((), (Problem("/m", "is a FIFO"),)))
    assert {f.type for f in findings} == {T.MISSING, T.UNEXPECTED}
