"""Detection: compare every model with its baseline and open or extend incidents."""

from prefect import flow

import firebreak.prefect_bridge as bridge
from firebreak.records import Json

bridge.expose_project()

from tasks.detect import run_checks, start_responses  # noqa: E402


@flow(name="detect", log_prints=True)
def detect(models: list[str] | None = None) -> Json:
    """Check models and the environment once.

    Args:
        models: ids to check; everything when left empty.
    """
    summary: Json = run_checks(models or [])
    summary["started"] = start_responses()
    print(  # noqa: T201 - Prefect logs it
        f"{summary['total_findings']} findings, {summary['critical_findings']} critical, "
        f"incidents: {', '.join(i['id'] for i in summary['incidents']) or 'none'}"
    )
    return summary
