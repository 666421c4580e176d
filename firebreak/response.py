"""Operating responses: which are due, which playbook, whose answer, what is asked again."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from firebreak.errors import (
    ApprovalError,
    IncidentClosedError,
    JournalCorruptError,
    SourceError,
    UnknownPersonError,
)
from firebreak.incidents.case import Case, open_case
from firebreak.incidents.store import Store
from firebreak.incidents.view import view
from firebreak.inventory import Inventory
from firebreak.playbook.engine import StepStatus, replay
from firebreak.playbook.gates import MAX_REASON, MIN_REASON, Answer, Taken, decision_digest, submit
from firebreak.playbook.schema import Playbook
from firebreak.records import IncidentStatus, Json, printable
from firebreak.triage import named_playbook, playbook_for

AUTOMATIC = "firebreak"  # who starts what nobody started by hand
MIN_DIGEST = 12  # hex digits: enough to name the question that was read


@dataclass(frozen=True, slots=True)
class Due:
    """An incident whose playbook should be started."""

    incident: str
    playbook: str


def due_responses(inventory: Inventory, playbooks: Path) -> Iterator[Due]:
    """Yield the open incidents that a playbook fits and that nobody responds to yet.

    Nothing unless the inventory says `respond: automatic`. An incident that cannot be read does
    not keep the others from being yielded first.

    Raises:
        SourceError: a playbook file cannot be used.
        JournalCorruptError: of the first incident whose journal does not verify, at the end.
    """
    if inventory.respond != "automatic":
        return
    corrupt: JournalCorruptError | None = None
    for row in Store(inventory.database_url).incidents():
        if row.closed_at is not None:
            continue
        try:
            entries = open_case(row.id, inventory).entries()
        except JournalCorruptError as error:
            corrupt = corrupt or error
            continue
        types = {e.body["type"] for e in entries if e.kind == "finding.added"}
        playbook = playbook_for(tuple(sorted(types)), playbooks)
        if playbook is not None and view(entries).status is IncidentStatus.OPEN:
            yield Due(row.id, playbook.name)
    if corrupt:
        raise corrupt


def find_case(inventory: Inventory, name: str) -> Case:
    """The case of an incident id, or of the open incident of a model.

    Raises:
        UnknownIncidentError: neither.
    """
    store = Store(inventory.database_url)
    return open_case(store.open_incident_of(name) or name, inventory)


def choose_playbook(case: Case, name: str | None, playbooks: Path) -> Playbook:
    """The named playbook; else the one the response was started with; else the one that fits.

    Raises:
        SourceError: no such playbook, or none fits the incident's findings.
    """
    entries = case.entries()
    started = view(entries).playbook
    if name or started:
        return named_playbook(name or started or "", playbooks)
    types = tuple(sorted({e.body["type"] for e in entries if e.kind == "finding.added"}))
    found = playbook_for(types, playbooks)
    if found is None:
        raise SourceError(
            str(playbooks),
            f"no playbook is triggered by {', '.join(types)}",
            "name one with --playbook",
        )
    return found


def check_initiator(inventory: Inventory, initiator: str) -> None:
    """Refuse an initiator that separation of duties could not hold against.

    Raises:
        UnknownPersonError: neither a person of the inventory nor `AUTOMATIC`.
    """
    if initiator not in {AUTOMATIC, *(p.id for p in inventory.people)}:
        known = ", ".join(p.id for p in inventory.people) or "nobody"
        raise UnknownPersonError(printable(initiator), known)


def close(case: Case, *, by: str, reason: str) -> None:
    """Close an incident on a named person's word: a false alarm, or handled elsewhere.

    Raises:
        UnknownPersonError: not a person of the inventory.
        ApprovalError: no reason, or it is closed already.
    """
    check_initiator(case.inventory, by)
    if len(reason.strip()) < MIN_REASON:
        raise ApprovalError(case.id, "-", "closing needs a reason")
    if view(case.entries()).status is IncidentStatus.CLOSED:
        raise ApprovalError(case.id, "-", "it is closed already")
    case.append("incident.closed", {"by": by, "reason": printable(reason)}, actor=by)
    case.checkpoint()
    case.store.close_incident(case.id)


def reopen(case: Case, playbook: Playbook, step_id: str, *, by: str, reason: str) -> None:
    """Ask or run a held, denied or failed step again, on a named person's word.

    Raises:
        ApprovalError: not a person of the inventory, no reason, or the step is not over that way.
    """
    if by not in {p.id for p in case.inventory.people}:
        raise ApprovalError(case.id, step_id, f"{by!r} is not a person of the inventory")
    if len(reason.strip()) < MIN_REASON:
        raise ApprovalError(case.id, step_id, "reopening needs --reason")
    state = replay(playbook, case.entries())
    if state.closed_by:
        raise IncidentClosedError(case.id, state.closed_by)
    steps = state.steps
    status = steps[step_id].status if step_id in steps else None
    if status not in (StepStatus.DENIED, StepStatus.TIMED_OUT, StepStatus.FAILED):
        raise ApprovalError(case.id, step_id, f"cannot be reopened, it is {status or 'unknown'}")
    body = {"step": step_id, "by": by, "reason": printable(reason)[:MAX_REASON]}
    case.append("step.reopened", body, actor=by)


def standing_question(case: Case) -> Json:
    """The question that stands at a gate. Raises: ApprovalError when there is none."""
    seen = view(case.entries())
    if seen.question is None:
        raise ApprovalError(case.id, "-", f"no question stands, the incident is {seen.status}")
    return seen.question


def question_is_stale(case: Case, question: Json, playbooks: Path) -> bool:
    """Whether what a standing question binds has changed since it was asked: nobody can answer it.

    The run that waits must be woken, or the response started again, to ask anew.
    """
    playbook = choose_playbook(case, None, playbooks)
    step = playbook.step(question["step"])
    return decision_digest(playbook, step, case.entries()) != str(question["digest"])


def answer_gate(
    case: Case,
    question: Json,
    *,
    decision: str,
    by: str,
    reason: str,
    digest: str | None,
    playbooks: Path,
) -> Taken:
    """Give one answer from the command line.

    Raises:
        ApprovalError: it was refused; the reason is journaled as well.
    """
    digest = digest or question["digest"]
    if len(digest) >= MIN_DIGEST and question["digest"].startswith(digest):
        digest = question["digest"]
    playbook = choose_playbook(case, None, playbooks)
    via = f"cli:{secrets.token_hex(8)}"
    taken = submit(case, playbook, question["step"], Answer(decision, by, reason, digest, via))
    if not taken.accepted:
        raise ApprovalError(case.id, question["step"], taken.why)
    return taken
