"""YAML with places: every refusal names file, line and column; nothing in it is executed."""

import os
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firebreak import yaml_source
from firebreak.errors import SourceError
from firebreak.yaml_source import MAX_BYTES, Node, parse_yaml, read_source, read_yaml


def refused(text: str | bytes) -> str:
    """The message with which a text is refused."""
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(SourceError) as caught:
        parse_yaml(raw, "f.yaml")
    return str(caught.value)


def node(text: str) -> Node:
    """The value of the only key of a document."""
    ((_, value),) = parse_yaml(f"key: {text}".encode(), "f.yaml").pairs()
    return value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "f.yaml:1:9: not valid YAML"),
        ("a: 1\nb: {", "f.yaml:2:5: not valid YAML"),
        ("a:\n - b\n  c: d", "f.yaml:3:4: not valid YAML"),
        ("a: \tb\n\tc: d", "f.yaml:1:4: not valid YAML"),
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1: duplicate key 'a'"),
        ("x:\n  - {b: 1, b: 2}", "f.yaml:2:12: duplicate key 'b'"),
        ("a: &x [1]\nb: *x", "f.yaml:1:4: anchors and aliases are not allowed"),
        ("a: *x", "f.yaml:1:4: anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.system [id]", "f.yaml:1:4: tag 'tag:yaml.org,2002:python"),
        ("a: !!python/object:os.system {}", "f.yaml:1:4: tag 'tag:yaml.org,2002:python"),
        ("a: !!str 5", "f.yaml:1:4: tag 'tag:yaml.org,2002:str' is not allowed"),
        ("a: !!binary aGk=", "f.yaml:1:4: tag"),
        ("a: !mine 5", "f.yaml:1:4: tag '!mine' is not allowed"),
        ("[1, 2]: 3", "f.yaml:1:1: a key must be a word"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: not valid YAML"),
        ("%YAML 9.9\n---\na: 1", "f.yaml:1:1: not valid YAML"),
        ("é: 1\nb: \x07", "f.yaml:2:4: character U+0007 is not allowed"),
        (b"a: 1\n\xc3\xa9: \xff", "f.yaml:2:4: byte 9 is not UTF-8"),
        (b"\xff\xfea\x00", "f.yaml:1:1: byte 0 is not UTF-8"),
        ("a: " + "9" * 5000, "f.yaml:1:4: a: Exceeds the limit"),
        ("a: " + "[" * 40 + "]" * 40, "f.yaml:1:35: nested deeper than 32 levels"),
        ("", "f.yaml: the file is empty"),
        ("# only a comment\n", "f.yaml: the file is empty"),
    ],
)
def test_what_the_dialect_leaves_out_is_refused_with_its_place(text, message):
    """Each refusal begins with file, line and column, and says what is wrong."""
    assert refused(text).startswith(message)


def test_an_anchor_bomb_is_refused_before_it_grows():
    """Nine lines that would be a billion values cost nothing."""
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    before = time.monotonic()
    assert "anchors and aliases are not allowed" in refused(bomb)
    assert time.monotonic() - before < 1


def test_a_file_of_very_many_values_is_refused(monkeypatch):
    """A megabyte of tiny values is stopped before anything is built from it."""
    monkeypatch.setattr(yaml_source, "MAX_NODES", 1000)
    monkeypatch.setattr(yaml_source.yaml, "compose", None)
    assert "f.yaml:1999:3: over 1000 values" in refused("- a\n" * 250_000)


def test_a_file_over_a_megabyte_is_refused(tmp_path):
    """The limit is named, and no more than that is read."""
    (tmp_path / "big.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(SourceError, match=f"big.yaml: larger than {MAX_BYTES} bytes"):
        read_yaml(tmp_path / "big.yaml")


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "socket", "device", "loop"])
def test_a_path_that_is_no_plain_file_is_one_clear_error_and_never_a_hang(tmp_path, kind):
    """A FIFO that nobody writes, a socket, a device or a folder is refused at once."""
    path = tmp_path / "f.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    outcome: list[Exception] = []

    def read() -> None:
        try:
            read_yaml(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared below
            outcome.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)
    assert not reader.is_alive()
    assert isinstance(outcome[0], SourceError)
    assert str(path) in str(outcome[0])


def test_a_link_to_the_file_is_followed(tmp_path):
    """Kubernetes mounts a configuration as links; those are ordinary."""
    (tmp_path / "real.yaml").write_text("a: 1")
    (tmp_path / "f.yaml").symlink_to("real.yaml")
    assert read_yaml(tmp_path / "f.yaml").plain() == {"a": 1}
    assert read_source(tmp_path / "f.yaml", 4) == b"a: 1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("yes", "yes"), ("off", "off"), ("0o17", "0o17"), ("017", "017"),
        ("1_000", "1_000"), ("0x1F", "0x1F"), ("12:30:45", "12:30:45"), ("1e3", "1e3"),
        (".inf", ".inf"), ("2026-01-02", "2026-01-02"), ("=", "="), ("<<", "<<"),
        ("true", True), ("null", None), ("~", None), ("-12", -12), ("1.10", 1.1),
        ("'1.10'", "1.10"),
    ],
)  # fmt: skip
def test_only_plain_numbers_and_true_and_false_are_not_text(text, value):
    """The surprises of YAML 1.1 (on, octal, sexagesimal, dates) are text here."""
    assert node(text).value == value


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (Node.text, "1.10", "expected text, got 1.1; quote it"),
        (Node.text, "true", "expected text, got True; quote it"),
        (Node.text, "[a]", "expected text, got a list"),
        (lambda n: n.text(pattern="[a-z]+", expected="a word"), '"ab\\n"', "expected a word"),
        (Node.boolean, '"true"', "expected true or false, got 'true'"),
        (lambda n: n.integer(1, 9), "true", "expected a whole number, got True"),
        (lambda n: n.integer(1, 9), "1.0", "expected a whole number, got 1.0"),
        (lambda n: n.integer(1, 9), "10", "expected 1 to 9, got 10"),
        (lambda n: n.number(0, 1), "1.5", "expected 0 to 1, got 1.5"),
        (lambda n: n.number(0, 1), "x", "expected a number, got 'x'"),
        (lambda n: n.choice(("automatic", "manual")), "manuel", "did you mean 'manual'?"),
        (lambda n: n.choice(("a", "b")), "[a]", "expected one of a, b, got a list"),
        (Node.duration, "5", "expected a duration such as 30s"),
        (Node.duration, "5 m", "expected a duration such as 30s"),
        (Node.duration, '"5m\\n"', "expected a duration such as 30s"),
        (Node.duration, "٣m", "expected a duration such as 30s"),
        (Node.items, "{}", "expected a list, got a mapping"),
        (Node.fields, "[]", "expected a mapping, got a list"),
        (lambda n: list(n.pairs()), "x", "expected a mapping, got 'x'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_both_sides(read, text, message):
    """The error says what was expected and what stands there, and where."""
    with pytest.raises(SourceError) as caught:
        read(node(text))
    assert str(caught.value).startswith("f.yaml:1:6: key: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("500ms", timedelta(seconds=0.5)),
        ("30s", timedelta(seconds=30)),
        ("4h", timedelta(hours=4)),
        ("1bd", timedelta(days=3)),
        ("5bd", timedelta(days=7)),
        ("6bd", timedelta(days=10)),
    ],
)
def test_durations_are_read(text, length):
    """Business days leave room for the week end they may straddle."""
    assert node(text).duration() == length


def test_an_unknown_key_names_the_nearest_known_one():
    """A slip of the finger is told what was meant."""
    fields = parse_yaml(b"models: 1\nchanels: 2", "f.yaml").fields()
    fields.need("models")
    fields.has("channels")
    with pytest.raises(SourceError) as caught:
        fields.done()
    assert str(caught.value) == (
        "f.yaml:2:10: document: unknown key 'chanels'; did you mean 'channels'?"
    )


def test_a_missing_key_is_named():
    """The fix says what to add."""
    with pytest.raises(SourceError, match=r"f.yaml:1:1: document: 'models' is missing; add"):
        parse_yaml(b"a: 1", "f.yaml").fields().need("models")


def test_terminal_escapes_in_keys_do_not_reach_the_error():
    """A file may be the attacker's, and its error is read in a terminal."""
    root = parse_yaml(b'"\\e[2J": 5', "f.yaml")
    with pytest.raises(SourceError) as caught:
        next(iter(root.pairs()))[1].text()
    assert str(caught.value).isprintable()


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=80)
    | st.text("ab:-[]{}&*!|>'\"#%@,?\n \t01.\\", max_size=60).map(str.encode)
    | st.text(max_size=40).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
def test_no_bytes_whatever_raise_anything_but_a_source_error(raw):
    """Hostile input has two outcomes: data with places, or the one error that names the file."""
    try:
        parse_yaml(raw, "f.yaml").plain()
    except SourceError as error:
        assert str(error).startswith("f.yaml")  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a: "x\\ud800"', "f.yaml:1:4: a: U+D800 is half a character"),
        ('a: ["x", "\\uDFFF"]', "f.yaml:1:10: a[1]: U+DFFF is half a character"),
        ('"k\\ud800": 1', "f.yaml:1:1: a key: U+D800 is half a character"),
    ],
)
def test_half_a_character_is_refused_at_its_place(text, message):
    """It cannot be written as UTF-8: not into a database, a file name or a message."""
    assert refused(text).startswith(message)


def test_a_whole_character_beyond_the_first_plane_is_text():
    """Written as itself or with eight digits."""
    assert node('"\\U0001F600 \U0001f600"').text() == "\U0001f600 \U0001f600"
