"""The engine: a pure state machine. Playbook and journal in, what to do next out.

No storage, no clock, no network: everything it knows, it reads from the journal's entries, so that
a restart, a retry and a second worker all decide alike. The rules:

- A step is ready when every step in its `after` is over (done, skipped or approved).
- No step runs while any gate before it, directly or not, is open: an approval that became void
  closes what lies further behind it as well.
- A `when` that is false skips the step. A step right behind a skipped gate is skipped as well. One
  that acts on targets (`contain`, `recover`) is skipped even further behind it, up to the next
  gate: nothing that a gate guards runs because the gate was not asked.
- `incident.severity` is the worst finding, or what triage made of it when that is worse.
- A denied gate, and one whose time ran out with `otherwise: hold`, hold the response.
- A failed step starts nothing new but messages that do not come after it: the response is failed,
  or held with `on_failure: hold`.
- A started step that did not finish is ready again (its actions reconcile themselves).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from firebreak.errors import ExpressionError
from firebreak.incidents.journal import Entry
from firebreak.playbook.schema import Playbook, Step
from firebreak.records import Severity


class StepStatus(StrEnum):
    """Where one step stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    ASKED = "asked"
    APPROVED = "approved"
    DENIED = "denied"
    TIMED_OUT = "timed_out"


TELLING = "communicate"  # people are told even when a step failed: then above all
STOPPING = frozenset({StepStatus.FAILED, StepStatus.DENIED, StepStatus.TIMED_OUT})
OVER = frozenset({StepStatus.DONE, StepStatus.SKIPPED, StepStatus.APPROVED})


class Status(StrEnum):
    """Where the whole response stands."""

    RUNNING = "running"
    WAITING = "waiting"
    HELD = "held"
    FAILED = "failed"
    COMPLETED = "completed"
    CLOSED = "closed"


class Do(StrEnum):
    """What to do with a step now."""

    RUN = "run"
    ASK = "ask"
    SKIP = "skip"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do now, with the reason for a skip or a failure."""

    do: Do
    step: Step
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StepState:
    """Where one step stands.

    Attributes:
        status: see StepStatus.
        result: what a done step returned.
        reason: why it was skipped, failed, denied.
        digest: of the question now standing or answered, for a gate.
        asked_at: RFC 3339, when that question was asked.
        approvers: who approved that question, each once.
        refusals: answers refused since the step was first asked.
        answers: answers to the standing question, taken or refused, that came through the form.
        rounds: how often the question was asked.
    """

    status: StepStatus = StepStatus.PENDING
    result: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    digest: str = ""
    asked_at: str = ""
    approvers: tuple[str, ...] = ()
    refusals: int = 0
    answers: int = 0
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of a response: every step's, and the facts that expressions see.

    `closed_by` names who closed the incident; nothing is done for a closed one.
    """

    playbook: Playbook
    steps: Mapping[str, StepState]
    incident: Mapping[str, Any]
    started_by: str = ""
    started_digest: str = ""
    closed_by: str = ""

    @property
    def status(self) -> Status:
        """Where the whole response stands."""
        if self.closed_by:
            return Status.CLOSED
        states = {step.id: self.steps[step.id].status for step in self.playbook.steps}
        if failed := [s for s in self.playbook.steps if states[s.id] is StepStatus.FAILED]:
            held = all(s.on_failure == "hold" for s in failed)
            return Status.HELD if held else Status.FAILED
        if {StepStatus.DENIED, StepStatus.TIMED_OUT} & set(states.values()):
            return Status.HELD
        if all(status in OVER for status in states.values()):
            return Status.COMPLETED
        acts = self.next_actions()
        if acts and all(a.do is Do.ASK for a in acts):
            return Status.WAITING
        return Status.RUNNING

    def next_actions(self) -> tuple[Action, ...]:
        """What to do now: first skips and failures, then runs, then questions; empty when over."""
        if self.closed_by:
            return ()
        stopped = {s.status for s in self.steps.values()} & STOPPING
        if stopped - {StepStatus.FAILED}:
            return ()
        gates = (s.id for s in self.playbook.steps if s.gate is not None)
        closed = self.playbook.after(g for g in gates if self.steps[g].status not in OVER)
        ready = (s for s in self.playbook.steps if s.id not in closed and self._is_ready(s))
        found = [self._action(step) for step in ready if not stopped or step.flow == TELLING]
        order = (Do.SKIP, Do.FAIL, Do.RUN, Do.ASK)
        return tuple(sorted(found, key=lambda a: order.index(a.do)))

    def _is_ready(self, step: Step) -> bool:
        open_ = (StepStatus.PENDING, StepStatus.RUNNING, StepStatus.ASKED)
        return self.steps[step.id].status in open_ and all(
            self.steps[before].status in OVER for before in step.after
        )

    def _action(self, step: Step) -> Action:
        state = self.steps[step.id]
        for gate in self.playbook.gates_of(step):
            if self.steps[gate].status is not StepStatus.APPROVED:
                return Action(Do.SKIP, step, f"its gate {gate!r} was not asked")
        if step.when is not None and state.status is StepStatus.PENDING:
            facts = {
                "incident": self.incident,
                "steps": {k: dict(v.result) for k, v in self.steps.items()},
            }
            try:
                if not step.when.evaluate(facts):
                    return Action(Do.SKIP, step, f"when {step.when.source!r} is false")
            except ExpressionError as error:
                return Action(Do.FAIL, step, str(error))
        return Action(Do.ASK if step.gate else Do.RUN, step)


def replay(playbook: Playbook, entries: Iterable[Entry]) -> RunState:
    """The state that a journal describes. Any prefix of a journal is a valid journal.

    Entries about steps the playbook does not have, and kinds the engine does not know, are left
    aside: the journal holds much more than the walk.
    """
    known = {step.id: step for step in playbook.steps}
    steps = {step_id: StepState() for step_id in known}
    incident: dict[str, Any] = {"severity": Severity.LOW.value, "subject": "", "types": []}
    started_by = started_digest = closed_by = ""
    for entry in entries:
        if entry.kind == "finding.added":
            worst = [Severity(incident["severity"]), Severity(entry.body["severity"])]
            incident["severity"] = Severity.highest(worst).value
            incident["types"] = sorted({*incident["types"], entry.body["type"]})
        elif entry.kind == "incident.opened":
            incident["subject"] = entry.body["subject"]
        elif entry.kind == "incident.closed":
            closed_by = entry.body["by"]
        elif entry.kind == "response.started" and not started_by:
            started_by, started_digest = entry.body["initiator"], entry.body["digest"]
        elif (step_id := entry.body.get("step")) in steps:
            step = known[step_id]
            steps[step_id] = _advance(step, steps[step_id], entry)
            if entry.kind == "step.finished" and step.flow == "triage":
                assessed = entry.body["result"].get("severity", incident["severity"])
                worst = [Severity(incident["severity"]), Severity(assessed)]
                incident["severity"] = Severity.highest(worst).value
    return RunState(
        playbook,
        MappingProxyType(steps),
        MappingProxyType(incident),
        started_by,
        started_digest,
        closed_by,
    )


def _advance(step: Step, state: StepState, entry: Entry) -> StepState:
    """The step's state after one entry about it."""
    body = entry.body
    match entry.kind:
        case "step.started":
            return replace(state, status=StepStatus.RUNNING)
        case "step.finished":
            return replace(state, status=StepStatus.DONE, result=body["result"])
        case "step.failed":
            return replace(state, status=StepStatus.FAILED, reason=body["error"])
        case "step.skipped":
            return replace(state, status=StepStatus.SKIPPED, reason=body["reason"])
        case "step.reopened":
            return StepState(refusals=state.refusals, rounds=state.rounds)
        case "gate.asked":
            return replace(
                state,
                status=StepStatus.ASKED,
                digest=body["digest"],
                approvers=(),
                answers=0,
                asked_at=entry.time,
                rounds=state.rounds + 1,
            )
        case "gate.refused":
            return replace(_heard(state, entry), refusals=state.refusals + 1)
        case "gate.timed_out":
            return _timed_out(step, state)
        case "gate.answered":
            return _answered(step, _heard(state, entry), entry)
    return state


def _heard(state: StepState, entry: Entry) -> StepState:
    """One more answer through the form. Those typed elsewhere leave the form as it stands."""
    typed = str(entry.body.get("via", "")).startswith("cli:")
    return state if typed else replace(state, answers=state.answers + 1)


def _timed_out(step: Step, state: StepState) -> StepState:
    held = step.gate is not None and step.gate.otherwise == "hold"
    if held and state.status is StepStatus.ASKED:
        return replace(state, status=StepStatus.TIMED_OUT, reason="nobody answered in time")
    return state


def _answered(step: Step, state: StepState, entry: Entry) -> StepState:
    body = entry.body
    if step.gate is None or state.status is not StepStatus.ASKED or body["digest"] != state.digest:
        return state
    if body["decision"] != "approve":
        return replace(
            state, status=StepStatus.DENIED, reason=f"{body['approver']}: {body['reason']}"
        )
    approvers = tuple(dict.fromkeys((*state.approvers, body["approver"])))
    reached = len(approvers) >= step.gate.quorum
    status = StepStatus.APPROVED if reached else StepStatus.ASKED
    return replace(state, status=status, approvers=approvers)
