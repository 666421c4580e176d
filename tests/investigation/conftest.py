"""A real case for each test."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from firebreak.incidents.case import Case

_spec = importlib.util.spec_from_file_location("firebreak_cases", Path(__file__).parents[1] / "cases.py")
