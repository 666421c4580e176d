"""Communication: one message over every channel; the report comes with the last one."""

from prefect import flow

import firebreak.prefect_bridge as bridge
from firebreak.records import Json

bridge.expose_project()

from tasks.communicate import publish_report, send_message  # noqa: E402


@flow(name="communicate", flow_run_name="communicate-{incident}-{template}")
def communicate(incident: str, step: str, template: str) -> Json:
    """Tell people. A channel that fails is journaled and stops nothing."""
    outcome: Json = send_message(incident, step, template)
    if template == "post_incident_report":
        outcome["report"] = publish_report(incident, step)
    return outcome
