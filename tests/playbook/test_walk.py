"""The walk over a real journal: order, people, crashes at every entry, and two at once."""

import fcntl
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from firebreak.errors import NoKnownGoodError, PlaybookChangedError, ResponderBusyError
from firebreak.incidents.blobs import Blobs
from firebreak.incidents.case import Case, working_on
from firebreak.incidents.journal import Entry, verify_chain
from firebreak.incidents.store import Store
from firebreak.incidents.view import view
from firebreak.playbook import gates
from firebreak.playbook import walk as walk_module
from firebreak.playbook.engine import Status, StepStatus
from firebreak.playbook.gates import Answer
from firebreak.playbook.schema import Playbook, Step, load_playbook
from firebreak.records import IncidentStatus, Json, Severity
from firebreak.response import reopen
from playbook_cases import (
    SMALL,
    TAMPERED,
    Response,
    another,
    bodies,
    finding,
    kinds,
    make_case,
    playbook,
    saying,
)

ALL = ["assess", "isolate", "alert", "find-out", "stop", "update", "rollback", "report"]


class Killed(BaseException):
    """The process is gone: nothing catches it."""


@pytest.fixture
def response(case: Case) -> Response:
    """The shipped playbook over a critical incident; everybody approves."""
    return Response(case, load_playbook(TAMPERED), answers=saying())


@pytest.fixture
def small(case: Case, tmp_path: Path) -> Response:
    """Look, ask, act; everybody approves."""
    return Response(case, playbook(tmp_path), answers=saying())


@contextmanager
def dying_at(number: int, *, committed: bool) -> Iterator[list[int]]:
    """Kill the process at the n-th append from now, before or after it is durable."""
    real, count = Store.append, [0]

    def append(self: Store, *args: object, **more: object) -> Entry:
        count[0] += 1
        if count[0] == number and not committed:
            raise Killed
        entry: Entry = real(self, *args, **more)  # type: ignore[arg-type]
        if count[0] == number:
            raise Killed
        return entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "append", append)
        yield count


def verified(case: Case) -> bool:
    """Whether the whole chain verifies as another process reads it."""
    return len(list(verify_chain(case.id, another(case).store.entries(case.id)))) > 0


def test_the_playbook_runs_to_its_end(response: Response) -> None:
    """Every step once, in an order that keeps evidence first and words after the cut."""
    state = response.walk()
    assert (state.status, response.effects) == (Status.COMPLETED, ALL)
    assert [a[0] for a in response.asked] == ["stop-approval", "rollback-approval"]
    assert view(response.case.entries()).status is IncidentStatus.RECOVERED
    assert response.case.store.open_incident_of("fraud") is None
    assert kinds(response.case)[-2:] == ["response.ended", "journal.checkpoint"]
    assert verified(response.case)


def test_evidence_is_captured_before_anything_acts(response: Response) -> None:
    """The first step that starts is triage, and its evidence precedes every other action."""
    response.walk()
    entries = response.case.entries()
    evidence = next(e.seq for e in entries if e.kind == "evidence.collected")
    others = [e.seq for e in entries if e.kind == "step.started" and e.body["step"] != "assess"]
    assert evidence < min(others)


@pytest.mark.parametrize("gate", ["stop-approval", "rollback-approval"])
def test_a_no_holds_and_nothing_after_it_runs(response: Response, gate: str) -> None:
    """Not in this walk, and not when the response is started again."""
    yes, no = saying(), saying("reject")
    response.answers = lambda step, *rest: (no if step.id == gate else yes)(step, *rest)
    state = response.walk()
    behind = response.book.descendants(gate)
    assert (state.status, behind & set(response.effects)) == (Status.HELD, set())
    done = list(response.effects)
    assert (response.walk().status, response.effects) == (Status.HELD, done)
    assert view(response.case.entries()).status is IncidentStatus.HELD
    assert "checked it" in view(response.case.entries()).reason


def test_silence_waits_and_the_same_question_is_asked_again(response: Response) -> None:
    """No second entry, no second attempt: whoever answers later answers this question."""
    response.answers = None
    assert response.walk().status is Status.WAITING
    assert response.walk().status is Status.WAITING
    assert len(bodies(response.case, "gate.asked")) == 1
    assert len(response.asked) == 2
    assert len(set(response.asked)) == 1
    assert "stop" not in response.effects


def test_an_answer_given_elsewhere_lets_the_walk_go_on(small: Response) -> None:
    """From the command line, while nobody walks."""
    small.answers = None
    small.walk()
    digest = bodies(small.case, "gate.asked")[0]["digest"]
    gates.submit(small.case, small.book, "ask", Answer("approve", "bob", "fine", digest, "cli:1"))
    assert (small.walk().status, small.effects) == (Status.COMPLETED, ["look", "act"])


def test_an_overdue_question_holds_where_no_clock_runs(
    small: Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late answer is refused and journaled; the walk then holds instead of asking for ever."""
    small.answers = None
    small.walk()
    gate = small.book.step("ask").gate
    assert gate is not None
    later = walk_module.gates.now() + gate.timeout * 2
    monkeypatch.setattr(gates, "now", lambda: later)
    small.answers = saying()
    assert (small.walk().status, small.effects) == (Status.HELD, ["look"])
    assert kinds(small.case, "gate.") == ["gate.asked", "gate.refused", "gate.timed_out"]
    assert small.walk().status is Status.HELD


def test_a_refused_answer_is_asked_again_under_another_key(small: Response) -> None:
    """A stored answer can never be read as the answer to the next attempt."""
    answers = iter([saying(ask="mallory"), saying("maybe"), saying()])
    small.answers = lambda *question: next(answers)(*question)
    assert small.walk().status is Status.COMPLETED
    assert [a[2] for a in small.asked] == ["1-1", "1-2", "1-3"]
    assert len(bodies(small.case, "gate.refused")) == 2


def test_a_form_keeps_its_key_while_others_answer_elsewhere(small: Response) -> None:
    """Somebody's wrong answer on the command line must not lose what is typed into the form."""
    small.answers = None
    small.walk()
    digest = bodies(small.case, "gate.asked")[0]["digest"]
    gates.submit(small.case, small.book, "ask", Answer("approve", "ana", "why", digest, "cli:1"))
    small.walk()
    assert [a[2] for a in small.asked] == ["1-1", "1-1"]


def test_the_same_stored_answer_again_does_not_spin(small: Response) -> None:
    """An answer already taken or refused says nothing new: the walk waits instead of looping."""
    stale: list[Answer] = []

    def same(step: Step, question: Json, attempt: str) -> Answer:
        stale.append(Answer("approve", "mallory", "let me in", question["digest"], "test:same"))
        assert len(stale) < 10, "it spins"
        return stale[0]

    small.answers = same
    assert small.walk().status is Status.WAITING
    assert (len(bodies(small.case, "gate.refused")), small.effects) == (1, ["look"])


def test_a_quorum_of_two_needs_two_people_in_one_round(case: Case, tmp_path: Path) -> None:
    """The same person twice is refused in between; keys differ each time."""
    small = Response(case, playbook(tmp_path, SMALL.replace("quorum: 1", "quorum: 2")))
    people = iter(["bob", "bob", "cid"])
    small.answers = lambda *question: saying(ask=next(people))(*question)
    assert small.walk().status is Status.COMPLETED
    assert len({a[2] for a in small.asked}) == 3
    assert len(bodies(case, "gate.refused")) == 1


def test_an_approval_is_void_when_evidence_arrives_before_the_step_runs(small: Response) -> None:
    """The gate is reopened and asked with another digest; in between nothing ran."""
    seen: list[str] = []

    def then_a_finding(step: Step, question: Json, attempt: str) -> Answer:
        if not seen:
            digest = question["digest"]
            answer = Answer("approve", "bob", "fine", digest, "cli:other-process")
            gates.submit(another(small.case), small.book, "ask", answer)
            another(small.case).add_findings([finding("config.json")])
        seen.append(question["digest"])
        assert "act" not in small.effects
        return saying()(step, question, attempt)

    small.answers = then_a_finding
    assert small.walk().status is Status.COMPLETED
    assert len(set(seen)) == 2
    assert bodies(small.case, "step.reopened")[0]["reason"].startswith("approval void: ask")
    assert small.effects == ["look", "act"]


def test_an_approval_is_void_even_when_the_step_had_started_without_acting(
    small: Response,
) -> None:
    """Killed right after `step.started`: nothing was changed yet, so the facts count again."""
    real = small.run

    def killed(case: Case, step: Step) -> Json:
        if step.id == "act" and not bodies(small.case, "gate.refused"):
            raise Killed
        return real(case, step)

    small.run = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        small.walk()
    small.case.add_findings([finding("config.json")])
    small.run = real  # type: ignore[method-assign]
    small.answers = None
    assert (small.walk().status, small.effects) == (Status.WAITING, ["look"])


def test_a_step_that_has_acted_is_brought_to_its_end(small: Response) -> None:
    """Half a rollback is worse than one on facts that changed a moment later."""
    real = small.run

    def killed(case: Case, step: Step) -> Json:
        done = real(case, step)
        if step.id == "act":
            raise Killed
        return done

    small.run = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        small.walk()
    small.case.add_findings([finding("config.json")])
    small.run, small.answers = real, None  # type: ignore[method-assign]
    assert (small.walk().status, small.effects) == (Status.COMPLETED, ["look", "act"])


def test_a_second_intervention_is_checked_against_its_gate_as_well(
    case: Case, tmp_path: Path
) -> None:
    """Two steps in a row behind one gate: a finding between them closes it for the second."""
    text = SMALL + "  - {id: more, flow: recover, with: {to: last-known-good}, after: [act]}\n"
    small = Response(case, playbook(tmp_path, text), answers=saying())
    real = small.run

    def finds(at: Case, step: Step) -> Json:
        done = real(at, step)
        if step.id == "act":
            with working_on(""):  # a check on its schedule, not the step itself
                another(case).add_findings([finding("config.json")])
            small.answers = None
        return done

    small.run = finds  # type: ignore[method-assign]
    assert (small.walk().status, small.effects) == (Status.WAITING, ["look", "act"])


def test_a_failing_cut_fails_the_response(response: Response) -> None:
    """Nothing later is ready; error, type and next move are journaled, without controls."""
    response.failing["isolate"] = OSError("no such \x1b[2J file \udcff token=hunter2")
    state = response.walk()
    assert (state.status, response.effects) == (Status.FAILED, ["assess", "alert"])
    failed = bodies(response.case, "step.failed")[0]
    assert failed["type"] == "OSError"
    assert failed["error"].isprintable()
    assert "hunter2" not in failed["error"]
    assert response.walk().status is Status.FAILED


def test_a_failing_rollback_holds(response: Response) -> None:
    """Nothing was changed; people decide, and the hint says how to go on."""
    response.failing["rollback"] = NoKnownGoodError("fraud", "1.1 (unsigned)")
    assert response.walk().status is Status.HELD
    failed = bodies(response.case, "step.failed")[0]
    assert (failed["type"], failed["hint"]) == ("NoKnownGoodError", NoKnownGoodError.hint)
    assert "report" not in response.effects


@pytest.mark.parametrize("result", [{"x": 2**60}, {"x": object()}, {"x": float("nan")}])
def test_a_result_that_cannot_be_journaled_fails_its_step(small: Response, result: Json) -> None:
    """The walk itself goes on to its end, instead of dying at each start."""
    small.results["act"] = result
    assert small.walk().status is Status.HELD


def test_a_held_gate_is_reopened_in_a_new_round(small: Response) -> None:
    """The old answer stays refused; key and round differ; the second yes counts."""
    small.answers = saying("reject")
    assert small.walk().status is Status.HELD
    reopen(small.case, small.book, "ask", by="ana", reason="new facts")
    small.answers = saying()
    assert small.walk().status is Status.COMPLETED
    assert [a[2] for a in small.asked] == ["1-1", "2-1"]


def test_a_failed_step_is_reopened_and_asked_for_again_when_facts_changed(
    small: Response,
) -> None:
    """An approval for a failed attempt counts for the next one only while nothing changed."""
    small.failing["act"] = OSError("disk full")
    small.walk()
    small.failing.clear()
    reopen(small.case, small.book, "act", by="ana", reason="made room")
    small.case.add_findings([finding("config.json")])
    small.answers = None
    assert (small.walk().status, small.effects) == (Status.WAITING, ["look"])


def test_medium_severity_skips_the_stop_and_still_asks_for_the_rollback(tmp_path: Path) -> None:
    """And the journal says why."""
    case = make_case(tmp_path, Severity.MEDIUM)
    response = Response(case, load_playbook(TAMPERED), answers=saying())
    assert response.walk().status is Status.COMPLETED
    skipped = {b["step"]: b["reason"] for b in bodies(case, "step.skipped")}
    assert set(skipped) == {"stop-approval", "stop"}
    assert "is false" in skipped["stop-approval"]
    assert skipped["stop"] == "its gate 'stop-approval' was not asked"
    assert [a[0] for a in response.asked] == ["rollback-approval"]


def test_a_changed_playbook_is_not_walked(small: Response, tmp_path: Path) -> None:
    """Not one step of it, also when only its title changed."""
    small.answers = None
    small.walk()
    before = len(small.case.entries())
    edited = playbook(tmp_path, SMALL.replace("Cut, ask", "Cut and"))
    with pytest.raises(PlaybookChangedError):
        small.walk(book=edited)
    assert (len(small.case.entries()), small.effects) == (before, ["look"])


def test_who_resumes_does_not_become_the_initiator(small: Response) -> None:
    """And who started stays excluded."""
    small.initiator, small.answers = "bob", None
    small.walk()
    small.initiator, small.answers = "cid", saying(ask="bob")
    answers = iter([saying(ask="bob"), saying(ask="cid")])
    small.answers = lambda *question: next(answers)(*question)
    assert small.walk().status is Status.COMPLETED
    assert "bob started" in bodies(small.case, "gate.refused")[0]["why"]


def appends(of: Callable[[], object]) -> int:
    """How many entries a whole walk appends."""
    with dying_at(-1, committed=True) as count:
        of()
    return count[0]


@pytest.mark.parametrize("committed", [False, True], ids=["lost", "written"])
def test_killed_at_any_entry_it_goes_on_and_does_everything_once(
    tmp_path: Path, *, committed: bool
) -> None:
    """The shipped playbook, killed at each of its entries, before or after it is durable."""
    book = load_playbook(TAMPERED)
    total = appends(Response(make_case(tmp_path / "all"), book, answers=saying()).walk)
    assert total > 30
    for number in range(1, total + 1):
        case = make_case(tmp_path / str(number))
        response = Response(case, book, answers=saying())
        with dying_at(number, committed=committed), pytest.raises(Killed):
            response.walk()
        again = Response(another(case), book, effects=response.effects, answers=saying())
        assert again.walk().status is Status.COMPLETED, number
        once = [e.removesuffix(" again") for e in response.effects]
        assert list(dict.fromkeys(once)) == ALL, number
        finished = [b["action"] + b["target"] for b in bodies(case, "action.finished")]
        assert sorted(finished) == sorted(f"act{s}" for s in ALL), number
        repeated = [e for e in response.effects if e.endswith("again")]
        reconciled = [f"{b['target']} again" for b in bodies(case, "action.reconciled")]
        assert set(repeated) <= set(reconciled), number
        assert len(bodies(case, "gate.answered")) == 2, number
        assert [b["status"] for b in bodies(case, "response.ended")][-1] == "completed", number
        assert case.store.open_incident_of("fraud") is None, number
        assert verified(case), number


@pytest.mark.parametrize("step", ALL)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_in_any_step_it_goes_on(response: Response, step: str, moment: str) -> None:
    """Before its effect or after it: the next walk finishes, nothing is done twice."""
    real = response.run

    def killed(case: Case, at: Step) -> Json:
        if at.id != step:
            return real(case, at)
        if moment == "after":
            real(case, at)
        raise Killed

    response.run = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        response.walk()
    response.run = real  # type: ignore[method-assign]
    assert (response.walk().status, response.effects) == (Status.COMPLETED, ALL)
    assert verified(response.case)


def test_a_second_responder_is_told_that_one_is_at_work(
    small: Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits its time, raises, and leaves no trace."""
    monkeypatch.setattr(walk_module, "LOCK_WAIT_S", 0.3)
    code = (
        "import fcntl, os, sys, time\n"
        "handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)\n"
        "fcntl.flock(handle, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    lock = small.case.folder / "responder.lock"
    before = len(small.case.entries())
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ResponderBusyError):
            small.walk()
        assert (len(small.case.entries()), small.effects) == (before, [])
        holder.kill()
    assert small.walk().status is Status.COMPLETED


def test_two_processes_at_once_do_nothing_twice(case: Case, tmp_path: Path) -> None:
    """Both start; one works, the other is told it is busy or finds everything done."""
    out = tmp_path / "effects"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_respond, args=(tmp_path, case.id, out)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert sorted(p.exitcode for p in both) in ([0, 0], [0, 3])
    assert sorted(out.read_text().split()) == sorted(ALL)
    assert len(bodies(case, "gate.answered")) == 2
    assert kinds(case).count("response.started") == 1
    assert verified(case)


def _respond(home: Path, incident: str, out: Path) -> None:
    """One process of two; exits 3 when another one is at work."""
    walk_module.LOCK_WAIT_S = 0.2
    case = replace(make_case(home / "unused"), id=incident)
    inventory = replace(
        case.inventory,
        home=home / "home",
        database_url=f"sqlite:///{home / 'home' / 'firebreak.db'}",
    )
    case = replace(case, inventory=inventory, blobs=Blobs(inventory.home / "evidence"))
    response = Response(another(case), load_playbook(TAMPERED), answers=saying())
    real = response.run

    def run(at: Case, step: Step) -> Json:
        def effect() -> Json:
            with out.open("a") as stream:
                stream.write(f"{step.id}\n")
            time.sleep(0.05)
            return {}

        at.perform("write", step.id, effect)
        return real(at, step)

    response.run = run  # type: ignore[method-assign]
    try:
        response.walk()
    except ResponderBusyError:
        os._exit(3)


def test_the_lock_is_free_after_a_crash_of_the_walk(small: Response) -> None:
    """Whatever ends the walk, the next one begins at once."""

    def die(*_question: object) -> Answer:
        raise Killed

    small.answers = die
    with pytest.raises(Killed):
        small.walk()
    handle = os.open(small.case.folder / "responder.lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


def test_a_completed_response_started_again_does_nothing(response: Response) -> None:
    """No step, no question, and it stays recovered."""
    response.walk()
    effects, asked = list(response.effects), len(response.asked)
    assert response.walk().status is Status.COMPLETED
    assert (response.effects, len(response.asked)) == (effects, asked)
    assert view(response.case.entries()).status is IncidentStatus.RECOVERED


def test_the_question_shows_the_plan_of_what_stands_right_behind_the_gate(
    response: Response,
) -> None:
    """With its steps, its digest and who is asked."""
    response.walk()
    first, second = bodies(response.case, "gate.asked")
    assert [p["step"] for p in first["plans"]] == ["stop"]
    assert [p["step"] for p in second["plans"]] == ["rollback"]
    assert (first["people"], second["people"]) == (["ana"], ["bob", "cid"])


def test_a_gate_whose_condition_is_unknown_fails_loudly(case: Case, tmp_path: Path) -> None:
    """It is neither asked nor skipped, and what it guards does not run."""
    text = SMALL.replace("id: ask, after", "id: ask, when: steps.look.nothing == 1, after")
    small = Response(case, playbook(tmp_path, text), answers=saying())
    state = small.walk()
    assert (state.status, state.steps["ask"].status) == (Status.FAILED, StepStatus.FAILED)
    assert (small.effects, small.asked) == (["look"], [])


def test_a_gate_answered_for_another_incident_does_not_count(case: Case, tmp_path: Path) -> None:
    """Two incidents with the same playbook ask with different digests."""
    book: Playbook = playbook(tmp_path)
    one = Response(case, book)
    other = Response(make_case(tmp_path / "other"), book)
    one.walk()
    other.walk()
    foreign = bodies(other.case, "gate.asked")[0]["digest"]
    answer = Answer("approve", "bob", "for the other one", foreign, "cli:x")
    assert not gates.submit(case, book, "ask", answer).accepted
    assert replace(answer).via == "cli:x"
