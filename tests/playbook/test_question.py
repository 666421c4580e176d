"""A question says plainly when the people it needs do not exist."""

from typing import Any

import pytest

from firebreak.incidents.case import Case
from firebreak.playbook.question import as_markdown, as_text
from firebreak.records import Json


def question(people: list[str], quorum: int = 1, **other: Any) -> Json:
    """A question as `gates.ask` journals it."""
    return {
        "step": "ask",
        "digest": "ab" * 32,
        "ask": ["ml-oncall", "security-lead"],
        "people": people,
        "quorum": quorum,
        "due": "2026-01-02T03:04:05.000Z",
        "otherwise": "hold",
        "plans": [{"step": "act", "flow": "recover", "actions": [{"actions": ["restore"]}]}],
        "initiator": "ana",
        "superseded": False,
        **other,
    }


@pytest.mark.parametrize("people", [[], ["ana"]])
def test_a_gate_that_nobody_but_the_initiator_could_answer_says_so(
    case: Case, people: list[str]
) -> None:
    """With what to do about it, in both forms."""
    text = as_text(case, question(people))
    assert (
        "nobody in the inventory can answer this: add a person with role ml-oncall or "
        "security-lead; only 0 of 1 needed people can."
    ) in text
    assert "**nobody in the inventory can answer this" in as_markdown(case, question(people))


def test_a_gate_that_needs_more_people_than_there_are_says_how_many_can(case: Case) -> None:
    """The initiator counts for nothing, nor does a name that stands there twice."""
    text = as_text(case, question(["ana", "bob", "bob"], quorum=2))
    assert "too few people in the inventory can answer this: add a person with role" in text
    assert "only 1 of 2 needed people can." in text


@pytest.mark.parametrize(("people", "quorum"), [(["bob"], 1), (["ana", "bob", "cid"], 2)])
def test_a_gate_that_enough_people_can_answer_says_nothing_of_it(
    case: Case, people: list[str], quorum: int
) -> None:
    """Only who may answer, as before."""
    text = as_text(case, question(people, quorum))
    assert "in the inventory can answer" not in text
    assert f"Who may answer: {', '.join(people)}; {quorum} needed" in text


def test_a_role_with_markup_stays_text(case: Case) -> None:
    """A playbook is somebody's text as well."""
    assert "**x**" not in as_markdown(case, question([], ask=["**x**"]))
