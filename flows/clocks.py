"""Clocks: what must not wait for anybody: overdue gates, missed deadlines, due updates."""

from prefect import flow

import firebreak.prefect_bridge as bridge
from firebreak.records import Json

bridge.expose_project()

from tasks.clocks import tick  # noqa: E402


@flow(name="clocks", log_prints=True)
def clocks() -> list[Json]:
    """Look at every open incident once."""
    happened: list[Json] = tick()
    print(f"{len(happened)} clocks ran out")  # noqa: T201 - Prefect logs it
    return happened
