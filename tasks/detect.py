"""Detection, starting a response when the inventory says so, and alerting."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from firebreak.communication.alerts import alert_new
from firebreak.detection import Summary, check_all
from firebreak.inventory import load_inventory
from firebreak.prefect_bridge import playbook_folder, start_response
from firebreak.records import Json
from firebreak.response import due_responses


@task(cache_policy=NO_CACHE, timeout_seconds=7200)
def run_checks(models: list[str]) -> Summary:
    """Check models (all when empty) and the environment; opens or extends incidents.

    What failed stands in the summary's `errors`, beside what was found.
    """
    return check_all(load_inventory(), models)


@task(cache_policy=NO_CACHE, retries=3, retry_delay_seconds=2)
def start_responses() -> list[Json]:
    """Start the playbook of every open incident that waits for one; safe to call often."""
    inventory = load_inventory()
    started = []
    for due in due_responses(inventory, playbook_folder()):
        run = start_response(due.incident, due.playbook, "firebreak")
        started.append({"incident": due.incident, "playbook": due.playbook, "run": run})
    return started


@task(cache_policy=NO_CACHE)
def alert_channels(summary: Summary) -> None:
    """Alert the webhooks about new critical findings; what a channel does is journaled."""
    alert_new(load_inventory(), summary.recorded, summary.unrecorded)
