"""Behaviour drift: recent outputs of a model against a baseline distribution.

Plain Jensen-Shannon divergence with a fixed threshold. Known limits: with
many classes and few samples it alarms without cause, with few classes it misses real shifts; drift
alone therefore never starts containment.
"""

import errno
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from firebreak.errors import SourceError
from firebreak.inventory import Behavior, Model
from firebreak.records import Finding, FindingType, Severity, printable
from firebreak.yaml_source import read_source

MAX_TAIL_BYTES = 64 << 20
MAX_CLASSES = 10_000
MAX_LABEL = 200
MAX_WEIGHT = 1e12
MAX_DISTRIBUTION_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Outputs:
    """The newest outputs of a model: how often each class was answered, and what was unreadable."""

    counts: Mapping[str, int]
    unreadable: int

    @property
    def total(self) -> int:
        """Number of readable outputs."""
        return sum(self.counts.values())


def jensen_shannon(p: Mapping[str, float], q: Mapping[str, float]) -> float:
    """Jensen-Shannon divergence of two distributions over named classes.

    Args:
        p: class -> weight, >= 0, sum > 0; need not add up to 1.
        q: likewise; a class absent from one of them has weight 0 there.

    Returns: nats, in [0, ln 2]; 0 when equal, ln 2 when they share no class.

    Source: Lin, Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory, 1991.

    Example:
        >>> round(jensen_shannon({"a": 1}, {"b": 1}), 4)
        0.6931
    """
    sum_p, sum_q = math.fsum(p.values()), math.fsum(q.values())
    if sum_p <= 0 or sum_q <= 0:
        raise ValueError(f"distributions need positive weight, got {sum_p} and {sum_q}")
    parts = []
    for name in p.keys() | q.keys():
        a, b = p.get(name, 0.0) / sum_p, q.get(name, 0.0) / sum_q
        middle = (a + b) / 2
        parts += [x / 2 * math.log(x / middle) for x in (a, b) if x > 0]
    return min(max(math.fsum(parts), 0.0), math.log(2))


def read_outputs(path: Path, window: int) -> Outputs:
    """The newest `window` lines of a JSON Lines file, at most its last 64 MiB.

    Each line is an object with `predicted_class` or `label`; a line that is not counts as
    unreadable. Labels are the model's own text and are escaped and cut.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb", opener=_without_blocking) as stream:
        info = os.fstat(stream.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "is not a plain file")
        size = info.st_size
        start = max(0, size - MAX_TAIL_BYTES)
        stream.seek(start)
        if start:
            stream.readline(MAX_TAIL_BYTES)  # a line cut in two
        lines = stream.read(MAX_TAIL_BYTES).splitlines()[-window:]
    labels = [_label(line) for line in lines]
    counts = Counter(label for label in labels if label is not None)
    return Outputs(dict(counts.most_common(MAX_CLASSES)), labels.count(None))


def check_drift(model: Model, behavior: Behavior) -> list[Finding]:
    """Findings about a model's recent behaviour: drift, or that nothing is known about it.

    Raises:
        SourceError: the baseline distribution cannot be used.
    """
    baseline = _labelled(behavior.baseline or read_distribution(behavior.baseline_file))
    try:
        outputs = read_outputs(behavior.outputs, behavior.window)
    except OSError as error:
        return [_unknown(model, behavior, f"outputs cannot be read: {error.strerror}")]
    if not outputs.total:
        return [_unknown(model, behavior, "no readable output", unreadable=outputs.unreadable)]
    divergence = jensen_shannon(baseline, outputs.counts)
    if divergence <= behavior.threshold:
        return []
    total = math.fsum(baseline.values())
    return [
        Finding(
            FindingType.DRIFT,
            Severity.HIGH,
            "drift",
            f"{model.id}: outputs diverge from the baseline by {divergence:.4f} nats, "
            f"threshold {behavior.threshold:g}, over {outputs.total} samples",
            {
                "model": model.id,
                "divergence": round(divergence, 6),
                "threshold": behavior.threshold,
                "samples": outputs.total,
                "unreadable": outputs.unreadable,
                "baseline_distribution": {k: round(v / total, 6) for k, v in baseline.items()},
                "current_distribution": {
                    k: round(v / outputs.total, 6) for k, v in outputs.counts.items()
                },
            },
            model.id,
        )
    ]


def read_distribution(path: Path | None) -> Mapping[str, float]:
    """A baseline distribution from a JSON object of class -> weight.

    Raises:
        SourceError: missing, not JSON, or weights that are not numbers >= 0 with a positive sum.
    """
    where = str(path)
    data = read_source(Path(where), MAX_DISTRIBUTION_BYTES)
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(where, f"not JSON: {error}") from error
    if not isinstance(raw, dict) or not all(_is_weight(v) for v in raw.values()):
        raise SourceError(where, f"expected an object of class -> weight, 0 to {MAX_WEIGHT:g}")
    if sum(raw.values()) <= 0:
        raise SourceError(where, "the weights add up to 0")
    return {str(k): float(v) for k, v in raw.items()}


def _labelled(weights: Mapping[str, float]) -> Mapping[str, float]:
    """The same weights under the names that `read_outputs` gives to classes."""
    found: dict[str, float] = {}
    for name, weight in weights.items():
        label = printable(name)[:MAX_LABEL]
        found[label] = found.get(label, 0.0) + weight
    return found


def _label(line: bytes) -> str | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    label = row.get("predicted_class")
    label = row.get("label") if label is None else label
    if isinstance(label, bool) or not isinstance(label, str | int):
        return None
    return printable(str(label))[:MAX_LABEL]


def _is_weight(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_WEIGHT
    )


def _without_blocking(path: str, flags: int) -> int:
    """The outputs are the model's own: a FIFO in their place must not stop detection."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unknown(model: Model, behavior: Behavior, problem: str, **more: int) -> Finding:
    return Finding(
        FindingType.DRIFT_UNKNOWN,
        Severity.LOW,
        "drift",
        f"{model.id}: behaviour unknown, {problem}",
        {"model": model.id, "path": str(behavior.outputs), "problem": problem, **more},
        model.id,
    )
