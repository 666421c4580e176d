"""A small installation for each test."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_world import SmallWorld, make_world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
    """Two models and an inventory; the current folder is there and no variable is set."""
    for name in [n for n in os.environ if n.startswith(("FIREBREAK_", "PREFECT_API"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FIREBREAK_INVENTORY", str(tmp_path / "firebreak.yaml"))
    monkeypatch.chdir(tmp_path)
    return make_world(tmp_path)
