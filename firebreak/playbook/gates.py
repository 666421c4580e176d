"""Gates: the question, the digest that binds an answer to it, and the rules an answer must meet.

One function takes every answer, whether it came through the Prefect form or from the command line.
What it refuses, it journals with the reason; a refused answer never fails the run.
"""

from dataclasses import dataclass
from datetime import datetime

from firebreak.evidence.redaction import redact
from firebreak.incidents.case import Case
from firebreak.incidents.journal import Entry
from firebreak.inventory import Inventory
from firebreak.playbook.engine import RunState, StepStatus, replay
from firebreak.playbook.schema import Gate, Playbook, Step
from firebreak.records import Json, digest_of, now, parse_timestamp, printable, timestamp

DECISIONS = ("approve", "reject")
MIN_REASON = 3
MAX_REASON = 2000
MAX_VIA = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody answered. A claim, until `submit` has taken it.

    Attributes:
        decision: `approve` or `reject`.
        approver: person id of the inventory.
        reason: why, in their words.
        digest: of the question they answer.
        via: how it came: `prefect:<flow run>:<key>` or `cli:<id>`; the same one counts once.
    """

    decision: str
    approver: str
    reason: str
    digest: str
    via: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an answer: accepted, or refused with the reason."""

    accepted: bool
    why: str


def decision_digest(playbook: Playbook, step: Step, entries: list[Entry]) -> str:
    """The digest of exactly what is being decided.

    It covers the playbook, the gate, what the steps behind it will do and with which parameters,
    the rollback candidate, and the head of the evidence: the last finding or piece of evidence that
    was not made by those steps themselves. Recomputed before those steps run; any difference
    between the two fails closed.
    """
    behind = playbook.descendants(step.id)
    head = ""
    candidate = None
    for entry in entries:
        if entry.kind in ("finding.added", "evidence.collected"):
            head = head if entry.body.get("step") in behind else entry.hash
        elif entry.kind == "step.finished" and entry.body["step"] not in behind:
            candidate = entry.body["result"].get("candidate", candidate)
    steps = [
        {"id": s.id, "flow": s.flow or "gate", "with": dict(s.inputs)}
        for s in playbook.steps
        if s.id in behind
    ]
    return digest_of(
        {
            "playbook": playbook.digest,
            "gate": step.id,
            "steps": steps,
            "candidate": candidate,
            "evidence": head,
        }
    )


def ask(case: Case, state: RunState, step: Step, gate: Gate, plans: list[Json]) -> Json:
    """The question standing at a gate, journaled once before anybody is asked.

    Asked anew (a new round) when what it binds has changed since.

    Args:
        case: the incident.
        state: where the response stands.
        step: the gate's step.
        gate: its rules.
        plans: what the steps behind it would do, for people to read.

    Returns: the body of the journal's `gate.asked` entry.
    """
    entries = case.entries()
    digest = decision_digest(state.playbook, step, entries)
    standing = state.steps[step.id]
    if standing.status is StepStatus.ASKED and standing.digest == digest:
        asked = [e for e in entries if e.kind == "gate.asked" and e.body["step"] == step.id]
        return asked[-1].body
    case.checkpoint()
    moment = now()
    question: Json = {
        "step": step.id,
        "digest": digest,
        "ask": list(gate.ask),
        "people": [p.id for p in case.inventory.people_with(gate.ask)],
        "quorum": gate.quorum,
        "due": timestamp(moment + gate.timeout),
        "otherwise": gate.otherwise,
        "plans": plans,
        "initiator": state.started_by,
        "superseded": standing.status is StepStatus.ASKED,
    }
    case.append("gate.asked", question)
    return question


def submit(
    case: Case, playbook: Playbook, step_id: str, answer: Answer, moment: datetime | None = None
) -> Taken:
    """Take one answer to a gate, or refuse it. Either way it is journaled, once per `answer.via`.

    Refused: an unknown person, one whose role is not asked, the initiator, no reason, a decision
    that is neither approve nor reject, an answer to another question than the one standing (late,
    replayed, or the evidence changed), one after the time ran out, one that this person gave
    already.
    """
    entries = case.entries()
    via = printable(answer.via)[:MAX_VIA]
    for entry in entries:
        if entry.kind in ("gate.answered", "gate.refused") and entry.body.get("via") == via:
            return Taken(entry.kind == "gate.answered", entry.body.get("why", "already taken"))
    state = replay(playbook, entries)
    if step_id in state.steps:
        step = playbook.step(step_id)
        why = _refusal(case.inventory, state, step, entries, answer, moment or now())
    else:
        why = f"playbook {playbook.name!r} has no step {printable(step_id)!r}"
    body: Json = {
        "step": printable(step_id),
        "decision": printable(answer.decision)[:20],
        "approver": printable(answer.approver)[:128],
        "reason": redact(printable(answer.reason))[:MAX_REASON],
        "digest": printable(answer.digest)[:64],
        "via": via,
        # Prefect knows no users and a typed name proves nothing: reports show this word.
        "proof": "unproven",
    }
    if why:
        case.append("gate.refused", {**body, "why": why})
        return Taken(False, why)
    case.append("gate.answered", body, actor=answer.approver)
    case.checkpoint()
    return Taken(True, f"{answer.decision} by {answer.approver} taken")


def expire(case: Case, playbook: Playbook, moment: datetime | None = None) -> list[str]:
    """Journal every gate whose time ran out, once per question; returns their step ids."""
    entries = case.entries()
    state = replay(playbook, entries)
    expired = []
    for step in playbook.steps:
        standing = state.steps[step.id]
        if step.gate is None or standing.status is not StepStatus.ASKED:
            continue
        told = any(
            e.kind == "gate.timed_out"
            and e.body.get("digest") == standing.digest
            and e.time >= standing.asked_at
            for e in entries
        )
        if not told and (moment or now()) > parse_timestamp(standing.asked_at) + step.gate.timeout:
            case.append(
                "gate.timed_out",
                {"step": step.id, "digest": standing.digest, "otherwise": step.gate.otherwise},
            )
            expired.append(step.id)
    return expired


def still_approved(state: RunState, step: Step, entries: list[Entry]) -> str:
    """Empty when every approval a step stands on is for what would run now; else what differs."""
    for before in state.playbook.gates_of(step):
        approved = state.steps[before].digest
        found = decision_digest(state.playbook, state.playbook.step(before), entries)
        if approved != found:
            return f"{before} approved {approved[:16]}, it would now be {found[:16]}"
    return ""


def _refusal(
    inventory: Inventory,
    state: RunState,
    step: Step,
    entries: list[Entry],
    answer: Answer,
    moment: datetime,
) -> str:
    """Why an answer cannot be taken; empty when it can."""
    gate, standing = step.gate, state.steps[step.id]
    if state.closed_by:
        return f"the incident was closed by {state.closed_by}"
    if gate is None or standing.status is not StepStatus.ASKED:
        return f"no question stands at {step.id!r}; it is {standing.status.value}"
    people = {p.id: p for p in inventory.people}
    if answer.approver not in people:
        return f"{printable(answer.approver)!r} is not a person of the inventory"
    if answer.approver not in {p.id for p in inventory.people_with(gate.ask)}:
        held = ", ".join(sorted(people[answer.approver].roles)) or "no role"
        return f"{answer.approver} has {held}; asked are {', '.join(gate.ask)}"
    if answer.approver == state.started_by:
        return f"{answer.approver} started this response and cannot approve it"
    reopened = [e.body["by"] for e in entries if _reopens(e, step)]
    if answer.decision == "approve" and reopened[-1:] == [answer.approver]:
        return f"{answer.approver} had this asked again and cannot approve it"
    return _bad_content(answer) or _bad_time(state, step, gate, entries, answer, moment)


def _reopens(entry: Entry, step: Step) -> bool:
    return entry.kind == "step.reopened" and entry.body["step"] == step.id


def _bad_content(answer: Answer) -> str:
    if answer.decision not in DECISIONS:
        return f"decision is {printable(answer.decision)!r}, expected approve or reject"
    if not MIN_REASON <= len(answer.reason.strip()) <= MAX_REASON:
        return f"a reason of {MIN_REASON} to {MAX_REASON} characters is required"
    return ""


def _bad_time(
    state: RunState, step: Step, gate: Gate, entries: list[Entry], answer: Answer, moment: datetime
) -> str:
    standing = state.steps[step.id]
    current = decision_digest(state.playbook, step, entries)
    if answer.digest != standing.digest or standing.digest != current:
        return (
            f"the answer is for {printable(answer.digest)[:16]}, the decision is now "
            f"{current[:16]}: the evidence or the plan changed since it was asked"
        )
    if answer.approver in standing.approvers:
        return f"{answer.approver} has approved already; {gate.quorum} different people are needed"
    due = parse_timestamp(standing.asked_at) + gate.timeout
    if moment > due and gate.otherwise == "hold":
        return f"too late: the question stood until {timestamp(due)}"
    return ""
