"""The clocks of one incident: gates nobody answered, deadlines missed, updates that are due."""

from datetime import datetime, timedelta
from pathlib import Path

from firebreak.communication.send import send
from firebreak.incidents.case import Case, working_on
from firebreak.incidents.view import view
from firebreak.playbook.engine import OVER, Status, replay
from firebreak.playbook.gates import expire
from firebreak.playbook.schema import Playbook
from firebreak.records import Json, now, parse_timestamp
from firebreak.triage import named_playbook

UPDATE_EVERY = timedelta(hours=4)


def tick_incident(case: Case, playbooks: Path, moment: datetime | None = None) -> list[Json]:
    """Run the clocks of one incident; each thing that runs out is journaled once.

    Args:
        case: the incident.
        playbooks: folder of the playbooks.
        moment: the time it is; now when None.

    Returns: what ran out: `{"what": "held" | "escalated" | "deadline" | "update", "step": …}`.
    """
    moment = moment or now()
    seen = view(case.entries())
    if seen.playbook is None:
        return []
    playbook = named_playbook(seen.playbook, playbooks)
    happened = _gates(case, playbook, moment) + _deadlines(case, playbook, moment)
    if seen.status in ("responding", "waiting", "held", "failed") and _update_is_due(case, moment):
        with working_on(f"update-{moment:%Y%m%dT%H%M}"):
            send(case, "stakeholder_update")
        happened.append({"incident": case.id, "what": "update", "step": ""})
    return happened


def _gates(case: Case, playbook: Playbook, moment: datetime) -> list[Json]:
    """Overdue questions: journaled by `expire`, told here, also after a crash between the two."""
    expire(case, playbook, moment)
    entries = case.entries()
    told = {e.body["question"] for e in entries if e.kind == "gate.overdue_told"}
    happened = []
    for entry in (e for e in entries if e.kind == "gate.timed_out" and e.seq not in told):
        step_id, held = entry.body["step"], entry.body["otherwise"] == "hold"
        with working_on(f"overdue-{step_id}-{entry.seq}"):
            send(case, "stakeholder_update")
        if held:
            _end_held(case, playbook)
        case.append("gate.overdue_told", {"step": step_id, "question": entry.seq})
        what = "held" if held else "escalated"
        happened.append({"incident": case.id, "what": what, "step": step_id})
    return happened


def _end_held(case: Case, playbook: Playbook) -> None:
    """Journal the end that nobody else journals: the walk is suspended or gone."""
    entries = case.entries()
    state = replay(playbook, entries)
    last = [e.kind for e in entries if e.kind.startswith("response.")][-1]
    if state.status is Status.HELD and last != "response.ended":
        reasons = {k: s.reason for k, s in state.steps.items() if s.reason}
        case.append("response.ended", {"status": state.status.value, "reasons": reasons})


def _deadlines(case: Case, playbook: Playbook, moment: datetime) -> list[Json]:
    entries = case.entries()
    state = replay(playbook, entries)
    opened = parse_timestamp(entries[0].time)
    told = {e.body["step"] for e in entries if e.kind == "deadline.missed"}
    missed = [
        step.id
        for step in playbook.steps
        if step.deadline is not None
        and moment > opened + step.deadline
        and state.steps[step.id].status not in OVER
        and step.id not in told
    ]
    for step_id in missed:
        case.append("deadline.missed", {"step": step_id})
    return [{"incident": case.id, "what": "deadline", "step": step_id} for step_id in missed]


def _update_is_due(case: Case, moment: datetime) -> bool:
    entries = case.entries()
    told = [e for e in entries if e.kind in ("message.sent", "message.failed")]
    last = told[-1].time if told else entries[0].time
    return moment > parse_timestamp(last) + UPDATE_EVERY
