"""Investigation: every task reads; none loads or runs anything of the model."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from firebreak.incidents.case import open_case, working_on
from firebreak.investigation.compare import compare_with_reference
from firebreak.investigation.logs import analyse_log
from firebreak.investigation.scan import scan_model
from firebreak.investigation.signature import check_signature
from firebreak.records import Finding, Json
from firebreak.recovery.rollback import judge


@task(cache_policy=NO_CACHE, timeout_seconds=3600)
def scan_files(incident: str, step: str) -> int:
    """Look for dangerous files and verify the signature; returns how many findings were new."""
    with working_on(step):
        case = open_case(incident)
        signature = check_signature(case.model, case.inventory.cosign_key)
        return len(case.add_findings([*scan_model(case.model), *signature]))


@task(cache_policy=NO_CACHE, timeout_seconds=3600)
def compare_reference(incident: str, step: str) -> Json:
    """Compare the model with its reference directory; `{"compared": false}` without one."""
    with working_on(step):
        case = open_case(incident)
        model = case.model
        if model.reference is None:
            return {"compared": False, "why": "the inventory names no reference"}
        found = compare_with_reference(model.path, model.reference, model.id)
        case.add_findings(found.to_findings())
        return {"compared": True, **found.to_json()}


@task(cache_policy=NO_CACHE, timeout_seconds=3600)
def analyse_logs(incident: str, step: str) -> int:
    """Search the model's pipeline logs; returns how many findings were new."""
    with working_on(step):
        case = open_case(incident)
        findings: list[Finding] = []
        for path in case.model.pipeline_logs:
            findings += analyse_log(path, case.subject)
        return len(case.add_findings(findings))


@task(cache_policy=NO_CACHE, timeout_seconds=7200)
def judge_candidates(incident: str, step: str, to: str) -> Json:
    """Every archived version with the reasons for or against it, and the one to restore."""
    with working_on(step):
        return judge(open_case(incident), to)
