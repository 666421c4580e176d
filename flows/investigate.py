"""Investigation: files, reference, logs, and which archived version may be restored."""

from prefect import flow

import firebreak.prefect_bridge as bridge
from firebreak.records import Json

bridge.expose_project()

from tasks.communicate import publish_report  # noqa: E402
from tasks.investigate import (  # noqa: E402
    analyse_logs,
    compare_reference,
    judge_candidates,
    scan_files,
)


@flow(name="investigate", flow_run_name="investigate-{incident}")
def investigate(incident: str, step: str, to: str = "last-known-good") -> Json:
    """Read everything there is to read; load, import and run nothing of the model."""
    found = scan_files(incident, step) + analyse_logs(incident, step)
    reference = compare_reference(incident, step)
    judged = judge_candidates(incident, step, to)
    publish_report(incident, step)
    return {"new_findings": found, "reference": reference, **judged}
