"""Baselines: what a model looked like at a trusted moment, sealed and kept outside the model.

A baseline is made on purpose by a named person with a reason; a check never trusts what it sees
for the first time. The publisher's signature folder is not part of the comparison (signatures are
verified, not compared), but only files that look like signatures may hide in it.
"""

import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from firebreak.checks.hashing import FileDigest, Problem, Progress, Tree, scan, scan_strict
from firebreak.errors import BaselineError, ModelPathError, SealError
from firebreak.evidence.plain_file import read_plain
from firebreak.incidents.case import open_sealer
from firebreak.inventory import Inventory, Model
from firebreak.records import Finding, FindingType, Json, Severity, now, printable, timestamp
from firebreak.sealing import MAX_SEALED_BYTES

_SIGNATURE_FILE = re.compile(
    r"\.signatures/[^/]+\.(?:json|sig|pub|pem|crt|cert|bundle|sigstore|intoto\.jsonl)"
)


@dataclass(frozen=True, slots=True)
class Baseline:
    """The files of a model at a trusted moment.

    Attributes:
        model: model id.
        version: as the inventory named it then.
        created: RFC 3339.
        by: who made it.
        reason: why it may be trusted.
        files: sorted by path, signature files left out.
    """

    model: str
    version: str
    created: str
    by: str
    reason: str
    files: tuple[FileDigest, ...]

    def to_json(self) -> Json:
        """The baseline as it is sealed. Sizes are bytes."""
        files = [
            {"path": f.path, "size": f.size, "sha256": f.sha256}
            | ({"link": f.link} if f.link is not None else {})
            for f in self.files
        ]
        return {
            "model": self.model,
            "version": self.version,
            "created": self.created,
            "by": self.by,
            "reason": self.reason,
            "files": files,
        }

    @classmethod
    def from_json(cls, raw: Json) -> "Baseline":
        """The baseline that `to_json` wrote. Raises: KeyError, TypeError."""
        files = tuple(
            FileDigest(f["path"], f["size"], f["sha256"], f.get("link")) for f in raw["files"]
        )
        return cls(raw["model"], raw["version"], raw["created"], raw["by"], raw["reason"], files)


def baseline_path(inventory: Inventory, model_id: str) -> Path:
    """Where the sealed baseline of a model lies: in Firebreak's home, never in the model."""
    return inventory.home / "baselines" / f"{model_id}.dsse.json"


def create_baseline(
    inventory: Inventory,
    model: Model,
    *,
    by: str,
    reason: str,
    replace: bool = False,
    progress: Progress | None = None,
) -> Baseline:
    """Make and seal a baseline from the model as it lies there now.

    Args:
        inventory: says where baselines are kept.
        model: the model; it must be trusted at this moment.
        by: who says so.
        reason: why.
        replace: needed when there is one already; the old one is kept beside with its time.
        progress: called with bytes read since the last call.

    Raises:
        ModelPathError: the path is missing or cannot be read.
        UnsafeFileError: something in the model must not be trusted.
        BaselineError: nobody or no reason is named, there is a baseline and `replace` is false,
            or the model has no file.
    """
    by, reason = printable(by), printable(reason)
    if not by.strip() or not reason.strip():
        raise BaselineError(model.id, "needs a person (--by) and a reason (--reason)")
    place = baseline_path(inventory, model.id)
    if place.exists() and not replace:
        raise BaselineError(model.id, f"exists already in {place}; pass --replace with a reason")
    try:
        tree = scan_strict(model.path, progress=progress)
    except OSError as error:
        raise ModelPathError(
            model.where, str(model.path), f"cannot be read: {error.strerror}"
        ) from error
    if not tree.files:
        raise BaselineError(model.id, f"{model.path} holds no file")
    baseline = Baseline(model.id, model.version, timestamp(now()), by, reason, compared(tree.files))
    save_baseline(inventory, baseline)
    return baseline


def save_baseline(inventory: Inventory, baseline: Baseline) -> None:
    """Seal a baseline and put it in its place atomically; the one before is kept beside it."""
    place = baseline_path(inventory, baseline.model)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    sealed = open_sealer(inventory).seal("baseline", baseline.to_json())
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as stream:
        json.dump(sealed, stream)
        stream.flush()
        os.fsync(stream.fileno())
    if place.exists():
        stamp = baseline.created.replace(":", "")
        _keep(place, place.with_name(f"{baseline.model}.until-{stamp}.dsse.json"))
    part.replace(place)


def _keep(place: Path, kept: Path) -> None:
    """Copy a baseline aside; what is no plain file (a FIFO, a folder) is moved there unread."""
    try:
        old, _ = read_plain(place, MAX_SEALED_BYTES)
    except OSError:
        place.rename(kept)
    else:
        kept.write_bytes(old)


def load_baseline(inventory: Inventory, model_id: str) -> Baseline | None:
    """The sealed baseline of a model; None when nobody made one.

    Raises:
        SealError: it was changed, belongs to another model, another key sealed it, or it is no
            plain file that can be read.
        KeyFileError: the evidence key is gone.
    """
    place = baseline_path(inventory, model_id)
    try:
        raw, _ = read_plain(place, MAX_SEALED_BYTES)
        sealed = json.loads(raw)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SealError(str(place), f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SealError(str(place), f"not JSON: {error}") from error
    record = open_sealer(inventory).open("baseline", sealed, str(place))
    baseline = Baseline.from_json(record)
    if baseline.model != model_id:
        raise SealError(str(place), f"is the baseline of {baseline.model!r}, not {model_id!r}")
    return baseline


def look(model: Model, *, progress: Progress | None = None) -> Tree:
    """What lies under a model with a baseline now; nothing at all when the model vanished.

    Raises:
        ModelPathError: the path cannot be read.
    """
    try:
        return scan(model.path, progress=progress)
    except (FileNotFoundError, NotADirectoryError):
        return Tree(())  # every file of the baseline is missing
    except OSError as error:
        raise ModelPathError(
            model.where, str(model.path), f"cannot be read: {error.strerror}"
        ) from error


def compare(baseline: Baseline, tree: Tree) -> list[Finding]:
    """What differs between a baseline and the model now; empty when nothing does.

    Tampered and missing files are critical, unexpected ones high. What cannot be read is a finding,
    never silence: critical where the baseline knows the file, high elsewhere.
    """
    expected = {f.path: f for f in baseline.files}
    actual = {f.path: f for f in compared(tree.files)}
    shown = {printable(path) for path in expected}
    broken = {p.path for p in tree.problems}
    findings = [
        _changed(baseline, expected[path], actual[path])
        for path in sorted(expected.keys() & actual.keys())
        if expected[path] != actual[path]
    ]
    findings += [
        _finding(
            baseline,
            FindingType.MISSING,
            Severity.CRITICAL,
            f"{printable(path)} is missing",
            {"file": path, "expected_sha256": expected[path].sha256},
        )
        for path in sorted(expected.keys() - actual.keys())
        if printable(path) not in broken
    ]
    findings += [
        _finding(
            baseline,
            FindingType.UNEXPECTED,
            Severity.HIGH,
            f"{printable(path)} is not in the baseline",
            {"file": path, "actual_sha256": actual[path].sha256, "size": actual[path].size}
            | _since(actual[path]),
        )
        for path in sorted(actual.keys() - expected.keys())
    ]
    return findings + [_broken(baseline, p, p.path in shown) for p in tree.problems]


def compared(files: tuple[FileDigest, ...]) -> tuple[FileDigest, ...]:
    """The files that take part in comparisons: all but the publisher's signature files."""
    return tuple(f for f in files if not _SIGNATURE_FILE.fullmatch(f.path))


def _changed(baseline: Baseline, old: FileDigest, new: FileDigest) -> Finding:
    evidence: Json = {
        "file": old.path,
        "expected_sha256": old.sha256,
        "actual_sha256": new.sha256,
        "expected_size": old.size,
        "actual_size": new.size,
    } | _since(new)
    if old.link != new.link:
        evidence["problem"] = f"was {_nature(old)}, is {_nature(new)}"
    message = f"{printable(old.path)} differs from its baseline"
    return _finding(baseline, FindingType.TAMPERED, Severity.CRITICAL, message, evidence)


def _broken(baseline: Baseline, problem: Problem, known: bool) -> Finding:
    kind = FindingType.UNREADABLE if known else FindingType.UNEXPECTED
    severity = Severity.CRITICAL if known else Severity.HIGH
    return _finding(
        baseline,
        kind,
        severity,
        f"{problem.path}: {problem.problem}",
        {"file": problem.path, "problem": problem.problem},
    )


def _since(file: FileDigest) -> Json:
    """When the file last changed, by its inode change time."""
    if not file.changed_ns:
        return {}
    return {"modified_at": timestamp(datetime.fromtimestamp(file.changed_ns / 1e9, UTC))}


def _nature(file: FileDigest) -> str:
    return "a plain file" if file.link is None else f"a link to {printable(file.link)}"


def _finding(
    baseline: Baseline, kind: FindingType, severity: Severity, message: str, evidence: Json
) -> Finding:
    return Finding(
        kind,
        severity,
        "integrity",
        f"{baseline.model}: {message}",
        {**evidence, "model": baseline.model, "baseline": baseline.created},
        baseline.model,
    )
