"""Serve every deployment from one process: `python deployments/serve.py`.

`deployments()` is the one list of what is deployed.
"""

from datetime import timedelta
from typing import Any

import firebreak.prefect_bridge as bridge
from firebreak.inventory import Inventory, load_inventory

bridge.expose_project()

from prefect import serve  # noqa: E402
from prefect.deployments.runner import EntrypointType  # noqa: E402

from flows.clocks import clocks  # noqa: E402
from flows.detect import detect  # noqa: E402
from flows.respond import respond  # noqa: E402

CLOCKS_EVERY = timedelta(minutes=1)


def deployments(inventory: Inventory) -> list[Any]:
    """What is deployed: scheduled detection, the response, the clocks."""
    by_module = {"entrypoint_type": EntrypointType.MODULE_PATH}
    return [
        detect.to_deployment(
            "detect",
            interval=inventory.check_interval,
            concurrency_limit=1,
            tags=["firebreak"],
            description="Compare every model with its baseline; open or extend incidents.",
            **by_module,
        ),
        respond.to_deployment(
            "respond",
            tags=["firebreak"],
            description="Walk a playbook for one incident. Gates suspend and wait for people.",
            **by_module,
        ),
        clocks.to_deployment(
            "clocks",
            interval=CLOCKS_EVERY,
            concurrency_limit=1,
            tags=["firebreak"],
            description="Overdue gates, missed deadlines, stakeholder updates that are due.",
            **by_module,
        ),
    ]


if __name__ == "__main__":
    # Without this Prefect pauses every deployment when the process stops: detection would be off.
    serve(*deployments(load_inventory()), pause_on_shutdown=False)
