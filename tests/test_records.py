"""Records: identity of findings, times, canonical form, foreign text."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from firebreak.records import (
    TECHNIQUES,
    Finding,
    FindingType,
    Severity,
    canonical,
    digest_of,
    encodable,
    now,
    parse_timestamp,
    printable,
    timestamp,
)

ANY_TEXT = st.text(st.characters())  # lone surrogates included


def found(**evidence: object) -> Finding:
    return Finding(
        FindingType.TAMPERED, Severity.CRITICAL, "integrity", "differs", dict(evidence), "chat"
    )


@given(ANY_TEXT)
def test_printable_text_can_be_shown_and_written_whatever_it_was(text):
    """No control character and no lone surrogate is left, so a terminal and UTF-8 can take it."""
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")


@given(st.binary())
def test_printable_bytes_agree_with_the_file_name_python_makes_of_them(raw):
    """A file name is escaped alike, as bytes and as Python carries it in text."""
    assert printable(raw) == printable(raw.decode("utf-8", "surrogateescape"))


def test_printable_keeps_ordinary_text_and_escapes_the_rest():
    """Letters of any script stay; escape sequences, bidi overrides and broken bytes do not."""
    assert printable("gewicht-é-重み.bin") == "gewicht-é-重み.bin"
    assert printable(b"w\xff\x1b[2J\n") == r"w\xff\x1b[2J\n"
    assert printable("a\u202eb\ud800") == r"a\u202eb\ud800"


@given(st.recursive(ANY_TEXT | st.integers(-9, 9), lambda c: st.dictionaries(ANY_TEXT, c)))
def test_encodable_values_always_have_a_canonical_form(value):
    """Text that is not UTF-8 never stops a journal entry from being written."""
    canonical(encodable(value))


def test_encodable_changes_nothing_that_is_utf_8_already():
    """Newlines and every script stay as they were: the journal is not a terminal."""
    value = {"a": ["x\ny", "é", 1, None, True, 1.5]}
    assert encodable(value) == value


def test_canonical_form_does_not_depend_on_the_order_of_keys():
    """Two writers of the same record get the same digest."""
    assert digest_of({"b": 1, "a": [1.0, "é"]}) == digest_of({"a": [1, "é"], "b": 1})


@pytest.mark.parametrize("value", [2**53, math.nan, math.inf])
def test_numbers_that_json_readers_disagree_about_are_refused(value):
    """What cannot be read back alike everywhere is never signed."""
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical({"n": value})


@given(st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_times_survive_being_written_to_the_millisecond(moment):
    """What is written is what is read, and always ends in Z."""
    text = timestamp(moment)
    assert text.endswith("Z")
    assert parse_timestamp(text) == moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def test_times_of_other_zones_are_written_as_utc():
    """A record never depends on where it was written."""
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5)))
    assert timestamp(moment) == "2026-01-01T22:04:05.000Z"
    assert now().tzinfo is UTC


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05", "yesterday", ""])
def test_a_time_without_a_zone_is_no_time(text):
    """A naive time is refused instead of guessed."""
    with pytest.raises(ValueError):
        parse_timestamp(text)


def test_severities_are_ordered_and_the_worst_is_found():
    """Critical beats high beats medium beats low; nothing at all is low."""
    assert sorted(Severity, key=lambda s: s.rank) == list(Severity)
    assert Severity.highest([Severity.HIGH, Severity.CRITICAL, Severity.LOW]) is Severity.CRITICAL
    assert Severity.highest([]) is Severity.LOW


def test_every_finding_type_says_its_techniques_with_their_release():
    """No type is forgotten, and every id names the release it was read from."""
    assert set(TECHNIQUES) == set(FindingType)
    assert all(t.startswith("AML.T") and "@" in t for ids in TECHNIQUES.values() for t in ids)


def test_findings_survive_json():
    """What is journaled is what is read back."""
    finding = found(file="w", actual_sha256="aa")
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


def test_the_same_change_is_the_same_finding_and_another_change_is_not():
    """Identity is type, subject and the thing seen; when it was seen does not matter."""
    first = found(file="w", actual_sha256="aa", size=1)
    assert first.key == found(file="w", actual_sha256="aa", size=2).key
    assert first.key != found(file="w", actual_sha256="bb").key
    assert first.key != found(file="v", actual_sha256="aa").key
