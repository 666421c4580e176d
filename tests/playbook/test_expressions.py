"""The expression language: small, exact about columns, and closed to everything else."""

from typing import Any

import pytest

from firebreak.errors import ExpressionError
from firebreak.playbook.expressions import MAX_DEPTH, MAX_LENGTH, Expression

FACTS: dict[str, Any] = {
    "incident": {"severity": "high", "subject": "fraud", "types": ["a", "b"]},
    "steps": {
        "isolate": {"proven": 2, "partial": False, "rate": 0.5, "none": None, "nested": {"x": 1}},
        "find-out": {"candidate": None, "list": [1, "two", True]},
    },
}

TRUE = [
    'incident.severity == "high"',
    "incident.severity == 'high'",
    'incident.severity in ["critical", "high"]',
    'incident.severity not in ["low"]',
    '"a" in incident.types',
    "steps.isolate.proven == 2",
    "steps.isolate.proven == 2.0",
    "steps.isolate.proven != 3",
    "steps.isolate.proven >= 2 and steps.isolate.proven < 3",
    "steps.isolate.rate > -1",
    "steps.isolate.partial == false",
    "not steps.isolate.partial",
    "not not true",
    "steps.isolate.none == null",
    "steps.find-out.candidate == null",
    "steps.isolate.nested.x == 1",
    "true or false and false",
    "(true or false) and true",
    "(1 == 1) == true",
    '  incident.subject  ==\t"fraud" ',
    "[1, 2] == [1, 2]",
    '"two" in steps.find-out.list',
    "1 == 1 or steps.nothing.here",  # what is not needed is not looked up
]

FALSE = [
    'incident.severity == "critical"',
    "steps.isolate.proven == true",  # 1 == True in Python, not here
    "1 == true",
    "0 == false",
    "1 in [true]",
    "[true] == [1]",
    "steps.isolate.proven == '2'",
    "null == false",
    '"" == null',
    "[] == null",
    "steps.isolate.partial",
    "false and steps.nothing.here == 1",
]

UNPARSABLE = [
    ("", 1, "ends too early"),
    ("   ", 1, "ends too early"),
    ("incident.severity ==", 21, "ends too early"),
    ("== 3", 1, "expected a value"),
    ("1 = 1", 3, "cannot be read here"),
    ("1 === 1", 5, "cannot be read here"),
    ("1 < 2 < 3", 7, "unexpected '<'"),
    ('"open', 1, "cannot be read here"),
    ('"a" "b"', 5, "unexpected"),
    ("(1 == 1", 8, "expected ')'"),
    ("1 == 1)", 7, "unexpected ')'"),
    ("[1, 2", 6, "expected ','"),
    ("[1,]", 4, "expected a value"),
    ("[1 2]", 4, "expected ','"),
    ("1 not 2", 7, "expected 'in' after 'not'"),
    ("and true", 1, "expected a value"),
    ("True == true", 1, "unknown name 'True'"),
    ("severity == 1", 1, "unknown name 'severity'"),
    ("incident == 1", 1, "unknown name 'incident'"),
    ("steps == 1", 1, "unknown name 'steps'"),
    ("1 + 1 == 2", 3, "cannot be read here"),
    ("1 & 1", 3, "cannot be read here"),
    (r'"a\"b" == 1', 1, "cannot be read here"),
    ('"a\nb" == 1', 1, "cannot be read here"),
    ("incident..severity == 1", 9, "cannot be read here"),
    ("٣ == 3", 1, "cannot be read here"),  # an Arabic three
    ("incident.sеverity == 1", 11, "cannot be read here"),  # a Cyrillic e  # noqa: RUF001
]

INJECTIONS = [
    "__import__('os').system('id')",
    "incident.severity.__class__.__mro__",
    "incident.__class__ == 1",
    "(lambda: true)()",
    "lambda x: x",
    "[x for x in incident.types]",
    "f'{incident.severity}' == 'high'",
    "f'{1}'",
    "incident.types[0] == 'a'",
    "incident['severity'] == 'high'",
    "incident.types.append('x')",
    "steps.isolate.keys() == 1",
    "eval('1') == 1",
    "{'a': 1} == 1",
    "1 if true else 2",
    "(a := 1) == 1",
    "`id`",
    "$(id)",
    "{{ 7 * 7 }}",
    "true; import os",
    "print == 1",
    "steps.isolate.__getattribute__ == 1",
    "steps.isolate.__len__",
    "incident.severity.upper == 'HIGH'",
    "steps.isolate.proven.real == 2",
    "incident.types.0 == 'a'",
    "*incident.types",
    "b'high' == incident.severity",
    "# comment",
    "0x10 == 16",
    "1e3 == 1000",
]


@pytest.mark.parametrize("source", TRUE)
def test_what_holds_is_true(source: str) -> None:
    """Comparison, membership and boolean logic over facts."""
    assert Expression(source).evaluate(FACTS) is True


@pytest.mark.parametrize("source", FALSE)
def test_what_does_not_hold_is_false(source: str) -> None:
    """Types are never mixed: one is not true, text is not a number."""
    assert Expression(source).evaluate(FACTS) is False


@pytest.mark.parametrize(("source", "column", "problem"), UNPARSABLE)
def test_a_malformed_expression_names_the_column(source: str, column: int, problem: str) -> None:
    """Every parse error carries the place, counted from 1, and what was expected."""
    with pytest.raises(ExpressionError) as caught:
        Expression(source)
    _, found, text = caught.value.args
    assert (found, problem in text) == (column, True), str(caught.value)


@pytest.mark.parametrize("source", INJECTIONS)
def test_nothing_of_python_is_reachable(source: str) -> None:
    """Calls, attributes, comprehensions, literals of Python: refused when parsed or evaluated."""
    with pytest.raises(ExpressionError):
        Expression(source).evaluate(FACTS)


@pytest.mark.parametrize(
    "source",
    [
        "steps.nothing.here == 1",
        "steps.isolate.nothing == null",
        "not steps.isolate.nothing",
        "steps.isolate.proven.deeper == 1",
        "steps.isolate.nothing != 1",
        'steps.isolate.nothing not in ["a"]',
        "steps.nothing.here or true",
    ],
)
def test_unknown_is_an_error_and_never_false(source: str) -> None:
    """A fact that is not there must not decide anything, whichever way."""
    with pytest.raises(ExpressionError, match="not known here"):
        Expression(source).evaluate(FACTS)


@pytest.mark.parametrize(
    "source",
    [
        'incident.severity > "high"',
        '"a" < "b"',
        "true < false",
        "1 < true",
        "null < 1",
        "[1] < [2]",
        "1 in 1",
        '"a" in "abc"',
        "1 in null",
    ],
)
def test_order_is_for_numbers_and_membership_for_lists(source: str) -> None:
    """`severity > "high"` would compare letters: an error, not an answer."""
    with pytest.raises(ExpressionError, match="cannot compare"):
        Expression(source).evaluate(FACTS)


@pytest.mark.parametrize("source", ["1", '"yes"', "null", "[true]", "incident.severity", "not 1"])
def test_only_true_and_false_decide(source: str) -> None:
    """There is no truthiness: a number or a text is no decision."""
    with pytest.raises(ExpressionError):
        Expression(source).evaluate(FACTS)


@pytest.mark.parametrize("source", ["1 and true", "false or 1", 'true and "x"'])
def test_parts_of_and_and_or_are_true_or_false_too(source: str) -> None:
    """A text between `and` and `or` is an error."""
    with pytest.raises(ExpressionError, match="true or false is needed"):
        Expression(source).evaluate(FACTS)


@pytest.mark.parametrize("opening", ["(", "[", "not "])
def test_nesting_is_bounded(opening: str) -> None:
    """Too deep is an error with a column, not a crash of the interpreter."""
    with pytest.raises(ExpressionError, match="nested deeper"):
        Expression(opening * 200 + "1")
    closing = {"(": ")", "[": "]", "not ": ""}[opening]
    Expression(opening * MAX_DEPTH + "true" + closing * MAX_DEPTH)


def test_length_is_bounded_and_the_error_is_short() -> None:
    """A text beyond the bound is refused without repeating it."""
    assert Expression("true" + " " * (MAX_LENGTH - 4)).evaluate(FACTS)
    with pytest.raises(ExpressionError) as caught:
        Expression("true or " * 200 + "true")
    assert len(str(caught.value)) < 200


def test_a_very_long_number_is_only_a_number() -> None:
    """Digits up to the length bound neither fail nor become infinite silently."""
    assert Expression("9" * 900 + " > 1").evaluate(FACTS)


def test_names_are_listed_once_in_order() -> None:
    """The schema checks them before anything runs."""
    source = 'steps.b.x == 1 and incident.severity == "a" and steps.b.x == 2'
    assert Expression(source).names == ("steps.b.x", "incident.severity")
