"""A real case for each test of playbooks, and the folder of the shared helpers."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from firebreak.incidents.case import Case
from playbook_cases import make_case


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """An incident about the model `fraud` with one critical finding."""
    return make_case(tmp_path)
