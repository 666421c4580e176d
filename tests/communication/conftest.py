"""A real case for each test."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from firebreak.incidents.case import Case
from incident_cases import make_case


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """An opened incident about the model `fraud`."""
    return make_case(tmp_path)
