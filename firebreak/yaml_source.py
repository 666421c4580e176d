"""YAML read as data that knows where each value stands, so that an error can name the line.

The dialect is deliberately smaller than YAML 1.1: no tags, no anchors, no duplicate keys, `on`,
`yes` and `0o17` are text, sizes and depths are bounded. A file may be the attacker's.
"""

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from yaml.reader import ReaderError

from firebreak.errors import SourceError
from firebreak.records import printable
from firebreak.settings import hidden

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
ID_EXPECTED = "an id of letters, digits, dot, dash and underscore"

T = TypeVar("T")
D = TypeVar("D")
_DURATION = re.compile(r"([0-9]{1,6})(ms|s|m|h|d|bd)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 core: only true and false are booleans."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", "tf"),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][-+]?[0-9]+)?$",
        "-+0123456789",
    ),
    ("tag:yaml.org,2002:null", r"^(?:null|~|)$", ["n", "~", ""]),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


class Node:
    """One value of a source file, with its place. Readers take typed values out of it."""

    def __init__(self, value: Any, where: str, name: str) -> None:
        self.value, self.where, self.name = value, where, name

    def fail(self, problem: str, fix: str = "") -> NoReturn:
        """Raise the one error of this package for source files, at this place."""
        raise SourceError(self.where, f"{printable(self.name)}: {problem}", fix)

    def plain(self) -> Any:
        """The value without places: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def text(self, *, pattern: str = "", expected: str = "text", secret: bool = False) -> str:
        """The value as text that fits a pattern, never a number turned into text.

        Args:
            pattern: that the whole text must fit.
            expected: what an error says was expected.
            secret: the value may hold credentials, so no error shows it.
        """
        shown = hidden(self.value) if secret else self._shown()
        if not isinstance(self.value, str):
            self.fail(f"expected {expected}, got {shown}", "quote it if it is meant as text")
        if pattern and not re.fullmatch(pattern, self.value):
            self.fail(f"expected {expected}, got {shown}")
        return self.value

    def boolean(self) -> bool:
        """The value as true or false."""
        if not isinstance(self.value, bool):
            self.fail(f"expected true or false, got {self._shown()}")
        return self.value

    def integer(self, low: int, high: int) -> int:
        """The value as a whole number in [low, high]."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.fail(f"expected a whole number, got {self._shown()}")
        if not low <= self.value <= high:
            self.fail(f"expected {low} to {high}, got {self.value}")
        return self.value

    def number(self, low: float, high: float) -> float:
        """The value as a number in [low, high]."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.fail(f"expected a number, got {self._shown()}")
        if not low <= self.value <= high:
            self.fail(f"expected {low} to {high}, got {self.value}")
        return float(self.value)

    def choice(self, options: tuple[str, ...]) -> str:
        """The value as one of the given words."""
        if self.value not in options:
            self.fail(
                f"expected one of {', '.join(options)}, got {self._shown()}",
                _did_you_mean(str(self.value), options),
            )
        return str(self.value)

    def duration(self) -> timedelta:
        """The value as a duration: `30s`, `5m`, `4h`, `2d`, or `5bd` (business days)."""
        match = _DURATION.fullmatch(self.value) if isinstance(self.value, str) else None
        if match is None:
            self.fail(f"expected a duration such as 30s, 5m, 4h, 2d or 5bd, got {self._shown()}")
        count, unit = int(match[1]), match[2]
        if unit == "bd":  # whole weeks hold five; the rest may straddle one week end
            weeks, rest = divmod(count, 5)
            return timedelta(days=weeks * 7 + rest + (2 if rest else 0))
        return timedelta(seconds=count * _SECONDS[unit])

    def items(self) -> "list[Node]":
        """The value as a list."""
        if not isinstance(self.value, list):
            self.fail(f"expected a list, got {self._shown()}")
        return list(self.value)

    def texts(self, *, pattern: str = "", expected: str = "text") -> tuple[str, ...]:
        """The value as a list of texts."""
        return tuple(item.text(pattern=pattern, expected=expected) for item in self.items())

    def fields(self) -> "Fields":
        """The value as a mapping whose every key must be asked for."""
        if not isinstance(self.value, dict):
            self.fail(f"expected a mapping, got {self._shown()}")
        return Fields(self)

    def pairs(self) -> "Iterator[tuple[str, Node]]":
        """The keys and values of a mapping with free keys."""
        if not isinstance(self.value, dict):
            self.fail(f"expected a mapping, got {self._shown()}")
        yield from self.value.items()

    def _shown(self) -> str:
        if isinstance(self.value, dict | list):
            return "a mapping" if isinstance(self.value, dict) else "a list"
        shown = repr(self.value)
        return shown if len(shown) <= 80 else shown[:77] + "..."


class Fields:
    """A mapping read field by field; `done` refuses every key nobody asked for."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._asked: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the key is present; counts as asking for it."""
        self._asked.add(key)
        return key in self.node.value

    def need(self, key: str) -> Node:
        """The value of a required key."""
        if not self.has(key):
            self.node.fail(f"{key!r} is missing", f"add `{key}:`")
        found: Node = self.node.value[key]
        return found

    def get(self, key: str, read: Callable[[Node], T], default: D) -> T | D:
        """The value of an optional key, read by `read`; null counts as absent."""
        if not self.has(key) or self.node.value[key].value is None:
            return default
        return read(self.node.value[key])

    def done(self) -> None:
        """Refuse unknown keys, with the nearest known one."""
        for key, child in self.node.value.items():
            if key not in self._asked:
                raise SourceError(
                    child.where,
                    f"{printable(self.node.name)}: unknown key {key!r}",
                    _did_you_mean(key, tuple(sorted(self._asked))),
                )


def read_yaml(path: Path) -> Node:
    """The root of a YAML file.

    Raises:
        SourceError: missing, unreadable, too large, not UTF-8, not YAML, duplicate keys, anchors,
            tags, too deep; with line and column where they are known.
    """
    return parse_yaml(read_source(path, MAX_BYTES, "make one with: firebreak init"), str(path))


def read_source(path: Path, limit: int, fix: str = "") -> bytes:
    """The bytes of a file that people write; links are followed, a FIFO does not block.

    Args:
        path: of the file.
        limit: bytes; a larger file is refused.
        fix: what to do when there is none.

    Raises:
        SourceError: missing, unreadable, not a plain file, or too large.
    """
    try:
        with open(path, "rb", opener=_without_blocking) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise SourceError(str(path), "is not a plain file")
            raw = stream.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = getattr(error, "strerror", None) or str(error)
        raise SourceError(str(path), f"cannot be read: {problem}", fix) from error
    if len(raw) > limit:
        raise SourceError(str(path), f"larger than {limit} bytes", "split it")
    return raw


def _without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def parse_yaml(raw: bytes, file: str) -> Node:
    """The root of YAML text; `file` is the name that errors will show. Raises: see `read_yaml`."""
    if len(raw) > MAX_BYTES:
        raise SourceError(file, f"larger than {MAX_BYTES} bytes", "split it")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        raise SourceError(
            _place(file, before), f"byte {error.start} is not UTF-8", "save as UTF-8"
        ) from error
    try:
        _refuse_extras(text, file)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = _at(file, mark) if mark else file
        raise SourceError(where, f"not valid YAML: {error.problem or error.context}") from error
    except ReaderError as error:  # a character that YAML forbids
        raise SourceError(
            _place(file, text[: error.position]),
            f"character U+{ord(text[error.position]):04X} is not allowed",
            "remove it",
        ) from error
    except RecursionError as error:
        raise SourceError(file, f"nested deeper than {MAX_DEPTH} levels", "flatten it") from error
    if root is None:
        raise SourceError(file, "the file is empty", "see docs/inventory.md for an example")
    return _Converter(file).convert(root, "document", 0)


class _Converter:
    """Turns composed YAML nodes into `Node`s, refusing what the dialect leaves out."""

    def __init__(self, file: str) -> None:
        self.file, self.count = file, 0
        self.loader = yaml.SafeLoader("")

    def convert(self, node: yaml.Node, name: str, depth: int) -> Node:
        where = _at(self.file, node.start_mark)
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NODES:
            raise SourceError(where, f"deeper than {MAX_DEPTH} levels or over {MAX_NODES} values")
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, depth), where, name)
        if isinstance(node, yaml.SequenceNode):
            children = [
                self.convert(child, f"{name}[{i}]", depth + 1) for i, child in enumerate(node.value)
            ]
            return Node(children, where, name)
        _refuse_surrogates(node.value, where, name)
        try:
            return Node(self.loader.construct_object(node), where, name)
        except ValueError as error:  # a whole number of thousands of digits
            raise SourceError(where, f"{printable(name)}: {error}") from error

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            where = _at(self.file, key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise SourceError(where, "a key must be a word")
            key = key_node.value
            _refuse_surrogates(key, where, "a key")
            if key in found:
                raise SourceError(where, f"duplicate key {key!r}", "remove one of the two")
            found[key] = self.convert(value_node, key, depth + 1)
        return found


def _refuse_surrogates(text: str, where: str, name: str) -> None:
    r"""Refuse an escape such as \ud800: half a character, which no file or database can hold."""
    if found := re.search(r"[\ud800-\udfff]", text):
        raise SourceError(
            where,
            f"{printable(name)}: U+{ord(found[0]):04X} is half a character, not text",
            "write the character itself, or \\U and eight digits",
        )


def _refuse_extras(text: str, file: str) -> None:
    """Refuse anchors, tags, depth and sheer number before anything is built from the text."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if count > 2 * MAX_NODES:
            raise SourceError(_at(file, event.start_mark), f"over {MAX_NODES} values", "split it")
        if tag := getattr(event, "tag", None):
            raise SourceError(
                _at(file, event.start_mark), f"tag {tag!r} is not allowed", "remove it"
            )
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise SourceError(
                _at(file, event.start_mark),
                "anchors and aliases are not allowed",
                "write the value out",
            )
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise SourceError(
                    _at(file, event.start_mark),
                    f"nested deeper than {MAX_DEPTH} levels",
                    "flatten it",
                )
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1


def _at(file: str, mark: Any) -> str:
    return f"{file}:{mark.line + 1}:{mark.column + 1}"


def _place(file: str, before: str) -> str:
    """Line and column of the character after `before`."""
    line = before.count("\n") + 1
    return f"{file}:{line}:{len(before) - (before.rfind(chr(10)) + 1) + 1}"


def _did_you_mean(word: str, options: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(options)}"
