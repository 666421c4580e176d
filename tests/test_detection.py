"""A full check: what is found, what becomes of it, and that one broken model blinds no other."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from firebreak import detection
from firebreak.baselines import adopt
from firebreak.checks.manifest import baseline_path, create_baseline
from firebreak.detection import check_all, detect
from firebreak.errors import (
    BaselineError,
    JournalCorruptError,
    ModelPathError,
    SourceError,
    UnknownModelError,
)
from firebreak.incidents.case import open_case
from firebreak.incidents.store import Store
from firebreak.incidents.view import view
from firebreak.records import FindingType, IncidentStatus, Severity
from firebreak.recovery.signing import generate_keypair, sign_manifest, write_manifest
from small_world import SmallWorld, make_world

T = FindingType


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
    """Two models, no baseline yet."""
    for name in [n for n in os.environ if n.startswith("FIREBREAK_")]:
        monkeypatch.delenv(name)
    return make_world(tmp_path)


def tamper(folder: Path, text: str = "evil") -> None:
    (folder / "weights.safetensors").write_text(text)


def journal(world: SmallWorld, subject: str = "chat") -> list[str]:
    """Kinds of the entries of the subject's open incident."""
    incident = Store(world.inventory.database_url).open_incident_of(subject)
    return [e.kind for e in open_case(incident, world.inventory).entries()]


def test_a_first_run_trusts_nothing_and_says_so(world):
    """A model without a baseline is a finding, and no baseline appears by itself."""
    summary = detect(world.inventory)
    assert [(f.type, f.severity) for f in summary.findings] == [
        (T.NO_BASELINE, Severity.MEDIUM)
    ] * 2
    assert "firebreak baseline create chat" in summary.findings[0].message
    assert not baseline_path(world.inventory, "chat").exists()


def test_a_clean_check_opens_nothing(world):
    """The summary says what was checked, and that there is no incident."""
    world.baseline()
    summary = detect(world.inventory).to_json()
    assert summary["models"] == ["chat", "fraud"]
    assert (summary["total_findings"], summary["critical_findings"]) == (0, 0)
    assert summary["incident_detected"] is False
    assert Store(world.inventory.database_url).incidents() == []


def test_the_same_finding_twice_neither_opens_nor_extends(world):
    """The second look adds nothing to the journal and alerts nobody."""
    world.baseline()
    tamper(world.chat)
    alerts: list[object] = []
    first = detect(world.inventory, on_critical=alerts.append)
    length = len(journal(world))
    second = detect(world.inventory, on_critical=alerts.append)
    assert (first.recorded[0].opened, second.recorded[0].opened) == (True, False)
    assert second.findings
    assert second.recorded[0].new == ()
    assert second.recorded[0].incident == first.recorded[0].incident
    assert (len(journal(world)), len(alerts)) == (length, 1)


def test_a_file_changed_again_extends_the_incident(world):
    """Another digest is news, in the same incident."""
    world.baseline()
    tamper(world.chat)
    first = detect(world.inventory)
    tamper(world.chat, "worse")
    second = detect(world.inventory)
    assert second.recorded[0].incident == first.recorded[0].incident
    assert len(second.recorded[0].new) == 1
    assert len(Store(world.inventory.database_url).incidents()) == 1


def test_two_models_are_two_incidents(world):
    """Each is handled, approved and restored by itself."""
    world.baseline()
    tamper(world.chat)
    tamper(world.fraud)
    recorded = detect(world.inventory).recorded
    assert [r.subject for r in recorded] == ["chat", "fraud"]
    assert len({r.incident for r in recorded}) == 2


def test_only_the_asked_models_are_checked(world):
    """An id that is not listed is refused before anything is done."""
    world.baseline()
    tamper(world.fraud)
    assert detect(world.inventory, ["chat"]).findings == ()
    with pytest.raises(UnknownModelError, match="the inventory lists: chat, fraud"):
        detect(world.inventory, ["chat", "nosuch"])


def test_a_vanished_model_is_missing_files_and_not_a_configuration_error(world):
    """With a baseline, deleting everything is an attack that opens an incident."""
    world.baseline()
    shutil.rmtree(world.chat)
    summary = detect(world.inventory)
    assert {f.type for f in summary.findings} == {T.MISSING}
    assert summary.recorded[0].subject == "chat"


def test_a_path_that_never_was_is_an_error_at_its_place_in_the_inventory(world):
    """Without a baseline there is nothing to compare: file, line and column of the path."""
    world.baseline("fraud")
    shutil.rmtree(world.chat)
    with pytest.raises(ModelPathError) as caught:
        detect(world.inventory)
    assert str(caught.value) == (f"{world.file}:6:11: model path '{world.chat}' does not exist")


def test_one_broken_model_does_not_blind_the_watch_on_the_others(world):
    """What else was found is recorded and alerted before the error is raised, and noted in it."""
    world.baseline("fraud")
    shutil.rmtree(world.chat)
    tamper(world.fraud)
    alerts: list[object] = []
    with pytest.raises(ModelPathError) as caught:
        detect(world.inventory, on_critical=alerts.append)
    assert len(alerts) == 1
    incident = Store(world.inventory.database_url).open_incident_of("fraud")
    assert caught.value.__notes__ == [f"1 new findings in {incident}, fraud"]


def test_a_broken_drift_baseline_does_not_hide_changed_weights(world):
    """Two checks of one model fail independently."""
    text = world.file.read_text().replace(
        "    critical: true\n", "    behavior: {outputs: o.jsonl, baseline_file: absent.json}\n"
    )
    world.file.write_text(text)
    world.baseline()
    tamper(world.chat)
    with pytest.raises(SourceError, match=r"absent.json: cannot be read"):
        detect(world.inventory)
    assert "finding.added" in journal(world)


def test_a_corrupted_journal_of_one_incident_does_not_stop_another(world):
    """Damaging one record must not be a way to keep other findings from being recorded."""
    world.baseline()
    tamper(world.chat)
    detect(world.inventory)
    with sqlite3.connect(world.inventory.home / "firebreak.db") as db:
        db.execute("update entries set entry = '{' where seq = 1")
    tamper(world.fraud)
    with pytest.raises(JournalCorruptError, match="entry 1"):
        detect(world.inventory)
    assert journal(world, "fraud").count("finding.added") == 1


@pytest.mark.parametrize("damage", ["edited", "cut", "another model's"])
def test_a_baseline_that_cannot_be_trusted_is_a_critical_finding(world, damage):
    """Whoever may write the baseline cannot make the model look clean."""
    world.baseline()
    place = baseline_path(world.inventory, "chat")
    if damage == "edited":
        sealed = json.loads(place.read_text())
        sealed["payload"] = "AA" + sealed["payload"][2:]
        place.write_text(json.dumps(sealed))
    elif damage == "cut":
        place.write_bytes(place.read_bytes()[:-10])
    else:
        shutil.copy(baseline_path(world.inventory, "fraud"), place)
    summary = detect(world.inventory)
    assert [(f.type, f.severity) for f in summary.findings] == [
        (T.BASELINE_INVALID, Severity.CRITICAL)
    ]
    assert detect(world.inventory).recorded[0].new == ()


def test_changed_packages_are_an_incident_about_the_environment(world):
    """Checked with everything, not when single models are asked for."""
    world.baseline()
    world.file.write_text(world.file.read_text() + 'dependencies: {RFC8785: "0.0.1"}\n')
    summary = detect(world.inventory)
    assert [f.type for f in summary.findings] == [T.DEPENDENCY_CHANGED]
    assert summary.recorded[0].subject == "environment"
    assert detect(world.inventory, ["chat"]).findings == ()


def test_drift_opens_an_incident_and_unknown_behaviour_alone_does_not(world):
    """A missing output file is reported, but nobody is called for it."""
    text = world.file.read_text().replace(
        "    critical: true\n",
        "    behavior: {outputs: o.jsonl, baseline: {good: 0.9, bad: 0.1}}\n",
    )
    world.file.write_text(text)
    world.baseline()
    summary = detect(world.inventory)
    assert [f.type for f in summary.findings] == [T.DRIFT_UNKNOWN]
    assert summary.recorded == ()
    (world.root / "o.jsonl").write_text('{"label": "bad"}\n' * 20)
    summary = detect(world.inventory)
    assert [(f.type, f.severity) for f in summary.findings] == [(T.DRIFT, Severity.HIGH)]
    assert summary.recorded[0].opened


def test_a_baseline_made_on_purpose_closes_an_incident_that_only_missed_it(world):
    """It is noted who made it and why; an incident about more than that stays open."""
    detect(world.inventory)
    incident = Store(world.inventory.database_url).open_incident_of("chat")
    adopt(world.inventory, world.inventory.model("chat"), by="ana", reason="release 1.0")
    entries = open_case(incident, world.inventory).entries()
    assert [e.kind for e in entries[-2:]] == ["baseline.created", "incident.closed"]
    assert view(entries).status is IncidentStatus.CLOSED
    assert Store(world.inventory.database_url).open_incident_of("chat") is None
    tamper(world.chat)
    detect(world.inventory, ["chat"])
    with pytest.raises(BaselineError, match="is open about these files"):
        adopt(world.inventory, world.inventory.model("chat"), by="ana", reason="x", replace=True)


def test_progress_is_told_while_hashing(world):
    """A caller can draw a bar over all bytes of all models."""
    world.baseline()
    seen: list[int] = []
    detect(world.inventory, progress=seen.append)
    assert sum(seen) == sum(p.stat().st_size for p in world.root.glob("models/**/*") if p.is_file())


def test_a_baseline_that_changes_during_a_check_makes_it_start_anew(world, monkeypatch):
    """A rollback put another version and its baseline in place: what was seen fits neither."""
    world.baseline()
    looked = []
    real = detection.look

    def slow_look(model, **options):
        tree = real(model, **options)
        if model.id == "chat" and not looked:
            looked.append(tree)
            tamper(world.chat, "release 2")
            adopt(world.inventory, model, by="ana", reason="release 2", replace=True)
            return real(model, **options)  # the new files, held against the old baseline
        return tree

    monkeypatch.setattr(detection, "look", slow_look)
    summary = detect(world.inventory)
    assert looked
    assert summary.findings == ()
    assert Store(world.inventory.database_url).incidents() == []


def test_findings_that_cannot_be_recorded_are_returned_beside_the_error(world):
    """A damaged journal of the model's own incident keeps no new finding from its readers."""
    world.baseline()
    tamper(world.chat)
    detect(world.inventory)
    with sqlite3.connect(world.inventory.home / "firebreak.db") as db:
        db.execute("update entries set entry = '{' where seq = 1")
    tamper(world.chat, "worse")
    summary = check_all(world.inventory)
    assert [f.type for f in summary.unrecorded] == [T.TAMPERED]
    assert [type(e) for e in summary.errors] == [JournalCorruptError]
    alerted: list[object] = []
    with pytest.raises(JournalCorruptError):
        detect(world.inventory, on_critical=alerted.append)
    assert len(alerted) == 1


@pytest.fixture
def signed(world: SmallWorld) -> SmallWorld:
    """The model `chat` is signed and has a baseline; its key is configured."""
    private, public = generate_keypair(world.root / "publisher")
    world.file.write_text(world.file.read_text() + f"keys: {{cosign: {public}}}\n")
    write_manifest(world.chat, "chat", "1.0")
    sign_manifest(world.chat, private)
    world.baseline()
    return world


def signature_finding(world: SmallWorld):
    """The only finding about `chat`, which another look does not repeat."""
    summary = detect(world.inventory, ["chat"])
    (found,) = summary.findings
    assert found.type is T.SIGNATURE_INVALID
    assert detect(world.inventory, ["chat"]).recorded[0].new == ()
    return found


def test_a_good_signature_and_an_unsigned_model_are_no_findings(signed):
    """`chat` verifies; `fraud` carries no signature and is left alone."""
    assert detect(signed.inventory).findings == ()


@pytest.mark.parametrize("gone", ["manifest.json", "manifest.sig"])
def test_a_removed_signature_is_critical(signed, gone):
    """One of manifest and signature without the other."""
    (signed.chat / ".signatures" / gone).unlink()
    found = signature_finding(signed)
    assert found.severity is Severity.CRITICAL
    assert "signature removed" in found.message


def test_a_manifest_altered_after_signing_is_critical(signed):
    """The files are untouched; each alteration is news once."""
    manifest = signed.chat / ".signatures" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    found = signature_finding(signed)
    assert (found.severity, found.evidence["verdict"]) == (Severity.CRITICAL, "untrusted_signer")
    manifest.write_bytes(manifest.read_bytes() + b" ")
    assert len(detect(signed.inventory, ["chat"]).recorded[0].new) == 1


@pytest.mark.parametrize(
    ("model", "version", "problem"),
    [("other", "1.0", "names model 'other'"), ("chat", "0.9", "names version '0.9'")],
)
def test_a_signature_of_another_model_or_version_is_critical(signed, model, version, problem):
    """The publisher did sign it, but not as this."""
    write_manifest(signed.chat, model, version)
    sign_manifest(signed.chat, signed.root / "publisher" / "cosign.key")
    found = signature_finding(signed)
    assert (found.severity, found.evidence["verdict"]) == (Severity.CRITICAL, "wrong_identity")
    assert problem in found.message


def test_files_that_agree_with_the_baseline_but_not_with_the_signature_are_critical(signed):
    """Somebody made a baseline of altered files."""
    tamper(signed.chat)
    create_baseline(
        signed.inventory, signed.inventory.model("chat"), by="ana", reason="x", replace=True
    )
    assert signature_finding(signed).evidence["verdict"] == "tampered"


def test_changed_files_are_one_finding_and_not_a_second_about_their_signature(signed):
    """The difference from the baseline says it already."""
    tamper(signed.chat)
    assert [f.type for f in detect(signed.inventory).findings] == [T.TAMPERED]


def test_a_signature_that_cannot_be_checked_is_a_high_finding(signed):
    """Unknown is not fine: the key is gone."""
    (signed.root / "publisher" / "cosign.pub").unlink()
    found = signature_finding(signed)
    assert (found.severity, found.evidence["verdict"]) == (Severity.HIGH, "unverifiable")


def test_a_forged_signature_is_found_without_a_baseline_too(signed):
    """It needs nothing but the key."""
    baseline_path(signed.inventory, "chat").unlink()
    (signed.chat / ".signatures" / "manifest.sig").write_text("AAAA")
    types = [f.type for f in detect(signed.inventory, ["chat"]).findings]
    assert types == [T.NO_BASELINE, T.SIGNATURE_INVALID]
