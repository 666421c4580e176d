"""One short alert per critical finding to every webhook channel: what the earlier monitor sent."""

from collections.abc import Callable

from firebreak.communication.channels import alert
from firebreak.errors import ChannelError
from firebreak.incidents.case import open_case
from firebreak.incidents.store import Store
from firebreak.inventory import Inventory
from firebreak.records import Finding


def alert_all(inventory: Inventory) -> Callable[[Finding], None]:
    """A callback for `detect`: posts a finding to each webhook; a failure is journaled, not raised.

    Detection goes on whatever a channel does.
    """

    def send(finding: Finding) -> None:
        for channel in inventory.channels:
            if channel.kind != "webhook":
                continue
            try:
                alert(channel, finding)
            except ChannelError as error:
                incident = Store(inventory.database_url).open_incident_of(finding.subject)
                if incident is not None:
                    body = {"channel": channel.id, "template": "alert", "error": str(error)}
                    open_case(incident, inventory).append("message.failed", body)

    return send
