"""A model against its reference, down to the tensors."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from firebreak.investigation.compare import Comparison, compare_with_reference
from firebreak.records import FindingType


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """A model and its reference, both empty."""
    for name in ("model", "reference"):
        (tmp_path / name).mkdir()
    return tmp_path / "model", tmp_path / "reference"


def write(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with exactly this header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def test_files_only_here_only_there_modified_and_identical_are_told_apart(
    sides: tuple[Path, Path],
) -> None:
    """The four lists of a comparison."""
    here, there = sides
    for name, ours, theirs in (("same", "1", "1"), ("changed", "1", "2"), ("mine", "1", None)):
        (here / name).write_text(ours)
        if theirs:
            (there / name).write_text(theirs)
    (there / "theirs").write_text("1")
    found = compare_with_reference(here, there, "m")
    assert (found.only_here, found.only_there, found.identical) == (("mine",), ("theirs",), 1)
    assert [d.path for d in found.modified] == ["changed"]
    assert {f.type for f in found.to_findings()} == {FindingType.REFERENCE_DIFFERS}
    assert len(found.to_findings()) == 3
    json.dumps(found.to_json())


def test_the_tensors_that_differ_are_named(sides: tuple[Path, Path]) -> None:
    """One changed value, one changed shape, one more and one less; larger than one chunk."""
    here, there = sides
    big = np.zeros(600_000, np.float32)
    other = {"same": big, "value": big, "shape": np.zeros((2, 3)), "gone": np.zeros(1)}
    changed = big.copy()
    changed[-1] = 1
    mine = {"same": big, "value": changed, "shape": np.zeros((3, 2)), "new|<b>": np.zeros(1)}
    save_file(mine, here / "w.safetensors")
    save_file(other, there / "w.safetensors")
    (difference,) = compare_with_reference(here, there, "m").modified
    assert difference.tensors == (
        "gone: only in the reference",
        "new|<b>: only here",
        "shape: shape [3, 2], reference [2, 3]",
        "value: values differ",
    )
    assert difference.problem == ""


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "does not fit"),
        (b"\x80", "does not fit"),
        (struct.pack("<Q", 1 << 62) + b"{}", "does not fit"),
        (write(b"[1]"), "not a JSON object"),
        (write(b"{" * 40), "cannot parse"),
        (write(b"[" * 200_000), "nested too deeply"),
        (write(b'{"a":1,"a":1}'), "twice"),
        (write({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}), "file at"),
        (write({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)), "gap"),
        (write({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)), "fill"),
        (write({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}), "malformed"),
        (write({"a": {"dtype": "EVIL", "shape": [], "data_offsets": [0, 0]}}), "dtype"),
        (write({"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}}, b"12"), "file at"),
    ],
)
def test_a_hostile_header_is_suspicious_and_never_clean(
    sides: tuple[Path, Path], content: bytes, word: str
) -> None:
    """Truncated, huge, nested, overlapping, lying: all say so, none crashes."""
    here, there = sides
    (here / "w.safetensors").write_bytes(content)
    save_file({"a": np.zeros(4)}, there / "w.safetensors")
    (difference,) = compare_with_reference(here, there, "m").modified
    assert difference.problem.startswith("suspicious: cannot parse")
    assert word in difference.problem


def test_a_missing_reference_is_a_problem_not_a_clean_result(tmp_path: Path) -> None:
    """Without a reference nothing was compared, and the findings say so."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("1")
    found = compare_with_reference(tmp_path / "model", tmp_path / "none", "m")
    assert found.only_here == ()
    assert [f.type for f in found.to_findings()] == [FindingType.UNREADABLE]


def test_two_single_files_are_compared_whatever_they_are_called(tmp_path: Path) -> None:
    """A model of one file has a reference of one file."""
    (tmp_path / "a.bin").write_text("1")
    (tmp_path / "b.bin").write_text("1")
    assert compare_with_reference(tmp_path / "a.bin", tmp_path / "b.bin", "m") == Comparison(
        "m", identical=1
    )


def test_the_same_difference_seen_twice_is_one_finding(sides: tuple[Path, Path]) -> None:
    """Looking again opens nothing new."""
    here, there = sides
    (here / "a").write_text("1")
    (there / "a").write_text("2")
    keys = {compare_with_reference(here, there, "m").to_findings()[0].key for _ in range(2)}
    assert len(keys) == 1
