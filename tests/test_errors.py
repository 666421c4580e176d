"""Every error says what to do, survives pickling, and is documented."""

import inspect
import pickle
import re
from pathlib import Path

import pytest

from firebreak import errors
from firebreak.errors import FirebreakError

CLASSES = [
    c
    for _, c in inspect.getmembers(errors, inspect.isclass)
    if issubclass(c, FirebreakError) and c is not FirebreakError
]
PAGE = Path(__file__).parents[1] / "docs" / "errors.md"


def example(cls: type[FirebreakError]) -> FirebreakError:
    """An instance, with a value of the right type for each parameter."""
    values = {"str": "text", "int": 7, "float": 1.5}
    parameters = list(inspect.signature(cls).parameters.values())
    kinds = [getattr(p.annotation, "__name__", p.annotation) for p in parameters]
    return cls(*(values[kind] for kind in kinds))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_errors_carry_their_whole_signature_through_pickling(cls):
    """An error raised in one Prefect process is the same in another, notes included."""
    error = example(cls)
    error.add_note("also this")
    assert len(error.args) == len(inspect.signature(cls).parameters)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args, str(again)) == (cls, error.args, str(error))
    assert again.__notes__ == ["also this"]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_errors_show_every_value_and_the_next_move(cls):
    """The message holds what was given, the class its own hint and a sentence."""
    error = example(cls)
    for value in error.args:
        assert f"{value}" in str(error)
    assert cls.hint != FirebreakError.hint or cls is errors.FirebreakError
    assert cls.hint.strip()
    assert cls.__doc__


def test_a_source_error_without_a_fix_ends_at_the_problem():
    """Nothing dangles after the message when there is no fix to name."""
    assert str(errors.SourceError("f.yaml:1:2", "is odd")) == "f.yaml:1:2: is odd"


def test_every_error_stands_in_the_documentation_with_its_hint():
    """docs/errors.md lists exactly the classes there are, and repeats each hint word for word."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    documented = {name: hint for name, _when, hint in rows}
    assert documented == {c.__name__: c.hint.replace("|", r"\|") for c in CLASSES}


def test_the_documentation_gives_each_error_once_and_in_order():
    """A reader finds a name where the alphabet has it."""
    names = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert names == sorted(set(names))
