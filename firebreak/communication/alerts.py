"""Short alerts about new critical findings to every webhook channel: what the earlier monitor sent.

They go out after the findings are recorded and the responses are started: a receiver that hangs
may delay neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from firebreak.communication.channels import alert, announce
from firebreak.detection import Recorded
from firebreak.errors import ChannelError, FirebreakError
from firebreak.incidents.case import open_case
from firebreak.inventory import Channel, Inventory
from firebreak.records import Finding, Severity, digest_of

MAX_ALERTS = 5  # per incident and check; the others are counted in one more


@dataclass(frozen=True, slots=True)
class _Batch:
    """New critical findings of one subject; `incident` is None when they could not be recorded."""

    incident: str | None
    place: str
    findings: tuple[Finding, ...]


def alert_new(
    inventory: Inventory, recorded: Sequence[Recorded], unrecorded: Sequence[Finding] = ()
) -> None:
    """Post the new critical findings to each webhook: per incident `MAX_ALERTS` and a count.

    A channel that fails once is left out for the rest of this call and the failure is journaled.

    Args:
        inventory: says which channels there are.
        recorded: of a check's summary; known findings are not sent again.
        unrecorded: of the same summary; sent as well, for no journal will tell of them.

    Raises:
        FirebreakError, OSError: the first failure that could not be journaled, the others in its
            notes. Every channel was tried by then.
    """
    batches = _batches(recorded, unrecorded)
    failed: list[Exception] = []
    for channel in inventory.channels:
        if channel.kind == "webhook":
            failed += _tell(inventory, channel, batches)
    if failed:
        for other in failed[1:]:
            failed[0].add_note(str(other))
        raise failed[0]


def _batches(recorded: Sequence[Recorded], unrecorded: Sequence[Finding]) -> list[_Batch]:
    batches = [_Batch(r.incident, r.incident, _critical(r.new)) for r in recorded]
    for subject in dict.fromkeys(f.subject for f in unrecorded):
        about = _critical([f for f in unrecorded if f.subject == subject])
        batches.append(_Batch(None, f"{subject} (not recorded)", about))
    return [batch for batch in batches if batch.findings]


def _critical(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(f for f in findings if f.severity is Severity.CRITICAL)


def _tell(inventory: Inventory, channel: Channel, batches: Sequence[_Batch]) -> list[Exception]:
    """Send until the channel fails; returns what could not be journaled of that."""
    for batch in batches:
        try:
            _send(channel, batch)
        except ChannelError as error:
            return _journal(inventory, channel, batch, error)
    return []


def _send(channel: Channel, batch: _Batch) -> None:
    for finding in batch.findings[:MAX_ALERTS]:
        alert(channel, finding)
    rest = batch.findings[MAX_ALERTS:]
    if rest:
        text = f"[CRITICAL] … and {len(rest)} more critical findings in {batch.place}"
        subject = f"critical: {len(rest)} more findings"
        delivery_id = digest_of({"place": batch.place, "keys": [f.key for f in rest]})[:32]
        announce(channel, Severity.CRITICAL, subject, text, delivery_id)


def _journal(
    inventory: Inventory, channel: Channel, batch: _Batch, error: ChannelError
) -> list[Exception]:
    if batch.incident is None:
        return [error]
    body = {"channel": channel.id, "template": "alert", "error": str(error)}
    try:
        open_case(batch.incident, inventory).append("message.failed", body)
    except (FirebreakError, OSError) as trouble:
        return [error, trouble]
    return []
