"""The approval form, and the suspension that waits for it.

A gate belongs to the playbook's own flow: `ask_people` is called there, never in a task, because
a task cannot be suspended.
"""

from typing import Any, Literal
from uuid import UUID

from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import read_flow_run_input
from prefect.runtime import deployment, flow_run
from pydantic import Field, ValidationError, create_model

from firebreak.incidents.case import Case
from firebreak.playbook.gates import MAX_REASON, MIN_REASON, Answer
from firebreak.playbook.question import as_markdown
from firebreak.playbook.schema import Step
from firebreak.records import Json


class Approval(RunInput):
    """What the dialog in the Prefect UI asks for. A typed name is a claim, not a proof."""

    decision: Literal["approve", "reject"] = Field(
        description="approve: do what the plan above says. reject: hold; nothing more is done."
    )
    approver: str = Field(min_length=1, max_length=128, description="Your id in the inventory.")
    reason: str = Field(
        min_length=MIN_REASON, max_length=MAX_REASON, description="Why; it goes on record."
    )


def ask_people(case: Case, step: Step, question: Json, attempt: str) -> Answer | None:
    """Suspend this flow run until somebody answers, and return the answer after the restart.

    The key names step, round and attempt: a stored answer can never count for another question.
    Which question a key showed is journaled, so that an answer that comes after the evidence has
    changed is refused with that reason instead of being lost.

    Returns: the answer; None when this run has no deployment and so cannot be suspended.
    """
    if not deployment.id:
        return None
    run = str(flow_run.id)
    if (late := _late_answer(case, run, step.id, question["digest"])) is not None:
        return late
    key = f"{step.id}-{attempt}"
    _note_shown(case, run, step.id, key, question["digest"])
    form = _form(question["people"]).with_initial_data(description=as_markdown(case, question))
    try:
        answer = suspend_flow_run(wait_for_input=form, key=key)
    except ValidationError as error:  # resumed by force, without the form
        return _answer(
            run, key, question["digest"], {"reason": f"malformed: {error.error_count()}"}
        )
    return _answer(run, key, question["digest"], answer.model_dump() if answer else {})


def _form(people: list[str]) -> type[Approval]:
    """The form with the people who may answer as a dropdown."""
    if not people:
        return Approval
    options: Any = Literal[tuple(people)]
    field = Field(description="Who you are.")
    return create_model("Approval", __base__=Approval, approver=(options, field))


def _answer(run: str, key: str, digest: str, raw: Json) -> Answer:
    return Answer(
        decision=str(raw.get("decision", "")),
        approver=str(raw.get("approver", "")),
        reason=str(raw.get("reason", "")),
        digest=digest,
        via=f"prefect:{run}:{key}",
    )


def _note_shown(case: Case, run: str, step: str, key: str, digest: str) -> None:
    shown = {"step": step, "run": run, "key": key, "digest": digest}
    if not any(e.kind == "gate.shown" and e.body == shown for e in case.entries()):
        case.append("gate.shown", shown)


def _late_answer(case: Case, run: str, step: str, digest: str) -> Answer | None:
    """An answer to an earlier question of this run that nobody has taken or refused yet."""
    entries = case.entries()
    seen = {e.body.get("via") for e in entries if e.kind in ("gate.answered", "gate.refused")}
    for entry in entries:
        body = entry.body
        if entry.kind != "gate.shown" or (body["run"], body["step"]) != (run, step):
            continue
        if body["digest"] == digest or f"prefect:{run}:{body['key']}" in seen:
            continue
        if stored := stored_answer(run, body["key"]):
            return _answer(run, body["key"], body["digest"], stored)
    return None


def stored_answer(run: str, key: str) -> Json | None:
    """What Prefect stored as the answer for a key; None when nobody answered."""
    found = read_flow_run_input(f"suspended-{key}-response", flow_run_id=UUID(run))
    return dict(found) if isinstance(found, dict) else None
