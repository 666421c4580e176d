"""Which tensors of two safetensors files differ, without loading either.

The format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes. The header
is the attacker's: it is bounded, and everything it says is checked against the file before use.
"""

import json
import os
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from firebreak.records import printable

MAX_HEADER = 16 << 20  # bytes
CHUNK = 1 << 20  # bytes
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: dtype, shape, and its bytes `[start, end)` counted from the file's begin."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of one file by name, and its `__metadata__`."""

    tensors: dict[str, Tensor]
    metadata: Any


def differing_tensors(here: Path, there: Path) -> list[str]:
    """What differs between two safetensors files, one readable, escaped text each.

    Streams in chunks of 1 MiB. Two files can differ although this is empty: by the header's layout.

    Raises:
        ValueError: one of them is not a well-formed safetensors file; says which and why.
        OSError: one of them cannot be read.
    """
    with _open(here) as ours, _open(there) as theirs:
        mine, other = _named(ours, "here"), _named(theirs, "reference")
        found = [f"{printable(n)}: only here" for n in mine.tensors if n not in other.tensors]
        found += [
            f"{printable(n)}: only in the reference"
            for n in other.tensors.keys() - mine.tensors.keys()
        ]
        for name in mine.tensors.keys() & other.tensors.keys():
            why = _difference(ours, theirs, mine.tensors[name], other.tensors[name])
            if why:
                found.append(f"{printable(name)}: {why}")
    if mine.metadata != other.metadata:
        found.append("__metadata__: differs")
    return sorted(found)


def read_header(stream: IO[bytes]) -> Header:
    """The header of a safetensors file, checked against the file's size.

    Raises:
        ValueError: malformed: truncated, too large, gaps or overlaps, sizes that do not fit.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise ValueError(f"header of {length} bytes does not fit a file of {size} bytes")
    try:
        raw = json.loads(stream.read(length), object_pairs_hook=_no_duplicates)
    except RecursionError as error:
        raise ValueError("header is nested too deeply") from error
    if not isinstance(raw, dict):
        raise ValueError("header is not a JSON object")  # noqa: TRY004 - malformed input
    metadata = raw.pop("__metadata__", None)
    tensors = {name: _tensor(name, spec, 8 + length) for name, spec in raw.items()}
    _check_layout(tensors, 8 + length, size)
    return Header(tensors, metadata)


def _named(stream: IO[bytes], which: str) -> Header:
    try:
        return read_header(stream)
    except ValueError as error:
        raise ValueError(f"{which}: {printable(str(error))[:300]}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("header names something twice")
    return result


def _tensor(name: str, spec: Any, base: int) -> Tensor:
    if not isinstance(spec, dict) or set(spec) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = spec["dtype"], spec["shape"], spec["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"tensor {name!r} has unknown dtype {dtype!r}")
    if not (_counts(shape) and len(shape) <= 64 and _counts(offsets) and len(offsets) == 2):
        raise ValueError(f"tensor {name!r} has a malformed shape or offsets")
    begin, end = offsets
    if begin > end or (end - begin) * 8 != prod(shape) * BITS[dtype]:
        raise ValueError(f"tensor {name!r} has {end - begin} bytes, which its shape does not fill")
    return Tensor(dtype, tuple(shape), base + begin, base + end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 53 for v in value)


def _check_layout(tensors: dict[str, Tensor], base: int, size: int) -> None:
    place = base
    for name, tensor in sorted(tensors.items(), key=lambda i: (i[1].start, i[1].end)):
        if tensor.start != place:
            raise ValueError(f"tensor {name!r} leaves a gap or overlaps another")
        place = tensor.end
    if place != size:
        raise ValueError(f"tensors end at byte {place}, the file at {size}")


def _difference(ours: IO[bytes], theirs: IO[bytes], mine: Tensor, other: Tensor) -> str:
    if mine.dtype != other.dtype:
        return f"dtype {mine.dtype}, reference {other.dtype}"
    if mine.shape != other.shape:
        return f"shape {list(mine.shape)}, reference {list(other.shape)}"
    ours.seek(mine.start)
    theirs.seek(other.start)
    left = mine.end - mine.start
    while left:
        count = min(CHUNK, left)
        if ours.read(count) != theirs.read(count):
            return "values differ"
        left -= count
    return ""


def _open(path: Path) -> IO[bytes]:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{printable(str(path))} is not a plain file")
    return os.fdopen(handle, "rb")
