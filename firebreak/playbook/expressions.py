"""The expression language of playbooks: comparison, membership and boolean logic over facts.

    incident.severity in ["critical", "high"] and not steps.isolate.partial == true

Names are dotted paths into the facts given at evaluation; there is no attribute access on objects,
no call, no arithmetic. Grammar, lowest binding first:

    or   := and ("or" and)*
    and  := not ("and" not)*
    not  := "not" not | compare
    compare := value (("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in") value)?
    value := text | number | true | false | null | list | name | "(" or ")"
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from firebreak.errors import ExpressionError

MAX_LENGTH = 1000
MAX_DEPTH = 20
ROOTS = ("incident", "steps")

Evaluate = Callable[[Mapping[str, Any]], Any]
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>"[^"\\\n]*"|'[^'\\\n]*')
    | (?P<number>-?\d+(?:\.\d+)?)
    | (?P<name>[A-Za-z_][\w-]*(?:\.[A-Za-z_0-9][\w-]*)*)
    | (?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    )""",
    re.VERBOSE | re.ASCII,  # a digit or letter of another script only looks like what it is not
)
_WORDS = {"true": True, "false": False, "null": None}
_RESERVED = {"and", "or", "not", "in"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    column: int


class Expression:
    """A parsed expression. Parsing proves its form; evaluation may still find a fact missing."""

    def __init__(self, source: str) -> None:
        self.source = source
        parser = _Parser(source)
        self._evaluate = parser.parse()
        self.names = tuple(dict.fromkeys(parser.names))

    def evaluate(self, facts: Mapping[str, Any]) -> bool:
        """Whether the expression holds for the facts.

        Raises:
            ExpressionError: a name leads nowhere, values cannot be compared, or the outcome is
                not true or false. Unknown is never read as false.
        """
        outcome = self._evaluate(facts)
        if not isinstance(outcome, bool):
            raise ExpressionError(self.source, 1, f"is {outcome!r}, expected true or false")
        return outcome


class _Parser:
    """Recursive descent over the tokens; builds closures."""

    def __init__(self, source: str) -> None:
        self.source, self.place, self.depth = source, 0, 0
        self.names: list[str] = []
        self.tokens = self._tokens()

    def parse(self) -> Evaluate:
        """The whole expression. Raises: ExpressionError."""
        parsed = self._or()
        if self._peek().kind != "end":
            self._fail(f"unexpected {self._peek().text!r}")
        return parsed

    def _tokens(self) -> list[_Token]:
        if len(self.source) > MAX_LENGTH:
            raise ExpressionError(self.source[:40] + "…", 1, f"longer than {MAX_LENGTH} characters")
        tokens, place = [], 0
        end = len(self.source.rstrip())
        while place < end:
            match = _TOKEN.match(self.source, place)
            if match is None or match.lastgroup is None:
                spaces = len(self.source[place:]) - len(self.source[place:].lstrip())
                raise ExpressionError(self.source, place + spaces + 1, "cannot be read here")
            start = match.start(match.lastgroup)
            tokens.append(_Token(match.lastgroup, match[match.lastgroup], start + 1))
            place = match.end()
        return [*tokens, _Token("end", "", end + 1)]

    def _or(self) -> Evaluate:
        return self._chain("or", self._and, any)

    def _and(self) -> Evaluate:
        return self._chain("and", self._not, all)

    def _chain(
        self, word: str, part: Callable[[], Evaluate], join: Callable[[Any], bool]
    ) -> Evaluate:
        parts = [part()]
        while self._take(word):
            parts.append(part())
        if len(parts) == 1:
            return parts[0]
        return lambda facts: join(_truth(self.source, p(facts)) for p in parts)

    def _not(self) -> Evaluate:
        if self._take("not"):
            inner = self._nested(self._not)
            return lambda facts: not _truth(self.source, inner(facts))
        return self._compare()

    def _compare(self) -> Evaluate:
        left = self._value()
        token = self._peek()
        operator = token.text if token.kind in ("sign", "name") else ""
        if operator == "not":
            self.place += 1
            if not self._take("in"):
                self._fail("expected 'in' after 'not'")
            operator = "not in"
        elif operator in _OPERATORS:
            self.place += 1
        else:
            return left
        right = self._value()
        compare = _OPERATORS[operator]

        def evaluate(facts: Mapping[str, Any]) -> bool:
            a, b = left(facts), right(facts)
            try:
                return compare(a, b)
            except TypeError as error:
                raise ExpressionError(
                    self.source, token.column, f"cannot compare {a!r} {operator} {b!r}"
                ) from error

        return evaluate

    def _value(self) -> Evaluate:
        token = self._peek()
        self.place += 1
        if token.kind == "text":
            return _constant(token.text[1:-1])
        if token.kind == "number":
            return _constant(float(token.text) if "." in token.text else int(token.text))
        if token.text == "(":
            inner = self._nested(self._or)
            self._need(")")
            return inner
        if token.text == "[":
            return self._list()
        if token.kind == "name" and token.text in _WORDS:
            return _constant(_WORDS[token.text])
        if token.kind == "name" and token.text not in _RESERVED:
            return self._name(token)
        self.place -= 1
        problem = "expected a value" if token.kind != "end" else "ends too early"
        raise ExpressionError(self.source, token.column, problem)

    def _list(self) -> Evaluate:
        items: list[Evaluate] = []
        while not self._take("]"):
            if items:
                self._need(",")
            items.append(self._nested(self._value))
        return lambda facts: [item(facts) for item in items]

    def _name(self, token: _Token) -> Evaluate:
        parts = token.text.split(".")
        if parts[0] not in ROOTS or len(parts) < 2:
            raise ExpressionError(
                self.source,
                token.column,
                f"unknown name {token.text!r}, names begin with incident. or steps.",
            )
        self.names.append(token.text)

        def evaluate(facts: Mapping[str, Any]) -> Any:
            found: Any = facts
            for part in parts:
                if not isinstance(found, Mapping) or part not in found:
                    raise ExpressionError(
                        self.source, token.column, f"{token.text!r} is not known here"
                    )
                found = found[part]
            return found

        return evaluate

    def _nested(self, part: Callable[[], Evaluate]) -> Evaluate:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH}")
        try:
            return part()
        finally:
            self.depth -= 1

    def _peek(self) -> _Token:
        return self.tokens[self.place]

    def _take(self, text: str) -> bool:
        token = self._peek()
        if token.kind in ("name", "sign") and token.text == text:
            self.place += 1
            return True
        return False

    def _need(self, text: str) -> None:
        if not self._take(text):
            self._fail(f"expected {text!r}")

    def _fail(self, problem: str) -> NoReturn:
        raise ExpressionError(self.source, self._peek().column, problem)


def _constant(value: Any) -> Evaluate:
    return lambda _facts: value


def _truth(source: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ExpressionError(source, 1, f"{value!r} stands where true or false is needed")
    return value


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Order is defined between numbers only: `severity > "high"` would compare letters."""

    def check(a: Any, b: Any) -> bool:
        if not (_is_number(a) and _is_number(b)):
            raise TypeError
        return compare(a, b)

    return check


def _same(a: Any, b: Any) -> bool:
    if _is_number(a) and _is_number(b):
        return bool(a == b)
    if isinstance(a, list) and isinstance(b, list):  # [true] is not [1]
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _member(a: Any, b: Any) -> bool:
    if not isinstance(b, list | tuple):
        raise TypeError
    return any(_same(a, item) for item in b)


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": _same,
    "!=": lambda a, b: not _same(a, b),
    "<": _ordered(lambda a, b: a < b),
    "<=": _ordered(lambda a, b: a <= b),
    ">": _ordered(lambda a, b: a > b),
    ">=": _ordered(lambda a, b: a >= b),
    "in": _member,
    "not in": lambda a, b: not _member(a, b),
}
