"""The walk: asks the engine what is ready, runs it, journals the outcome, and asks again.

It knows neither Prefect nor any flow: how a step runs and how people are asked is given to it. A
crash anywhere, started again, goes on from the journal.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from firebreak.errors import (
    FirebreakError,
    IncidentClosedError,
    PlaybookChangedError,
    ResponderBusyError,
)
from firebreak.evidence.redaction import redact
from firebreak.incidents.case import Case, working_on
from firebreak.incidents.journal import Entry
from firebreak.playbook import gates
from firebreak.playbook.engine import Action, Do, RunState, Status, StepStatus, replay
from firebreak.playbook.schema import Playbook, Step
from firebreak.records import Json, canonical, printable

Run = Callable[[Step], Json]
Ask = Callable[[Step, Json, str], gates.Answer | None]
Plan = Callable[[Step], list[Json]]

LOCK_WAIT_S = 30.0
MAX_ERROR = 4000  # characters of a step's error that are journaled
_FIRST = ("triage", "contain", "recover", "communicate", "investigate")  # containment before words


def walk(
    case: Case,
    playbook: Playbook,
    *,
    initiator: str,
    run: Run,
    ask: Ask,
    plan: Plan,
    source: Json | None = None,
) -> RunState:
    """Walk a playbook until it is over or waits for people.

    Args:
        case: the incident.
        playbook: what to do; must be the one the response was started with.
        initiator: who or what started it; cannot approve.
        run: runs one step's flow and returns its result as JSON; may raise.
        ask: puts a question (step, question, attempt) and returns the answer; None when nobody can
            be asked from here, and the walk then ends WAITING.
        plan: what a step would do, for the question.
        source: noted with the start, such as the Prefect run's id.

    Raises:
        PlaybookChangedError: the playbook differs from the started one.
        ResponderBusyError: another process works on this incident.
        IncidentClosedError: somebody closed it.
    """
    with _alone(case):
        _start(case, playbook, initiator, source or {})
        while True:
            state = replay(playbook, case.entries())
            actions = state.next_actions()
            if not actions:
                return _end(case, state)
            first = min(actions, key=_urgency)
            if first.do is Do.ASK:
                answered = _ask(case, state, first.step, ask, plan)
                if not answered:
                    return replay(playbook, case.entries())
            else:
                _act(case, state, first, run)


def _start(case: Case, playbook: Playbook, initiator: str, source: Json) -> None:
    entries = case.entries()
    if closed := [e.body["by"] for e in entries if e.kind == "incident.closed"]:
        raise IncidentClosedError(case.id, closed[-1])
    started = [e for e in entries if e.kind == "response.started"]
    if started and started[0].body["digest"] != playbook.digest:
        raise PlaybookChangedError(case.id, started[0].body["digest"], playbook.digest)
    kind = "response.resumed" if started else "response.started"
    case.append(
        kind,
        {
            "playbook": playbook.name,
            "version": playbook.version,
            "digest": playbook.digest,
            "initiator": initiator,
            **source,
        },
    )


def _act(case: Case, state: RunState, action: Action, run: Run) -> None:
    """Carry out one action that needs no people."""
    step = action.step
    if action.do is Do.SKIP:
        case.append("step.skipped", {"step": step.id, "reason": action.reason})
        return
    if action.do is Do.FAIL:
        case.append("step.failed", {"step": step.id, "error": _shown(action.reason)})
        return
    entries = case.entries()
    begun = _has_acted(state, step, entries)  # what has begun is brought to its end
    if not begun and (changed := gates.still_approved(state, step, entries)):
        _reopen_gates(case, state, step, changed)
        return
    case.append("step.started", {"step": step.id, "flow": step.flow})
    try:
        with working_on(step.id):
            result = run(step)
            canonical(result)  # what cannot be journaled is the step's failure, not the walk's
    except Exception as error:  # noqa: BLE001 - whatever a step raises is its failure, journaled
        hint = error.hint if isinstance(error, FirebreakError) else ""
        case.append(
            "step.failed",
            {
                "step": step.id,
                "error": _shown(str(error)) or type(error).__name__,
                "type": type(error).__name__,
                "hint": hint,
            },
        )
        return
    case.append("step.finished", {"step": step.id, "result": result})


def _has_acted(state: RunState, step: Step, entries: list[Entry]) -> bool:
    """Whether a started step has begun to change anything; only its start is journaled if not."""
    acted = False
    for entry in entries:
        if entry.body.get("step") == step.id:
            acted = entry.kind != "step.reopened" and (acted or entry.kind.startswith("action."))
    return acted and state.steps[step.id].status is StepStatus.RUNNING


def _shown(error: str) -> str:
    return redact(printable(error))[:MAX_ERROR]


def _reopen_gates(case: Case, state: RunState, step: Step, changed: str) -> None:
    """What was approved is not what would run: the approval is void and people are asked anew."""
    for before in state.playbook.gates_of(step):
        case.append(
            "step.reopened",
            {"step": before, "by": "firebreak", "reason": f"approval void: {changed}"},
        )


def _ask(case: Case, state: RunState, step: Step, ask: Ask, plan: Plan) -> bool:
    """Put a gate's question; True when the journal went on, False when it waits for people."""
    assert step.gate is not None  # noqa: S101 - the engine asks gates only
    behind = state.playbook.descendants(step.id)
    direct = [s for s in state.playbook.steps if s.id in behind and step.id in s.after]
    plans = [{"step": s.id, "flow": s.flow or "gate", "actions": plan(s)} for s in direct]
    question = gates.ask(case, state, step, step.gate, plans)
    standing = replay(state.playbook, case.entries()).steps[step.id]
    # Unique for each time somebody can answer: a stored answer never counts for another question.
    # It stays while nobody used the form: what is typed there meanwhile is not lost.
    attempt = f"{standing.rounds}-{standing.answers + 1}"
    answer = ask(step, question, attempt)
    before = len(case.entries())
    if answer is not None:
        gates.submit(case, state.playbook, step.id, answer)
    gates.expire(case, state.playbook)  # silence holds, also where no clock runs
    return len(case.entries()) > before  # the same answer again says nothing new: wait


def _end(case: Case, state: RunState) -> RunState:
    """Journal how the response ended, once per end."""
    last = [e for e in case.entries() if e.kind.startswith("response.")][-1]
    status = state.status
    if status is Status.CLOSED:
        return state
    if not (last.kind == "response.ended" and last.body["status"] == status.value):
        reasons = {k: v.reason for k, v in state.steps.items() if v.reason}
        case.append("response.ended", {"status": status.value, "reasons": reasons})
        case.checkpoint()
    if status is Status.COMPLETED:
        case.store.close_incident(case.id)
    return state


def _urgency(action: Action) -> tuple[int, int]:
    kinds = (Do.SKIP, Do.FAIL, Do.RUN, Do.ASK)
    flow = action.step.flow
    return kinds.index(action.do), _FIRST.index(flow) if flow else 0


@contextmanager
def _alone(case: Case) -> Iterator[None]:
    """One responder per incident on this host; the kernel frees the lock when a process dies."""
    path: Path = case.folder / "responder.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ResponderBusyError(case.id, LOCK_WAIT_S) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)
