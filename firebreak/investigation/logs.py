"""What a build pipeline's log says about an attack: downloads, decoding, shells, keys, tokens.

The log is streamed; a line longer than 1 MiB is searched in overlapping pieces. Patterns are simple
and bounded: no input makes them slow. Lines are shown with secrets redacted.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from firebreak.evidence.redaction import redact
from firebreak.records import Finding, FindingType, Json, Severity, printable

SOURCE = "logs"
MAX_LOG = 1 << 30  # bytes
MAX_PIECE = 1 << 20  # bytes of one line searched at a time
OVERLAP = 256  # bytes: longer than any match that matters
SHOWN_LINES = 10
SHOWN_CHARS = 300
WINDOW = 2048  # characters around a match that are redacted before the cut

_KEYS = (
    r"cosign\.(?:key|pem)|cosign[_-]?(?:private|password)|(?:signing|private)[ _-]?key"
    r"|id_(?:rsa|ecdsa|ed25519)\b|(?:private|priv|key)[\w./-]{0,40}\.pem"
)
_TOKENS = (
    r"\b(?:hf|huggingface|huggingface_hub|hugging_face_hub|github|gh|gitlab|ci_job|npm|pypi|wandb"
    r"|aws_session|vault|registry|docker|twine|mlflow_tracking|openai|anthropic)_(?:api_)?"
    r"(?:token|key)\b|(?:api|access|auth|secret)[ _-]?(?:token|key)|\bbearer\s"
    r"|\bhf_[a-z0-9]{20}|\bgh[pousr]_[a-z0-9]{20}|\bglpat-|aws_secret"
)
PATTERNS: dict[str, tuple[re.Pattern[bytes], Severity, str]] = {
    name: (re.compile(pattern.encode(), re.IGNORECASE), severity, meaning)
    for name, pattern, severity, meaning in (
        ("pip install", r"\bpip3?\s{1,8}install\b", Severity.MEDIUM, "a package was installed"),
        ("curl", r"\bcurl(?:\.exe)?\s", Severity.MEDIUM, "something was fetched or sent"),
        ("wget", r"\bwget\s", Severity.MEDIUM, "something was fetched"),
        ("base64", r"base64", Severity.MEDIUM, "something was encoded or decoded"),
        ("/dev/tcp/", r"/dev/tcp/", Severity.CRITICAL, "a shell opened a network connection"),
        ("nc -", r"(?<![\w.-])nc\s{1,8}-", Severity.CRITICAL, "netcat was called"),
        ("signing key", _KEYS, Severity.HIGH, "a signing key is mentioned"),
        ("token", _TOKENS, Severity.HIGH, "a token is mentioned"),
    )
}
_COLOR = re.compile(rb"\x1b\[[0-9;]{0,32}m")


@dataclass(slots=True)
class _Hits:
    count: int = 0
    last: int = 0
    lines: list[Json] = field(default_factory=list)


def analyse_log(path: Path, subject: str) -> list[Finding]:
    """Suspicious lines of one log, at most one finding per pattern.

    The evidence has the pattern, the number of matching lines, and the first ten with their line
    numbers (from 1), redacted and cut at 300 characters. A log that is missing, empty, unreadable,
    compressed or larger than 1 GiB is a finding too: what was not read is not clean.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return [_unusable(path, subject, f"cannot be read: {error.strerror}")]
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        os.close(handle)
        return [_unusable(path, subject, "is not a plain file")]
    with os.fdopen(handle, "rb") as stream:
        if info.st_size == 0:
            return [_unusable(path, subject, "is empty")]
        try:
            hits = _search(stream)
        except OSError as error:
            return [_unusable(path, subject, f"cannot be read: {error.strerror}")]
        stream.seek(0)
        gaps = _gaps(stream.read(6), info.st_size)
    found = [_finding(path, subject, name, hit) for name, hit in hits.items() if hit.count]
    return found + [_incomplete(path, subject, gap) for gap in gaps]


def _search(stream: IO[bytes]) -> dict[str, _Hits]:
    hits = {name: _Hits() for name in PATTERNS}
    for number, piece in _pieces(stream):
        for name, (pattern, _, _) in PATTERNS.items():
            match = pattern.search(piece)
            hit = hits[name]
            if match is None or hit.last == number:
                continue
            hit.count, hit.last = hit.count + 1, number
            if hit.count <= SHOWN_LINES:
                hit.lines.append({"line": number, "text": _excerpt(pattern, piece, match.start())})
    return hits


def _pieces(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Line number and text without colours and zero bytes (UTF-16); long lines in pieces."""
    number, read, tail = 1, 0, b""
    while read < MAX_LOG and (raw := stream.readline(MAX_PIECE)):
        read += len(raw)
        piece = tail + _COLOR.sub(b"", raw.replace(b"\0", b""))
        yield number, piece
        ended = raw.endswith(b"\n")
        number, tail = number + ended, b"" if ended else piece[-OVERLAP:]


def _excerpt(pattern: re.Pattern[bytes], piece: bytes, start: int) -> str:
    """The line around a match, redacted first and cut afterwards: half a secret is one as well."""
    begin, end = max(0, start - WINDOW), start + WINDOW
    window = piece[begin:end].rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    if begin:
        window = window.partition(" ")[2]
    if end < len(piece):
        window = window.rpartition(" ")[0]
    text = redact(printable(window)).strip()
    again = pattern.search(text.encode())
    middle = len(text.encode()[: again.start()].decode(errors="ignore")) if again else 0
    ahead = max(0, min(middle - SHOWN_CHARS // 2, len(text) - SHOWN_CHARS))
    return text[ahead : ahead + SHOWN_CHARS] or "(no words to show around the match)"


def _gaps(magic: bytes, size: int) -> list[str]:
    gaps = []
    if magic.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"PK\3\4")):
        gaps.append("is compressed; its text was not analysed")
    if size > MAX_LOG:
        gaps.append(f"is larger than {MAX_LOG} bytes; the rest was not analysed")
    return gaps


def _finding(path: Path, subject: str, name: str, hits: _Hits) -> Finding:
    _, severity, meaning = PATTERNS[name]
    place = printable(str(path))
    lines = "1 line" if hits.count == 1 else f"{hits.count} lines"
    message = f"{place}: {meaning} ({name!r} in {lines}, first in line {hits.lines[0]['line']})"
    evidence: Json = {
        "path": place,
        "problem": name,
        "pattern": name,
        "count": hits.count,
        "lines": hits.lines,
    }
    return Finding(FindingType.SUSPICIOUS_LOG, severity, SOURCE, message, evidence, subject)


def _unusable(path: Path, subject: str, problem: str) -> Finding:
    place = printable(str(path))
    evidence: Json = {"path": place, "problem": problem}
    message = f"pipeline log {place} {problem}"
    kind = FindingType.LOG_MISSING
    return Finding(kind, Severity.HIGH, SOURCE, message, evidence, subject)


def _incomplete(path: Path, subject: str, problem: str) -> Finding:
    place = printable(str(path))
    evidence: Json = {"path": place, "problem": problem}
    message = f"pipeline log {place} {problem}"
    kind = FindingType.SUSPICIOUS_LOG
    return Finding(kind, Severity.MEDIUM, SOURCE, message, evidence, subject)
