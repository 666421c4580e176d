"""Detection: compare every model with its baseline and open or extend incidents."""

from prefect import flow

import firebreak.prefect_bridge as bridge
from firebreak.detection import Summary
from firebreak.records import Json

bridge.expose_project()

from tasks.detect import alert_channels, run_checks, start_responses  # noqa: E402


@flow(name="detect", log_prints=True)
def detect(models: list[str] | None = None) -> Json:
    """Check models and the environment once: record, start responses, then alert.

    Args:
        models: ids to check; everything when left empty.
    """
    summary = run_checks(models or [])
    try:
        started = start_responses()
    finally:  # a server that is away hides no finding, and a receiver that hangs delays no response
        _tell(summary)
        alert_channels(summary)
    summary.raise_errors()
    return {**summary.to_json(), "started": started}


def _tell(summary: Summary) -> None:
    """Write the findings into the run's log."""
    for finding in summary.findings:
        print(f"{finding.severity.value} {finding.type.value}: {finding.message}")  # noqa: T201
    print(  # noqa: T201 - Prefect logs it
        f"{len(summary.findings)} findings, {summary.criticals} critical, "
        f"incidents: {', '.join(r.incident for r in summary.recorded) or 'none'}"
    )
