"""Detection, and starting a response when the inventory says so."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from firebreak.communication.alerts import alert_all
from firebreak.detection import detect
from firebreak.inventory import load_inventory
from firebreak.prefect_bridge import playbook_folder, start_response
from firebreak.records import Json
from firebreak.response import due_responses


@task(cache_policy=NO_CACHE, timeout_seconds=7200)
def run_checks(models: list[str]) -> Json:
    """Check models (all when empty) and the environment; opens or extends incidents."""
    inventory = load_inventory()
    return detect(inventory, models, on_critical=alert_all(inventory)).to_json()


@task(cache_policy=NO_CACHE, retries=3, retry_delay_seconds=2)
def start_responses() -> list[Json]:
    """Start the playbook of every open incident that waits for one; safe to call often."""
    inventory = load_inventory()
    started = []
    for due in due_responses(inventory, playbook_folder()):
        run = start_response(due.incident, due.playbook, "firebreak")
        started.append({"incident": due.incident, "playbook": due.playbook, "run": run})
    return started
