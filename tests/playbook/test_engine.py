"""The engine: whatever happens, in whatever order, nothing runs behind a closed gate."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firebreak.incidents.journal import Entry, next_entry
from firebreak.playbook.engine import (
    OVER,
    Action,
    Do,
    RunState,
    Status,
    StepStatus,
    replay,
)
from firebreak.playbook.expressions import Expression
from firebreak.playbook.schema import ACTING, Gate, Playbook, Step
from firebreak.records import Json

CLOSED = (StepStatus.FAILED, StepStatus.DENIED, StepStatus.TIMED_OUT)
WHENS = (
    'incident.severity == "critical"',
    'incident.severity in ["low"]',
    "steps.s0.ok == true",
    "incident.subject == 1",
)
FLOWS = ("triage", "contain", "investigate", "communicate", "recover")
MANY = settings(deadline=None, max_examples=120)


class Journal:
    """Entries in a chain, with the time of each one second after the one before."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, kind: str, body: Json) -> None:
        """Append one entry."""
        last = self.entries[-1] if self.entries else None
        moment = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=len(self.entries))
        self.entries.append(next_entry(last, "test", kind, body, moment))


def entries(*events: tuple[str, Json]) -> list[Entry]:
    """A journal of given events."""
    journal = Journal()
    for kind, body in events:
        journal.add(kind, body)
    return journal.entries


def gate(otherwise: str = "hold", quorum: int = 1) -> Gate:
    """A gate that asks one role."""
    return Gate(("ml-oncall",), quorum, timedelta(hours=4), otherwise)


def book(*steps: Step) -> Playbook:
    """A playbook of steps."""
    return Playbook("p", 1, "t", (), steps, "digest")


def flow(step_id: str, *after: str, flow: str = "contain", when: str = "", **more: str) -> Step:
    """A step that runs a flow."""
    return Step(step_id, flow, None, after, Expression(when) if when else None, **more)  # type: ignore[arg-type]


def asking(step_id: str, *after: str, when: str = "", **form: object) -> Step:
    """A gate step."""
    made = gate(**form)  # type: ignore[arg-type]
    return Step(step_id, None, made, after, Expression(when) if when else None)


def asked(step: str, digest: str = "d1") -> tuple[str, Json]:
    """The question of a gate."""
    return "gate.asked", {"step": step, "digest": digest}


def answered(
    step: str, by: str = "bob", digest: str = "d1", decision: str = "approve"
) -> tuple[str, Json]:
    """A taken answer."""
    body = {"step": step, "approver": by, "digest": digest, "decision": decision, "reason": "why"}
    return "gate.answered", {**body, "via": f"test:{by}"}


def finished(step: str, **result: object) -> tuple[str, Json]:
    """A step's end."""
    return "step.finished", {"step": step, "result": result}


def to_do(state: RunState) -> list[tuple[str, str]]:
    """What the engine wants done now, readable."""
    return [(a.do.value, a.step.id) for a in state.next_actions()]


# --- Any playbook, any journal -------------------------------------------------------------------


@st.composite
def playbooks(draw: st.DrawFn) -> Playbook:
    """An acyclic playbook of up to nine steps, gates and conditions, in any order of the file."""
    steps: list[Step] = []
    for number in range(draw(st.integers(2, 8))):
        known = [s.id for s in steps]
        after = (
            draw(st.lists(st.sampled_from(known), min_size=number > 2, max_size=3, unique=True))
            if known
            else []
        )
        when = draw(st.sampled_from((None,) * 12 + WHENS))
        is_gate = draw(st.booleans()) and number > 0
        steps.append(
            Step(
                id=f"s{number}",
                flow=None if is_gate else draw(st.sampled_from(FLOWS)),
                gate=gate(draw(st.sampled_from(("hold", "escalate"))), draw(st.integers(1, 3)))
                if is_gate
                else None,
                after=tuple(after),
                when=Expression(when) if when else None,
                on_failure=draw(st.sampled_from(("stop", "hold"))),
            )
        )
    return book(*draw(st.permutations(steps)))


def happens(draw: st.DataObject, state: RunState, action: Action, journal: Journal) -> None:
    """One thing that the walk, people, clocks or a crash may do about an action."""
    step = action.step.id
    if action.do is Do.SKIP:
        journal.add("step.skipped", {"step": step, "reason": action.reason})
    elif action.do is Do.FAIL:
        journal.add("step.failed", {"step": step, "error": action.reason})
    elif action.do is Do.RUN:
        journal.add("step.started", {"step": step, "flow": action.step.flow})
        ends = draw.draw(st.sampled_from(("done",) * 8 + ("crash", "failed")), "ends")
        if ends == "done":
            journal.add(*finished(step, ok=draw.draw(st.booleans())))
        elif ends == "failed":
            journal.add("step.failed", {"step": step, "error": "it broke"})
    elif state.steps[step].status is not StepStatus.ASKED:
        journal.add(*asked(step, draw.draw(st.sampled_from(("d1", "d2")), "digest")))
    else:
        _people(draw, state, step, journal)


def _people(draw: st.DataObject, state: RunState, step: str, journal: Journal) -> None:
    what = draw.draw(
        st.sampled_from(("approve",) * 8 + ("reject", "refused", "late", "again")),
        "what",
    )
    if what in ("approve", "reject"):
        by = draw.draw(st.sampled_from("abc"), "by")
        digest = draw.draw(st.sampled_from((state.steps[step].digest, "d1", "other")), "for")
        journal.add(*answered(step, by, digest, what))
    elif what == "refused":
        journal.add("gate.refused", {"step": step, "why": "no", "via": "test:x"})
    elif what == "late":
        journal.add("gate.timed_out", {"step": step, "digest": state.steps[step].digest})
    else:
        journal.add(*asked(step, "d3"))


def noise(draw: st.DataObject, plan: Playbook, state: RunState, journal: Journal) -> None:
    """Things that happen beside the walk: findings, void approvals, reopened steps, strays."""
    closed = [s for s in plan.steps if state.steps[s.id].status in CLOSED]
    step = draw.draw(st.sampled_from(closed or plan.steps), "step")
    match draw.draw(
        st.sampled_from(("finding", "void", "void", "reopen", "reopen", "stray")), "noise"
    ):
        case "finding":
            journal.add("finding.added", {"severity": "critical", "type": "model_file_tampered"})
        case "void" if step.gate and state.steps[step.id].status is StepStatus.APPROVED:
            journal.add("step.reopened", {"step": step.id, "by": "firebreak", "reason": "void"})
        case "reopen" if state.steps[step.id].status in CLOSED:
            journal.add("step.reopened", {"step": step.id, "by": "ana", "reason": "go on"})
        case "stray":  # an answer to a gate that nobody asks, a step of another playbook, a start
            journal.add(*answered(step.id, "z", "d1"))
            journal.add("response.resumed", {"digest": plan.digest, "initiator": "x"})
            journal.add(*finished("of-another-playbook", ok=True))
            journal.add("unheard.of", {"step": step.id})


def approved(plan: Playbook, step: Step, journal: Iterable[Entry]) -> bool:
    """Whether a gate stands approved, worked out anew: the engine's own fold is not asked."""
    assert step.gate is not None
    digest, people, verdict = None, set(), ""
    for entry in journal:
        if entry.body.get("step") != step.id:
            continue
        if entry.kind in ("gate.asked", "step.reopened"):
            digest, people, verdict = entry.body.get("digest"), set(), ""
        elif entry.kind == "gate.timed_out" and step.gate.otherwise == "hold" and not verdict:
            verdict = "no" if digest else ""
        elif entry.kind == "gate.answered" and digest == entry.body["digest"] and not verdict:
            people |= {entry.body["approver"]} if entry.body["decision"] == "approve" else set()
            enough = len(people) >= step.gate.quorum
            verdict = "no" if entry.body["decision"] != "approve" else "yes" if enough else ""
    return verdict == "yes"


def ancestors(plan: Playbook, step: Step) -> set[str]:
    """Ids of all steps before a step."""
    return set(step.after).union(*(ancestors(plan, plan.step(b)) for b in step.after))


def check(plan: Playbook, journal: list[Entry]) -> RunState:
    """The invariants that hold after every prefix of every journal."""
    state = replay(plan, journal)
    acts = state.next_actions()
    assert replay(plan, iter(journal)) == state, "replay is deterministic"
    assert acts or state.status in (Status.HELD, Status.FAILED, Status.COMPLETED), "it hangs"
    if state.status in (Status.HELD, Status.FAILED, Status.COMPLETED):
        failed = any(s.status is StepStatus.FAILED for s in state.steps.values())
        assert all(failed and a.step.flow == "communicate" for a in acts), "only words go out now"
    statuses = {s.status for s in state.steps.values()}
    assert (state.status is Status.COMPLETED) == (statuses <= OVER)
    for action in acts:
        assert all(state.steps[b].status in OVER for b in ancestors(plan, action.step))
        if action.do is not Do.RUN:
            continue
        before = [plan.step(s) for s in ancestors(plan, action.step)]
        for gate_step in (s for s in before if s.gate):
            skipped = state.steps[gate_step.id].status is StepStatus.SKIPPED
            assert skipped or approved(plan, gate_step, journal), f"{action} ran unapproved"
        for direct in (plan.step(s) for s in action.step.after):
            assert direct.gate is None or approved(plan, direct, journal)
        if action.step.flow in ACTING:  # walk up to the nearest gates: all of them said yes
            nearest, waiting = set(), list(action.step.after)
            while waiting:
                found = plan.step(waiting.pop())
                if found.gate is None:
                    waiting += found.after
                else:
                    nearest.add(found.id)
            assert all(approved(plan, plan.step(g), journal) for g in nearest)
    return state


@MANY
@given(plan=playbooks(), draw=st.data())
def test_nothing_behind_an_unapproved_gate_ever_runs_and_nothing_hangs(
    plan: Playbook, draw: st.DataObject
) -> None:
    """After each entry of a random journal with crashes, denials, silence, voids and strays."""
    journal = Journal()
    journal.add("incident.opened", {"subject": "fraud"})
    journal.add("response.started", {"digest": plan.digest, "initiator": "x"})
    for _ in range(draw.draw(st.integers(10, 40))):
        state = check(plan, journal.entries)
        acts = state.next_actions()
        if not acts or draw.draw(st.integers(0, 5)) == 0:
            noise(draw, plan, state, journal)
        else:
            happens(draw, state, draw.draw(st.sampled_from(acts)), journal)
    check(plan, journal.entries)


@MANY
@given(plan=playbooks(), draw=st.data())
def test_every_response_comes_to_an_end(plan: Playbook, draw: st.DataObject) -> None:
    """With people who answer and flows that return, no playbook walks for ever."""
    journal = Journal()
    for _ in range(6 * len(plan.steps) + 1):
        state = check(plan, journal.entries)
        if not (acts := state.next_actions()):
            break
        action = draw.draw(st.sampled_from(acts))
        if action.do is Do.ASK and state.steps[action.step.id].status is StepStatus.ASKED:
            standing = state.steps[action.step.id]
            by = f"person {len(standing.approvers)}"
            journal.add(*answered(action.step.id, by, standing.digest))
        elif action.do is Do.RUN:
            journal.add("step.started", {"step": action.step.id, "flow": action.step.flow})
            journal.add(*finished(action.step.id, ok=True))
        else:
            happens(draw, state, action, journal)
    assert check(plan, journal.entries).status in (Status.COMPLETED, Status.FAILED, Status.HELD)


@MANY
@given(plan=playbooks(), draw=st.data())
def test_a_journal_read_back_from_storage_replays_to_the_same_state(
    plan: Playbook, draw: st.DataObject
) -> None:
    """Every prefix, through JSON and continued later, is the state of the whole."""
    journal = Journal()
    states = [replay(plan, [])]
    for _ in range(draw.draw(st.integers(0, 15))):
        state = states[-1]
        acts = state.next_actions()
        if acts:
            happens(draw, state, draw.draw(st.sampled_from(acts)), journal)
        else:
            noise(draw, plan, state, journal)
        states.append(replay(plan, journal.entries))
    stored = [Entry.from_json(json.loads(json.dumps(e.to_json()))) for e in journal.entries]
    cut = draw.draw(st.integers(0, len(stored)))
    rest = stored[cut:]
    assert replay(plan, stored[:cut]) == replay(plan, journal.entries[:cut])
    assert replay(plan, [*stored[:cut], *rest]) == states[-1]


# --- One rule each -------------------------------------------------------------------------------


def test_a_step_waits_until_all_before_it_are_over() -> None:
    """Two branches join only when both are done."""
    plan = book(flow("a"), flow("b"), flow("c", "a", "b"))
    assert to_do(replay(plan, [])) == [("run", "a"), ("run", "b")]
    assert to_do(replay(plan, entries(finished("a")))) == [("run", "b")]
    assert to_do(replay(plan, entries(finished("a"), finished("b")))) == [("run", "c")]


def test_a_step_that_started_and_did_not_finish_is_ready_again() -> None:
    """A crash between the two: its actions find out themselves what is done."""
    state = replay(book(flow("a")), entries(("step.started", {"step": "a", "flow": "contain"})))
    assert (to_do(state), state.status) == ([("run", "a")], Status.RUNNING)


@pytest.mark.parametrize(("on_failure", "status"), [("stop", Status.FAILED), ("hold", Status.HELD)])
def test_a_failed_step_starts_nothing_new(on_failure: str, status: Status) -> None:
    """Not even on another branch."""
    plan = book(flow("a", on_failure=on_failure), flow("b"), flow("c", "a"))
    state = replay(plan, entries(("step.failed", {"step": "a", "error": "no"})))
    assert (to_do(state), state.status, state.steps["a"].reason) == ([], status, "no")


def test_one_failure_that_stops_outweighs_one_that_holds() -> None:
    """FAILED is the worse of the two."""
    plan = book(flow("a", on_failure="hold"), flow("b"))
    failed = entries(*(("step.failed", {"step": s, "error": "no"}) for s in "ab"))
    assert replay(plan, failed).status is Status.FAILED


def test_a_denied_gate_holds() -> None:
    """One "no" is enough, whatever the quorum, and the reason is kept."""
    plan = book(asking("g", quorum=2), flow("a", "g"), flow("b"))
    state = replay(plan, entries(asked("g"), answered("g", "bob"), answered("g", "cid", "d1", "x")))
    assert (to_do(state), state.status) == ([], Status.HELD)
    assert state.steps["g"].reason == "cid: why"


def test_silence_holds_or_keeps_asking_as_the_gate_says() -> None:
    """`hold` ends the question, `escalate` leaves it standing; neither ever approves."""
    silence = entries(asked("g"), ("gate.timed_out", {"step": "g", "digest": "d1"}))
    held = replay(book(asking("g"), flow("a", "g")), silence)
    assert (to_do(held), held.status) == ([], Status.HELD)
    escalated = replay(book(asking("g", otherwise="escalate"), flow("a", "g")), silence)
    assert (to_do(escalated), escalated.status) == ([("ask", "g")], Status.WAITING)


def test_an_answer_after_the_time_ran_out_changes_nothing() -> None:
    """A late approval that slipped into the journal is no approval."""
    late = entries(asked("g"), ("gate.timed_out", {"step": "g", "digest": "d1"}), answered("g"))
    assert replay(book(asking("g"), flow("a", "g")), late).status is Status.HELD


def test_silence_after_the_answer_changes_nothing() -> None:
    """The clock's entry may come a moment after the approval."""
    state = replay(
        book(asking("g"), flow("a", "g")),
        entries(asked("g"), answered("g"), ("gate.timed_out", {"step": "g", "digest": "d1"})),
    )
    assert to_do(state) == [("run", "a")]


def test_two_approvals_of_one_person_are_no_quorum_of_two() -> None:
    """Different people are counted, not answers."""
    plan = book(asking("g", quorum=2), flow("a", "g"))
    twice = entries(asked("g"), answered("g", "bob"), answered("g", "bob"))
    assert to_do(replay(plan, twice)) == [("ask", "g")]
    both = entries(asked("g"), answered("g", "bob"), answered("g", "cid"))
    assert to_do(replay(plan, both)) == [("run", "a")]


def test_approvals_of_two_rounds_do_not_add_up() -> None:
    """What was asked anew must be answered anew, also when the digest is the same again."""
    plan = book(asking("g", quorum=2), flow("a", "g"))
    for digest in ("d1", "d2"):
        rounds = entries(
            asked("g"), answered("g", "bob"), asked("g", digest), answered("g", "cid", digest)
        )
        state = replay(plan, rounds)
        assert (to_do(state), state.steps["g"].approvers) == ([("ask", "g")], ("cid",))
        assert state.steps["g"].rounds == 2


def test_an_answer_to_another_question_does_not_count() -> None:
    """The digest binds: an approval for something else approves nothing."""
    state = replay(book(asking("g"), flow("a", "g")), entries(asked("g"), answered("g", "b", "d2")))
    assert to_do(state) == [("ask", "g")]


def test_an_answer_that_nobody_asked_for_does_not_count() -> None:
    """An approval in the journal before its question is none."""
    state = replay(book(asking("g"), flow("a", "g")), entries(answered("g"), asked("g")))
    assert to_do(state) == [("ask", "g")]


def test_a_gate_marked_done_by_a_stray_entry_is_not_an_approved_gate() -> None:
    """Only people open a gate; what is behind it is skipped, not run."""
    state = replay(book(asking("g"), flow("a", "g")), entries(finished("g", ok=True)))
    assert to_do(state) == [("skip", "a")]


def test_what_stands_right_behind_a_skipped_gate_is_skipped() -> None:
    """The gate was not asked, so nothing it guards runs; what comes later goes on."""
    plan = book(
        asking("g", when='incident.severity == "critical"'),
        flow("a", "g"),
        flow("tell", "a", flow="communicate"),
        asking("g2", "a"),
        flow("b", "g2", flow="recover"),
    )
    assert to_do(replay(plan, [])) == [("skip", "g")]
    skipped = [("step.skipped", {"step": s, "reason": "when is false"}) for s in ("g", "a")]
    assert (
        replay(plan, entries(skipped[0])).next_actions()[0].reason == "its gate 'g' was not asked"
    )
    assert to_do(replay(plan, entries(*skipped))) == [("run", "tell"), ("ask", "g2")]


def test_a_second_intervention_does_not_slip_past_a_skipped_gate() -> None:
    """An action further behind the gate is skipped as well: its approval was never asked."""
    plan = book(asking("g", when="true == false"), flow("a", "g"), flow("b", "a"), flow("c", "b"))
    skipped = [("step.skipped", {"step": s, "reason": "x"}) for s in ("g", "a")]
    assert to_do(replay(plan, entries(*skipped))) == [("skip", "b")]


def test_a_void_approval_closes_everything_behind_the_gate_again() -> None:
    """Also what stands further behind it, though the step between is done."""
    plan = book(asking("g"), flow("a", "g"), flow("b", "a"), flow("tell", "a", flow="communicate"))
    open_ = [asked("g"), answered("g"), finished("a")]
    assert to_do(replay(plan, entries(*open_))) == [("run", "b"), ("run", "tell")]
    void = ("step.reopened", {"step": "g", "by": "firebreak", "reason": "void"})
    assert to_do(replay(plan, entries(*open_, void))) == [("ask", "g")]


def test_a_reopened_step_forgets_its_outcome_and_keeps_its_count() -> None:
    """A new round starts clean; its number still tells it from the earlier ones."""
    denied = [asked("g"), answered("g", decision="reject")]
    reopened = ("step.reopened", {"step": "g", "by": "ana", "reason": "new facts"})
    state = replay(book(asking("g"), flow("a", "g")), entries(*denied, reopened))
    assert to_do(state) == [("ask", "g")]
    assert (state.steps["g"].rounds, state.steps["g"].digest) == (1, "")


def test_a_condition_that_cannot_be_decided_fails_the_step() -> None:
    """Unknown is neither true nor false: people must look."""
    state = replay(book(flow("a", when="steps.z.ok == true"), flow("z")), [])
    assert to_do(state)[0] == ("fail", "a")
    assert "not known here" in state.next_actions()[0].reason


def test_a_condition_is_decided_once() -> None:
    """A step that has begun is brought to its end, whatever the facts say later."""
    plan = book(flow("a", when='incident.severity == "low"'))
    worse = entries(
        ("step.started", {"step": "a", "flow": "contain"}),
        ("finding.added", {"severity": "critical", "type": "model_file_tampered"}),
    )
    assert to_do(replay(plan, worse)) == [("run", "a")]


def test_the_incident_facts_are_folded_from_the_journal() -> None:
    """Subject, the worst severity and the types seen."""
    state = replay(
        book(flow("a")),
        entries(
            ("incident.opened", {"subject": "fraud"}),
            ("finding.added", {"severity": "high", "type": "behavior_drift"}),
            ("finding.added", {"severity": "medium", "type": "baseline_missing"}),
        ),
    )
    assert dict(state.incident) == {
        "subject": "fraud",
        "severity": "high",
        "types": ["baseline_missing", "behavior_drift"],
    }


def test_triage_can_only_raise_the_severity() -> None:
    """A model marked critical makes a medium finding high, and the stop gate is asked."""
    plan = book(flow("t", flow="triage"), asking("g", "t", when='incident.severity == "high"'))
    medium = ("finding.added", {"severity": "medium", "type": "behavior_drift"})
    assert to_do(replay(plan, entries(medium, finished("t", severity="high")))) == [("ask", "g")]
    assert to_do(replay(plan, entries(medium, finished("t", severity="low")))) == [("skip", "g")]


def test_the_first_start_names_the_initiator() -> None:
    """Who resumes later does not take the place of who started it."""
    started = [
        (f"response.{k}", {"initiator": by, "digest": "d"})
        for k, by in (("started", "ana"), ("resumed", "bob"), ("started", "cid"))
    ]
    assert replay(book(flow("a")), entries(*started)).started_by == "ana"


def test_actions_come_in_a_fixed_order() -> None:
    """Skips and failures first, then what runs, then questions."""
    plan = book(asking("g"), flow("r"), flow("f", when="steps.r.x == 1"), flow("s", when="false"))
    assert [a.do for a in replay(plan, []).next_actions()] == [Do.SKIP, Do.FAIL, Do.RUN, Do.ASK]


def test_a_response_waits_only_when_nothing_but_questions_is_left() -> None:
    """While a step can run, it is running."""
    plan = book(asking("g"), flow("r"))
    assert replay(plan, []).status is Status.RUNNING
    assert replay(plan, entries(finished("r"), asked("g"))).status is Status.WAITING


def test_everything_done_is_completed() -> None:
    """Also when some of it was skipped."""
    plan = book(flow("a"), flow("b", when="false"))
    done = entries(finished("a"), ("step.skipped", {"step": "b", "reason": "x"}))
    state = replay(plan, done)
    assert (state.status, to_do(state)) == (Status.COMPLETED, [])


def test_the_state_cannot_be_changed_from_outside() -> None:
    """It is a fact, not a working copy."""
    state = replay(book(flow("a")), [])
    assert isinstance(state.steps, MappingProxyType)
    assert isinstance(state.incident, MappingProxyType)
