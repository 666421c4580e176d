"""Evidence and triage."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from firebreak.evidence.capture import capture
from firebreak.incidents.case import open_case, working_on
from firebreak.records import Json
from firebreak.triage import assess

EVIDENCE_BUDGET_S = 300.0


@task(cache_policy=NO_CACHE, timeout_seconds=3600)
def capture_evidence(incident: str, step: str) -> list[str]:
    """Capture volatile and lasting evidence once; returns the digests of what was captured."""
    with working_on(step):
        case = open_case(incident)
        model = next((m for m in case.inventory.models if m.id == case.subject), None)
        return capture(case, model, budget_s=EVIDENCE_BUDGET_S)


@task(cache_policy=NO_CACHE)
def assess_incident(incident: str, step: str) -> Json:
    """Severity, technique ids, targets and blast radius of an incident."""
    with working_on(step):
        return assess(open_case(incident)).to_json()
