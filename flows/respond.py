"""The response: walks a playbook through the engine, one flow per phase, people at the gates."""

from collections.abc import Callable
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed, Failed, State

import firebreak.prefect_bridge as bridge
from firebreak.containment.actions import plan_for, without_targets
from firebreak.containment.driver import Mode
from firebreak.errors import FirebreakError
from firebreak.incidents.case import Case, open_case
from firebreak.playbook.engine import RunState, Status, replay
from firebreak.playbook.schema import Playbook, Step
from firebreak.playbook.walk import walk
from firebreak.records import Json, printable
from firebreak.response import check_initiator
from firebreak.triage import NO_MODEL, is_about_model, named_playbook

bridge.expose_project()

from flows.communicate import communicate  # noqa: E402
from flows.contain import contain  # noqa: E402
from flows.investigate import investigate  # noqa: E402
from flows.recover import recover  # noqa: E402
from flows.triage import triage  # noqa: E402
from tasks.approval import ask_people  # noqa: E402
from tasks.communicate import publish_report  # noqa: E402

FLOWS: dict[str, Callable[..., Any]] = {
    "triage": triage,
    "contain": contain,
    "investigate": investigate,
    "communicate": communicate,
    "recover": recover,
}


@flow(name="respond", flow_run_name="respond-{incident}")
def respond(
    incident: str, playbook: str = "tampered-model", initiator: str = "firebreak"
) -> State[Json]:
    """Respond to an incident.

    Started again after a crash or an answer, it goes on from the incident's journal.

    Args:
        incident: incident id, such as INC-20260102-0a1b2c.
        playbook: name of the playbook.
        initiator: who starts it; cannot approve its gates.
    """
    case = open_case(incident)
    check_initiator(case.inventory, initiator)
    book = named_playbook(playbook, bridge.playbook_folder())
    run_id = str(flow_run.id)
    state = walk(
        case,
        book,
        initiator=initiator,
        run=lambda step: run_step(case, book, step),
        ask=lambda step, question, attempt: ask_people(case, step, question, attempt),
        plan=lambda step: plan_step(case, book, step),
        source={"run": run_id},
    )
    publish_report(incident, "")
    return outcome(incident, state)


def run_step(case: Case, book: Playbook, step: Step) -> Json:
    """Run one step's flow with what the playbook and the journal give it.

    Raises:
        UnknownModelError: there is no model to recover; no flow was started for it.
    """
    given: Json = dict(step.inputs)
    if step.flow == "recover":
        case.inventory.model(case.subject)
        given["approved"] = approved_candidate(case, book)
    if step.flow == "investigate":
        given["to"] = rollback_choice(book)
    if step.flow == "contain":
        given["waived_by"] = approver_of(case, book, step)
    assert step.flow is not None  # noqa: S101 - the walk runs no gates
    # Prefect's heartbeat thread costs each small flow a second; this run keeps its own heartbeat.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        result: Json = FLOWS[step.flow](incident=case.id, step=step.id, **given)
    return result


def plan_step(case: Case, book: Playbook, step: Step) -> list[Json]:
    """What a step would do, for the question at a gate. Changes nothing.

    What cannot be planned is said so: people are asked also when the model has left the inventory.
    """
    try:
        return _planned(case, book, step)
    except FirebreakError as error:
        return [{"actions": [f"cannot be planned: {printable(str(error))}"]}]


def _planned(case: Case, book: Playbook, step: Step) -> list[Json]:
    if step.flow in ("contain", "recover") and not is_about_model(case):
        verb = "contain" if step.flow == "contain" else "restore, and approving cannot succeed"
        return [{"actions": [f"nothing of ours to {verb}: {NO_MODEL}"]}]
    if step.flow == "contain":
        mode = Mode(step.inputs["mode"])
        if not case.model.targets:
            return [{"actions": [f"nothing: {without_targets(case)}"]}]
        return [plan_for(case, target, mode) for target in case.model.targets]
    if step.flow == "recover":
        model = case.model
        candidate = approved_candidate(case, book)
        if candidate is None:
            return [{"actions": ["no archived version is acceptable: approving will be held"]}]
        what = f"restore {model.id} {candidate['version']}, manifest "
        keep = "keep the compromised version as evidence, then start every target and verify it"
        restarts = [t for t in model.targets if t.scheme != "file"]
        return [
            {"actions": [what + candidate["manifest_sha256"], keep]},
            *(plan_for(case, target, Mode.DESTRUCTIVE) for target in restarts),
        ]
    return [{"actions": [f"{step.flow or 'ask'} {dict(step.inputs)}"]}]


def approved_candidate(case: Case, book: Playbook) -> Json | None:
    """The rollback candidate that the investigation named and the gate's digest covers."""
    state = replay(book, case.entries())
    for step in reversed(book.steps):
        if step.flow == "investigate" and "candidate" in state.steps[step.id].result:
            candidate: Json | None = state.steps[step.id].result["candidate"]
            return candidate
    return None


def rollback_choice(book: Playbook) -> str:
    """Which version the playbook's recovery asks for."""
    return next((s.inputs["to"] for s in book.steps if s.flow == "recover"), "last-known-good")


def approver_of(case: Case, book: Playbook, step: Step) -> str | None:
    """Who approved the gate a step stands behind: their approval accepted what is destroyed."""
    state = replay(book, case.entries())
    for before in step.after:
        if state.steps[before].approvers:
            return ", ".join(state.steps[before].approvers)
    return None


def outcome(incident: str, state: RunState) -> State[Json]:
    """The Prefect state for how the walk ended; held and failed are red, and say why."""
    reasons = "; ".join(f"{k}: {s.reason}" for k, s in state.steps.items() if s.reason)
    data = {"incident": incident, "status": state.status.value}
    if state.status is Status.COMPLETED:
        return Completed(message=f"{incident} recovered", data=data)
    if state.status is Status.WAITING:
        return Completed(message=f"{incident} waits for an approval", name="Waiting", data=data)
    return Failed(
        message=f"{incident} {state.status}: {reasons}", name=state.status.value.title(), data=data
    )
