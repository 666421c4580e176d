"""The clocks of all open incidents."""

from datetime import timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from firebreak.communication.clocks import tick_incident
from firebreak.errors import ClocksError, FirebreakError
from firebreak.incidents.case import open_case
from firebreak.incidents.store import Store
from firebreak.incidents.view import view
from firebreak.inventory import load_inventory
from firebreak.prefect_bridge import end_waiting_run, playbook_folder
from firebreak.records import IncidentStatus, Json, now, parse_timestamp

LOOK_BACK = timedelta(hours=1)  # how long after its end an incident's waiting run is looked for


@task(cache_policy=NO_CACHE)
def tick() -> list[Json]:
    """Run the clocks of every open incident; a run that waits for a held incident is ended.

    Raises:
        ClocksError: what went wrong, after every other incident had its turn.
    """
    inventory = load_inventory()
    happened: list[Json] = []
    problems: list[str] = []
    for row in Store(inventory.database_url).incidents():
        if row.closed_at is not None and parse_timestamp(row.closed_at) < now() - LOOK_BACK:
            continue
        try:
            case = open_case(row.id, inventory)
            if row.closed_at is None:
                happened += tick_incident(case, playbook_folder())
            status = view(case.entries()).status
            if status in (IncidentStatus.HELD, IncidentStatus.FAILED, IncidentStatus.CLOSED):
                end_waiting_run(case, f"the incident is {status}")
        except FirebreakError as error:
            problems.append(f"{row.id}: {error}")
    if problems:
        raise ClocksError("; ".join(problems))
    return happened
