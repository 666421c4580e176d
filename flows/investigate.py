"""Investigation: files, reference, logs, and which archived version may be restored."""

from prefect import flow

import firebreak.prefect_bridge as bridge
from firebreak.incidents.case import open_case
from firebreak.records import Json
from firebreak.triage import NO_MODEL, is_about_model

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
    """Read everything there is to read; load, import and run nothing of the model.

    Without a model there is only the report; the result then says why under `problem`.
    """
    if not is_about_model(open_case(incident)):
        publish_report(incident, step)
        reference = {"compared": False, "why": NO_MODEL}
        judged: Json = {"candidates": [], "candidate": None, "problem": NO_MODEL}
        return {"new_findings": 0, "reference": reference, **judged}
    found = scan_files(incident, step) + analyse_logs(incident, step)
    reference = compare_reference(incident, step)
    judged = judge_candidates(incident, step, to)
    publish_report(incident, step)
    return {"new_findings": found, "reference": reference, **judged}
