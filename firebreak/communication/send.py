"""One message over every channel: once each, journaled, and never in the way of the rest."""

import hashlib
from typing import Any

from firebreak.communication.channels import Delivery, deliver
from firebreak.communication.context import context
from firebreak.communication.templates import Message, render
from firebreak.errors import FirebreakError
from firebreak.incidents.case import Case, current_step
from firebreak.inventory import Channel
from firebreak.records import Json, digest_of, timestamp

NOBODY = "no channel is configured: nobody was told"


def send(case: Case, template: str, *, sequence: int = 1, **overrides: Any) -> Json:
    """Tell the people of a template about the incident, over every channel of the inventory.

    Rendered once. The message id is a digest of (incident, step, template, sequence), so a restart
    after a crash sends nothing twice. What fails is journaled (`message.failed`) and returned: a
    template or channel that does not work never stops the response.

    Args:
        case: the incident; the step is the one that `working_on` names.
        template: template name.
        sequence: 1, 2, … for the same template sent several times within one step.
        **overrides: values for the template that people supplied.

    Returns: `{"id", "template", "subject", "audience", "due_at", "sent": [channel], "failed":
        [{"channel", "error"}], "told": whether anybody was told}`.
    """
    step = current_step()
    message_id = digest_of(
        {"incident": case.id, "step": step, "template": template, "sequence": sequence}
    )[:32]
    result: Json = {"id": message_id, "template": template, "sent": [], "failed": []}
    try:
        values = context(case, **overrides)
        message = render(template, values, case.inventory.home / "templates")
    except FirebreakError as error:
        _failed(case, result, "", str(error))
        return {**result, "told": False}
    result["subject"], result["audience"] = message.subject, message.audience
    result["due_at"] = timestamp(message.due_at) if message.due_at else None
    if not case.inventory.channels:
        _failed(case, result, "", NOBODY)
    delivery = Delivery(message_id, case.id, str(values.get("severity", "unknown")), message)
    for channel in case.inventory.channels:
        _send_over(case, channel, delivery, f"{channel.id}/{template}-{sequence}", result)
    return {**result, "told": bool(result["sent"])}


def _send_over(case: Case, channel: Channel, delivery: Delivery, target: str, result: Json) -> None:
    message = delivery.message
    try:
        case.perform("send", target, lambda: deliver(channel, delivery), _plan(message))
    except Exception as error:  # noqa: BLE001 - containment never stops because of a message
        known = isinstance(error, FirebreakError)
        _failed(case, result, channel.id, str(error) if known else type(error).__name__)
        return
    body = {"channel": channel.id, "template": message.template, "id": delivery.id}
    if not any(e.kind == "message.sent" and body.items() <= e.body.items() for e in case.entries()):
        case.append("message.sent", {**body, "subject": message.subject})
    result["sent"].append(channel.id)


def _plan(message: Message) -> Json:
    """What is about to be said, by digest."""
    return {"subject": message.subject, "sha256": hashlib.sha256(message.text.encode()).hexdigest()}


def _failed(case: Case, result: Json, channel: str, problem: str) -> None:
    """Journal and return a failure; `channel` is empty when none was reached."""
    body = {"channel": channel, "template": result["template"], "error": problem}
    case.append("message.failed", {**body, "id": result["id"]})
    result["failed"].append({"channel": channel, "error": problem})
