"""The pinned versions work together: what broke silently before is proven here."""

import time

import pytest
import requests

from firebreak.drill import world as worlds
from firebreak.drill.local_prefect import LocalPrefect

pytestmark = pytest.mark.prefect


@pytest.mark.slow
def test_the_served_schedule_creates_runs_that_complete(tmp_path) -> None:
    """With SQLAlchemy 2.1 schedules silently created no runs; with ours one runs and completes."""
    with (
        worlds.create(tmp_path / "world") as world,
        LocalPrefect(tmp_path / "prefect", world.inventory) as own,
    ):
        own.start_server()
        own.wait_ready()
        own.serve()
        deadline = time.monotonic() + 120
        runs: list[dict] = []
        while time.monotonic() < deadline and not runs:
            found = requests.post(
                f"{own.url}/api/flow_runs/filter",
                json={
                    "flows": {"name": {"any_": ["detect"]}},
                    "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
                },
                timeout=10,
            )
            runs = found.json()
            time.sleep(0.5)
        assert runs, "the schedule created no run"
        assert runs[0]["state_type"] == "COMPLETED", runs[0]["state"]
        assert runs[0]["auto_scheduled"] is True


def test_the_server_runs_without_calling_home(prefect: LocalPrefect) -> None:
    """Analytics are off and the UI that calls an outside host is not the default one."""
    settings = requests.get(f"{prefect.url}/api/admin/settings", timeout=10).json()
    assert settings["server"]["analytics_enabled"] is False
    assert settings["server"]["ui"]["v2_enabled"] is False
