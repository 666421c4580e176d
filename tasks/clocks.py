"""The clocks of all open incidents."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from firebreak.communication.clocks import tick_incident
from firebreak.incidents.case import open_case
from firebreak.incidents.store import Store
from firebreak.inventory import load_inventory
from firebreak.prefect_bridge import end_waiting_run, playbook_folder
from firebreak.records import Json


@task(cache_policy=NO_CACHE)
def tick() -> list[Json]:
    """Run the clocks of every open incident; a run that waits for a held gate is ended."""
    inventory = load_inventory()
    happened: list[Json] = []
    for row in Store(inventory.database_url).incidents():
        if row.closed_at is None:
            case = open_case(row.id, inventory)
            ran_out = tick_incident(case, playbook_folder())
            for event in ran_out:
                if event["what"] == "held":
                    end_waiting_run(case, event["step"], "nobody answered in time: held")
            happened += ran_out
    return happened
