"""Triage: evidence first, most volatile first, then severity and blast radius."""

from prefect import flow

import firebreak.prefect_bridge as bridge
from firebreak.records import Json

bridge.expose_project()

from tasks.assess import assess_incident, capture_evidence  # noqa: E402


@flow(name="triage", flow_run_name="triage-{incident}")
def triage(incident: str, step: str) -> Json:
    """Capture evidence before anything else acts, then assess the incident."""
    captured = capture_evidence(incident, step)
    assessment: Json = assess_incident(incident, step)
    return {**assessment, "evidence": len(captured)}
