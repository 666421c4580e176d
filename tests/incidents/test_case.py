"""A case: actions done once whatever crashes, findings once whoever sees them, sealed heads."""

import threading

import pytest

from firebreak.errors import ContainmentError, KeyFileError, UnknownIncidentError
from firebreak.incidents import case as case_module
from firebreak.incidents.case import Case, open_case, open_sealer, working_on
from firebreak.incidents.store import Store
from small_world import SmallWorld, tampered


class Crash(BaseException):
    """The process dies here."""


class World:
    """Something to act on, with an idempotent action."""

    def __init__(self) -> None:
        self.done = self.calls = 0
        self.crash = ""

    def act(self) -> dict:
        self.calls += 1
        if self.crash == "before":
            raise Crash
        if not self.done:
            self.done += 1
        if self.crash == "after":
            raise Crash
        return {"was": "running"}


def kinds(case: Case) -> list[str]:
    return [e.kind for e in case.entries()]


def reopened(world: SmallWorld, case: Case) -> Case:
    """The case in another process."""
    return open_case(case.id, world.inventory)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_action_that_crashed_is_reconciled_and_done_once(world, when):
    """Dead in the middle of the action: the next process finishes it, and it happens once."""
    case, outside = world.incident(), World()
    outside.crash = when
    with pytest.raises(Crash):
        case.perform("stop", "process:1", outside.act)
    assert kinds(case)[-1] == "action.started"
    outside.crash = ""
    assert reopened(world, case).perform("stop", "process:1", outside.act) == {"was": "running"}
    assert outside.done == 1
    assert kinds(case)[1:] == ["action.started", "action.reconciled", "action.finished"]


@pytest.mark.parametrize("kind", ["action.started", "action.finished"])
@pytest.mark.parametrize("written", [False, True])
def test_a_crash_around_each_journal_entry_is_survived(world, monkeypatch, kind, written):
    """Dead before or just after an entry was written: the action still happens exactly once."""
    case, outside, append = world.incident(), World(), Case.append

    def dying(self, entry_kind, body, actor=None):
        if entry_kind == kind:
            if written:
                append(self, entry_kind, body, actor)
            raise Crash
        return append(self, entry_kind, body, actor)

    monkeypatch.setattr(Case, "append", dying)
    with pytest.raises(Crash):
        case.perform("stop", "process:1", outside.act)
    monkeypatch.setattr(Case, "append", append)
    again = reopened(world, case)
    assert again.perform("stop", "process:1", outside.act) == {"was": "running"}
    assert outside.done == 1
    assert kinds(case).count("action.started") == 1
    assert kinds(case).count("action.finished") == 1


def test_a_finished_action_is_not_repeated(world):
    """The receipt comes from the journal; nothing acts and nothing is written."""
    case, outside = world.incident(), World()
    first = case.perform("stop", "process:1", outside.act)
    length = len(case.entries())
    assert reopened(world, case).perform("stop", "process:1", outside.act) == first
    assert (outside.calls, len(case.entries())) == (1, length)


def test_step_action_and_target_are_what_an_action_is(world):
    """Another step, action or target is another action."""
    case, outside = world.incident(), World()
    for step, action, target in [
        ("a", "x", "1"),
        ("b", "x", "1"),
        ("b", "y", "1"),
        ("b", "y", "2"),
    ]:
        with working_on(step):
            case.perform(action, target, outside.act)
    assert outside.calls == 4


def test_a_failed_action_is_journaled_and_may_be_tried_again(world):
    """The exception goes on to the caller, the journal says what happened, a retry reconciles."""
    case, outside = world.incident(), World()

    def failing() -> dict:
        raise ContainmentError("process:1", "does not exist")

    with pytest.raises(ContainmentError):
        case.perform("stop", "process:1", failing, {"destroys": ["memory"]})
    failed = case.entries()[-1]
    assert failed.kind == "action.failed"
    assert failed.body["error"] == "ContainmentError: process:1: does not exist"
    assert case.entries()[-2].body["plan"] == {"destroys": ["memory"]}
    case.perform("stop", "process:1", outside.act)
    assert kinds(case)[-2:] == ["action.reconciled", "action.finished"]


def test_an_error_with_a_secret_or_broken_text_is_journaled_safely(world):
    """The failure is on record, the password is not, and no byte can keep it from being written."""
    case = world.incident()

    def failing() -> dict:
        raise OSError("w\udcff: https://robot:hunter2@hub/x refused\x1b[2J")

    with pytest.raises(OSError, match="refused"):
        case.perform("pull", "hub", failing)
    error = case.entries()[-1].body["error"]
    assert "hunter2" not in error
    assert error.isprintable()


def test_findings_are_journaled_once(world):
    """Seen again they add nothing; a new one among known ones is added."""
    case = world.incident()
    other = tampered({"file": "weights.safetensors", "actual_sha256": "cd" * 32})
    assert [f.key for f in case.add_findings([tampered(), tampered()])] == [tampered().key]
    assert [f.key for f in case.add_findings([tampered(), other])] == [other.key]
    assert kinds(case).count("finding.added") == 2


def test_two_detectors_that_see_the_same_at_once_journal_it_once(world):
    """Four threads with their own stores, forty findings each: forty in the journal."""
    case = world.incident()
    seen = [tampered({"file": f"f{n}", "actual_sha256": "ab" * 32}) for n in range(40)]
    barrier, added = threading.Barrier(4), []

    def detect() -> None:
        own = open_case(case.id, world.inventory)
        barrier.wait()
        added.extend(own.add_findings(seen))

    threads = [threading.Thread(target=detect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [e.body["key"] for e in case.entries() if e.kind == "finding.added"]
    assert sorted(keys) == sorted(f.key for f in seen)
    assert len(added) == 40


def test_heads_are_sealed_as_the_journal_grows(world, monkeypatch):
    """Every so many entries a checkpoint seals the head with the installation's key."""
    monkeypatch.setattr(case_module, "CHECKPOINT_EVERY", 5)
    case = world.incident()
    for n in range(12):
        case.append("note", {"n": n})
    sealed = [e for e in case.entries() if e.kind == "journal.checkpoint"]
    assert len(sealed) >= 2
    record = case.sealer().open("checkpoint", sealed[0].body, "here")
    assert record == {
        "incident": case.id,
        "seq": sealed[0].seq - 1,
        "head": case.entries()[sealed[0].seq - 1].hash,
    }


def test_evidence_says_who_what_when_where(world):
    """The blob is stored, and the journal has its digest, size, source and step."""
    case = world.incident()
    with working_on("assess"):
        digest = case.add_evidence("processes", "p.json", {"pid": 1}, "/proc", note="partial")
    body = case.entries()[-1].body
    assert case.blobs.get(digest) == b'{"pid":1}'
    assert (body["sha256"], body["size"], body["step"], body["note"]) == (
        digest,
        9,
        "assess",
        "partial",
    )
    assert case.add_evidence("logs", "l", [b"a", b"b"], "/log", "text/plain")
    assert case.add_evidence("logs", "none", [], "/log") == case.add_evidence(
        "logs", "none", b"[]", "/log"
    )


def test_an_unknown_incident_does_not_open(world):
    """A case always has a journal behind it."""
    Store(world.inventory.database_url)
    with pytest.raises(UnknownIncidentError):
        open_case("INC-0", world.inventory)


def test_findings_are_followed_by_a_sealed_head(world):
    """What opened the incident and what was found is under seal; nothing new adds nothing."""
    case = world.incident()
    case.add_findings([tampered()])
    assert [e.kind for e in case.entries()] == [
        "incident.opened",
        "finding.added",
        "journal.checkpoint",
    ]
    assert case.add_findings([tampered()]) == []
    assert len(case.entries()) == 3


def test_opening_alone_is_sealed_by_the_next_look(world):
    """A detector that died between opening and its findings leaves nothing unsealed for ever."""
    case = world.incident()
    assert case.add_findings([]) == []
    assert case.entries()[-1].kind == "journal.checkpoint"


@pytest.mark.parametrize("trace", ["public key", "baseline", "sealed incident"])
def test_an_evidence_key_that_is_gone_is_not_replaced_in_silence(world, trace):
    """A new key would call all that the old one sealed a forgery, or hide that it was."""
    key = world.inventory.evidence_key
    if trace == "baseline":
        world.baseline("chat")
    elif trace == "sealed incident":
        world.incident().checkpoint()
    else:
        open_sealer(world.inventory)
    kept = key.read_bytes()
    key.unlink()
    if trace != "public key":
        key.with_suffix(".pub").unlink()
    with pytest.raises(KeyFileError, match="the evidence key is gone; restore it from a backup"):
        open_sealer(world.inventory)
    assert not key.exists()
    key.write_bytes(kept)
    assert open_sealer(world.inventory).key_id


def test_an_incident_opened_before_there_was_a_key_does_not_keep_it_from_being_made(world):
    """The first check of a new installation opens an incident and then seals it."""
    case = world.incident()
    case.append("note", {})
    assert case.checkpoint().kind == "journal.checkpoint"
    assert (world.inventory.home / "keys" / "evidence.pub").is_file()


def test_asking_for_the_key_makes_no_database(world):
    """`firebreak init` makes a key, and the store is made by the first incident."""
    open_sealer(world.inventory)
    assert not (world.inventory.home / "firebreak.db").exists()
