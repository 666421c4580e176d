"""Recovery: restore the approved version, bring the service back, prove it."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from firebreak.incidents.case import open_case, working_on
from firebreak.records import Json
from firebreak.recovery.rollback import rebaseline, roll_back, verify_served


@task(cache_policy=NO_CACHE, timeout_seconds=7200)
def restore_version(incident: str, step: str, approved: Json | None, to: str) -> Json:
    """Put the approved version in place; the compromised one is kept."""
    with working_on(step):
        return roll_back(open_case(incident), approved, to)


@task(cache_policy=NO_CACHE, timeout_seconds=7200)
def verify_what_is_served(incident: str, step: str) -> Json:
    """Verify the files in place and that the services answer."""
    with working_on(step):
        return verify_served(open_case(incident))


@task(cache_policy=NO_CACHE, timeout_seconds=7200)
def seal_baseline(incident: str, step: str, version: str) -> Json:
    """Make the restored version the model's baseline."""
    with working_on(step):
        return rebaseline(open_case(incident), version)
