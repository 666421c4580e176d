"""The records that cross module, task and process boundaries. All are frozen and made of JSON."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import rfc8785

Json = dict[str, Any]


def now() -> datetime:
    """The current time, aware, UTC, to the millisecond (what RFC 3339 readers agree on)."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def timestamp(moment: datetime) -> str:
    """RFC 3339 text of an aware time, UTC, always with milliseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> datetime:
    """The aware time that `timestamp` wrote.

    Raises:
        ValueError: not an RFC 3339 time, or one without a zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone")
    return moment.astimezone(UTC)


def canonical(value: Any) -> bytes:
    """Canonical JSON bytes (RFC 8785): the form that is hashed and signed.

    Raises:
        rfc8785.CanonicalizationError: a value outside I-JSON, such as an integer beyond 2**53.
    """
    return rfc8785.dumps(value)


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON of a value, 64 lower-case hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def printable(raw: str | bytes) -> str:
    r"""Foreign text made safe to store and show: bytes that are not UTF-8 and controls escaped.

    Example:
        >>> printable(b"weights\xff\x1b[2J.bin")
        'weights\\xff\\x1b[2J.bin'
    """
    text = raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that was not UTF-8, as Python carries it in text
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def encodable(value: Any) -> Any:
    """A JSON value whose every text can be written as UTF-8; lone surrogates are escaped."""
    if isinstance(value, str):
        return re.sub(r"[\ud800-\udfff]", lambda match: _escaped(match[0]), value)
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(item) for item in value]
    return value


class Severity(StrEnum):
    """How bad a finding is, ordered: `LOW < MEDIUM < HIGH < CRITICAL`."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low to 3 for critical."""
        return list(Severity).index(self)

    @classmethod
    def highest(cls, severities: "list[Severity]") -> "Severity":
        """The worst of several; LOW when there are none."""
        return max(severities, key=lambda s: s.rank, default=cls.LOW)


class FindingType(StrEnum):
    """What a check can find."""

    TAMPERED = "model_file_tampered"
    MISSING = "model_file_missing"
    UNEXPECTED = "unexpected_model_file"
    UNREADABLE = "model_unreadable"
    NO_BASELINE = "baseline_missing"
    BASELINE_INVALID = "baseline_invalid"
    DRIFT = "behavior_drift"
    DRIFT_UNKNOWN = "behavior_unknown"
    DEPENDENCY_MISSING = "dependency_missing"
    DEPENDENCY_CHANGED = "dependency_changed"
    SIGNATURE_INVALID = "signature_invalid"
    UNSIGNED = "model_unsigned"
    DANGEROUS_FILE = "dangerous_file_type"
    REFERENCE_DIFFERS = "reference_differs"
    SUSPICIOUS_LOG = "suspicious_log_line"
    LOG_MISSING = "pipeline_log_missing"


# Technique ids carry the release they were read from (MITRE ATLAS 5.6): ids move between releases.
TECHNIQUES: Mapping[FindingType, tuple[str, ...]] = {
    FindingType.TAMPERED: ("AML.T0018@5.6", "AML.T0018.000@5.6"),
    FindingType.MISSING: ("AML.T0018@5.6",),
    FindingType.UNEXPECTED: ("AML.T0018@5.6",),
    FindingType.UNREADABLE: ("AML.T0076@5.6",),
    FindingType.NO_BASELINE: (),
    FindingType.BASELINE_INVALID: ("AML.T0018@5.6",),
    FindingType.DRIFT: ("AML.T0031@5.6", "AML.T0020@5.6"),
    FindingType.DRIFT_UNKNOWN: (),
    FindingType.DEPENDENCY_MISSING: ("AML.T0010.001@5.6",),
    FindingType.DEPENDENCY_CHANGED: ("AML.T0010.001@5.6", "AML.T0011.001@5.6"),
    FindingType.SIGNATURE_INVALID: ("AML.T0010.003@5.6", "AML.T0074@5.6"),
    FindingType.UNSIGNED: ("AML.T0010.003@5.6",),
    FindingType.DANGEROUS_FILE: ("AML.T0018.002@5.6", "AML.T0011.000@5.6"),
    FindingType.REFERENCE_DIFFERS: ("AML.T0018@5.6",),
    FindingType.SUSPICIOUS_LOG: ("AML.T0010.001@5.6",),
    FindingType.LOG_MISSING: (),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation of a check.

    Attributes:
        type: what was observed.
        severity: how bad it is.
        source: the check that saw it, such as `integrity` or `drift`.
        message: one sentence for people; foreign text in it is already escaped.
        evidence: the values behind it, JSON only.
        subject: model id, or `environment` for packages; what the incident will be about.
        time: when it was observed, aware UTC.
    """

    type: FindingType
    severity: Severity
    source: str
    message: str
    evidence: Json
    subject: str
    time: datetime = field(default_factory=now)

    @property
    def techniques(self) -> tuple[str, ...]:
        """MITRE ATLAS technique ids with their release, such as `AML.T0018@5.6`."""
        return TECHNIQUES[self.type]

    @property
    def key(self) -> str:
        """What makes two findings the same observation: type, subject and the thing seen.

        A file changed a second time (another digest) is a new observation; the same changed file
        seen on the next check is not. Measurements that differ at each look (a divergence, a
        sample count) do not take part.
        """
        seen = {k: self.evidence[k] for k in IDENTITY if k in self.evidence}
        return digest_of({"type": self.type.value, "subject": self.subject, "seen": seen})

    def to_json(self) -> Json:
        """The finding as JSON; `Finding.from_json` reads it back."""
        return {
            "type": self.type.value,
            "severity": self.severity.value,
            "source": self.source,
            "message": self.message,
            "evidence": self.evidence,
            "subject": self.subject,
            "techniques": list(self.techniques),
            "time": timestamp(self.time),
        }

    @classmethod
    def from_json(cls, raw: Json) -> "Finding":
        """The finding that `to_json` wrote.

        Raises:
            KeyError, ValueError: not such a record.
        """
        return cls(
            type=FindingType(raw["type"]),
            severity=Severity(raw["severity"]),
            source=raw["source"],
            message=raw["message"],
            evidence=raw["evidence"],
            subject=raw["subject"],
            time=parse_timestamp(raw["time"]),
        )


IDENTITY = ("file", "package", "actual", "actual_sha256", "expected_sha256", "problem", "path")


class IncidentStatus(StrEnum):
    """Where an incident stands. HELD waits for people, FAILED met an error, CLOSED is over."""

    OPEN = "open"
    RESPONDING = "responding"
    WAITING = "waiting"
    HELD = "held"
    FAILED = "failed"
    RECOVERED = "recovered"
    CLOSED = "closed"
