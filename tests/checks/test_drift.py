"""Behaviour drift: the divergence is right, the threshold strict, hostile outputs harmless."""

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firebreak.checks import drift
from firebreak.checks.drift import check_drift, jensen_shannon, read_distribution, read_outputs
from firebreak.errors import SourceError
from firebreak.inventory import Behavior, Model
from firebreak.records import FindingType, Severity

MODEL = Model("chat", Path("/models/chat"), "firebreak.yaml:1:1")
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-6, 1e9), min_size=1, max_size=6)


def outputs(folder: Path, lines: list[object]) -> Path:
    path = folder / "outputs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def check(path: Path, baseline: dict[str, float], **more: object):
    return check_drift(MODEL, Behavior(path, baseline, None, **more))


@pytest.mark.parametrize(
    ("p", "q", "nats"),
    [
        ({"a": 1}, {"b": 1}, math.log(2)),
        ({"a": 1, "b": 3}, {"a": 10, "b": 30}, 0.0),
        # M = (3/4, 1/4): half of 1*ln(4/3), half of (1/2 ln(2/3) + 1/2 ln 2)
        (
            {"a": 1},
            {"a": 1, "b": 1},
            math.log(4 / 3) / 2 + (math.log(2 / 3) + math.log(2)) / 4,
        ),
        # M = (1/2, 1/2): both sides are 0.9 ln 1.8 + 0.1 ln 0.2
        ({"a": 0.9, "b": 0.1}, {"a": 0.1, "b": 0.9}, 0.9 * math.log(1.8) + 0.1 * math.log(0.2)),
        ({"a": 1, "b": 0}, {"a": 1}, 0.0),
    ],
)
def test_known_divergences(p, q, nats):
    """Worked out by hand from the definition, in natural logarithms."""
    assert jensen_shannon(p, q) == pytest.approx(nats, abs=1e-12)


@given(WEIGHTS, WEIGHTS)
def test_divergence_is_symmetric_and_bounded(p, q):
    """Which of the two is the baseline does not matter; the value is in [0, ln 2]."""
    value = jensen_shannon(p, q)
    assert 0 <= value <= math.log(2)
    assert jensen_shannon(q, p) == pytest.approx(value, abs=1e-12)


@given(WEIGHTS, st.floats(0.01, 1e3))
def test_a_distribution_does_not_diverge_from_itself_however_it_is_scaled(p, factor):
    """Counts and probabilities can be compared with each other."""
    scaled = {name: weight * factor for name, weight in p.items()}
    assert jensen_shannon(p, scaled) == pytest.approx(0, abs=1e-12)


def test_a_distribution_without_weight_is_refused():
    """There is nothing to compare with."""
    with pytest.raises(ValueError, match="need positive weight, got 0"):
        jensen_shannon({"a": 0}, {"a": 1})


def test_the_threshold_is_strict(tmp_path):
    """Exactly at the threshold is quiet; a hair above it is drift, with all the evidence."""
    path = outputs(tmp_path, [{"label": "a"}] * 3 + [{"predicted_class": "b"}])
    exact = jensen_shannon({"a": 0.5, "b": 0.5}, {"a": 3, "b": 1})
    baseline = {"a": 0.5, "b": 0.5}
    assert check(path, baseline, threshold=exact) == []
    (found,) = check(path, baseline, threshold=math.nextafter(exact, 0))
    assert (found.type, found.severity) == (FindingType.DRIFT, Severity.HIGH)
    assert found.evidence["divergence"] == round(exact, 6)
    assert found.evidence["samples"] == 4
    assert found.evidence["baseline_distribution"] == {"a": 0.5, "b": 0.5}
    assert found.evidence["current_distribution"] == {"a": 0.75, "b": 0.25}


def test_drift_seen_again_with_other_numbers_is_the_same_finding(tmp_path):
    """A divergence that wobbles does not extend the incident at each check."""
    first = check(outputs(tmp_path, [{"label": "b"}] * 3), {"a": 1.0})
    second = check(outputs(tmp_path, [{"label": "b"}] * 4 + [{"label": "a"}]), {"a": 1.0})
    assert first[0].key == second[0].key


def test_either_key_is_read_and_class_numbers_are_names(tmp_path):
    """`predicted_class` goes before `label`; a null one does not hide the label."""
    lines = [
        {"predicted_class": 1},
        {"label": "1"},
        {"predicted_class": "2", "label": "9"},
        {"predicted_class": None, "label": "2"},
    ]
    assert read_outputs(outputs(tmp_path, lines), 99).counts == {"1": 2, "2": 2}


def test_only_the_newest_outputs_count(tmp_path):
    """The window is counted from the end of the file."""
    path = outputs(tmp_path, [{"label": "old"}] * 50 + [{"label": "new"}] * 10)
    assert read_outputs(path, 10).counts == {"new": 10}


HOSTILE = [
    b"not json",
    b"",
    b"[]",
    b'"a"',
    b"{}",
    b'{"label": true}',
    b'{"label": 1.5}',
    b'{"label": NaN}',
    b'{"label": ["a"]}',
    b'{"label": {"a": 1}}',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"label": ' + b"9" * 5000 + b"}",
]


def test_lines_that_are_no_outputs_are_counted_and_skipped(tmp_path):
    """Whatever stands in the file, the check goes on and says how much it could not read."""
    path = tmp_path / "outputs.jsonl"
    path.write_bytes(b"\n".join([*HOSTILE, b'{"label": "a"}']))
    found = read_outputs(path, 1000)
    assert (found.counts, found.unreadable) == ({"a": 1}, len(HOSTILE))


@pytest.mark.parametrize(
    "label", ["\x1b[2J", "\ud800", "\u202e", "x" * 10_000, "\n", "__proto__", "{{7*7}}"]
)
def test_hostile_labels_are_escaped_and_cut(tmp_path, label):
    """A model's own text ends neither the check nor up in a terminal as it is."""
    (found,) = check(outputs(tmp_path, [{"label": label}] * 3), {"a": 1.0})
    (name,) = found.evidence["current_distribution"]
    assert name.isprintable()
    assert len(name) <= drift.MAX_LABEL
    assert found.key


def test_a_class_with_a_long_or_odd_name_equals_itself_in_the_baseline(tmp_path):
    """Escaping and cutting apply to both sides, so they never make drift."""
    names = ["é\x1b", "x" * 500]
    path = outputs(tmp_path, [{"label": n} for n in names])
    assert check(path, dict.fromkeys(names, 1.0)) == []


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "directory", "fifo", "one huge line", "blank"]
)
def test_outputs_that_say_nothing_are_a_finding(tmp_path, monkeypatch, kind):
    """Unknown behaviour is said (low), at once, also for a FIFO that nobody writes."""
    monkeypatch.setattr(drift, "MAX_TAIL_BYTES", 1 << 16)
    path = tmp_path / "outputs.jsonl"
    if kind == "empty":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "one huge line":
        path.write_bytes(b'{"label": "' + b"a" * (1 << 18))
    elif kind == "blank":
        path.write_bytes(b"\n" * 50)
    (found,) = check(path, {"a": 1.0})
    assert (found.type, found.severity) == (FindingType.DRIFT_UNKNOWN, Severity.LOW)


def test_unknown_behaviour_seen_again_is_the_same_finding(tmp_path):
    """A growing file of nonsense does not extend the incident at each check."""
    path = tmp_path / "outputs.jsonl"
    keys = set()
    for count in (3, 5):
        path.write_bytes(b"nonsense\n" * count)
        (found,) = check(path, {"a": 1.0})
        assert found.evidence["unreadable"] == count
        keys.add(found.key)
    assert len(keys) == 1


def test_a_file_of_which_only_the_tail_is_read_loses_only_the_cut_line(tmp_path, monkeypatch):
    """The first line after the cut is half a line and does not count as unreadable."""
    path = outputs(tmp_path, [{"label": "a"}] * 1000)
    monkeypatch.setattr(drift, "MAX_TAIL_BYTES", 1005)
    found = read_outputs(path, 10_000)
    assert found.unreadable == 0
    assert 0 < found.total < 1000


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected an object of class -> weight"),
        (b'{"a": "1"}', "expected an object of class -> weight"),
        (b'{"a": true}', "expected an object of class -> weight"),
        (b'{"a": -1}', "expected an object of class -> weight"),
        (b'{"a": NaN}', "expected an object of class -> weight"),
        (b'{"a": Infinity}', "expected an object of class -> weight"),
        (b'{"a": 1' + b"0" * 400 + b"}", "expected an object of class -> weight"),
        (b'{"a": 0}', "the weights add up to 0"),
        (b"{}", "the weights add up to 0"),
    ],
)
def test_a_baseline_distribution_that_cannot_be_used_is_refused(tmp_path, raw, problem):
    """The error names the file and what it should hold."""
    (tmp_path / "baseline.json").write_bytes(raw)
    with pytest.raises(SourceError, match=problem) as caught:
        read_distribution(tmp_path / "baseline.json")
    assert str(caught.value).startswith(str(tmp_path / "baseline.json"))


def test_a_baseline_distribution_is_read_from_its_file(tmp_path):
    """Counts do as well as probabilities; a missing file is one clear error."""
    (tmp_path / "b.json").write_text('{"a": 30, "b": 10}')
    path = outputs(tmp_path, [{"label": "a"}] * 3 + [{"label": "b"}])
    behavior = Behavior(path, None, tmp_path / "b.json")
    assert check_drift(MODEL, behavior) == []
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        check_drift(MODEL, Behavior(path, None, tmp_path / "absent.json"))
