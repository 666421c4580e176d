"""Recovery: restore the approved version, bring the service back, prove it, watch from there."""

from prefect import flow

import firebreak.prefect_bridge as bridge
from firebreak.containment.marking import RESTORED
from firebreak.incidents.case import open_case
from firebreak.records import Json

bridge.expose_project()

from tasks.contain import bring_target_back, mark_model  # noqa: E402
from tasks.recover import restore_version, seal_baseline, verify_what_is_served  # noqa: E402


@flow(name="recover", flow_run_name="recover-{incident}")
def recover(incident: str, step: str, approved: Json | None, to: str = "last-known-good") -> Json:
    """Put the approved version in place and serve it.

    Args:
        incident: incident id.
        step: playbook step.
        approved: version and manifest digest that people approved.
        to: which version may be chosen at all.

    Raises:
        NoKnownGoodError: no version may be restored; nothing was changed.
        RestoreError: see its message; the old or the new version is whole in its place.
    """
    receipt = restore_version(incident, step, approved, to)
    for target in open_case(incident).model.targets:
        bring_target_back(incident, step, target.uri)
    served = verify_what_is_served(incident, step)
    seal_baseline(incident, step, receipt["version"])
    mark_model(incident, step, RESTORED, receipt["version"])
    return {"version": receipt["version"], "preserved": receipt["preserved"], **served}
