"""Containment of one target."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from firebreak.containment.actions import bring_back, contain
from firebreak.containment.driver import Mode
from firebreak.containment.marking import mark
from firebreak.incidents.case import Case, open_case, working_on
from firebreak.inventory import Target
from firebreak.records import Json


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1, task_run_name="{mode}-{uri}")
def contain_target(incident: str, step: str, uri: str, mode: str, waived_by: str | None) -> Json:
    """Isolate or stop one target. Retried because every driver's `isolate` is idempotent."""
    with working_on(step):
        case = open_case(incident)
        return contain(case, target_of(case, uri), Mode(mode), waived_by=waived_by)


@task(cache_policy=NO_CACHE, retries=1, retry_delay_seconds=2, task_run_name="start-{uri}")
def bring_target_back(incident: str, step: str, uri: str) -> Json:
    """Start one target again, so that it loads what lies in the model's place now."""
    with working_on(step):
        case = open_case(incident)
        return bring_back(case, target_of(case, uri))


@task(cache_policy=NO_CACHE, retries=1, retry_delay_seconds=1)
def mark_model(incident: str, step: str, as_: str, version: str | None = None) -> Json:
    """Mark the model compromised or restored, in a record outside the model."""
    with working_on(step):
        return mark(open_case(incident), as_, version)


def target_of(case: Case, uri: str) -> Target:
    """The incident's target with that URI."""
    return next(target for target in case.model.targets if target.uri == uri)
