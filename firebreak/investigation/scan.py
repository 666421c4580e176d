"""Files under a model that can run code when it is loaded, and whether the model is signed."""

import json
import os
import stat
from pathlib import Path

from firebreak.checks.hashing import FileDigest, Problem, walk
from firebreak.inventory import Model
from firebreak.investigation.content import Trait, traits_by_content, traits_by_name
from firebreak.records import Finding, FindingType, Json, Severity, printable

SOURCE = "scan"
SIGNATURE_FOLDER = ".signatures"
MAX_BUNDLE = 64 << 20  # bytes


def scan_model(model: Model) -> list[Finding]:
    """What is dangerous about a model's files, and whether anybody signed them.

    Every file is judged by its name and by its first bytes; one finding per file holds all reasons.
    What cannot be read or parsed is a finding as well. Links inside the model are not followed:
    the file they point to is scanned itself.

    Returns: findings, worst first, then by path; empty for a signed model without such files.
    """
    try:
        findings = [f for path in _files(model.path) if (f := _judge(model.id, path)) is not None]
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        return [_finding(FindingType.UNREADABLE, model.id, str(model.path), problem)]
    if not is_signed(model.path):
        evidence: Json = {"path": printable(str(model.path)), "problem": "no signature found"}
        findings.append(
            Finding(
                FindingType.UNSIGNED,
                Severity.CRITICAL,
                SOURCE,
                f"model {model.id} is not signed: neither .signatures/manifest.sig with "
                "manifest.json nor a model-signing bundle (*.sig)",
                evidence,
                model.id,
            )
        )
    return sorted(findings, key=lambda f: (-f.severity.rank, f.message))


def is_signed(path: Path) -> bool:
    """Whether a model carries a signature at all; whether it holds is for the signature check.

    Either `.signatures/manifest.sig` with `manifest.json`, or a model-signing (OMS) bundle `*.sig`
    directly in the model's folder; beside it for a model of one file.
    """
    folder = path if path.is_dir() else path.parent
    signatures = folder / SIGNATURE_FOLDER
    if all(_holds_bytes(signatures / n) for n in ("manifest.sig", "manifest.json")):
        return True
    try:
        with os.scandir(folder) as listing:
            bundles = sorted(e.path for e in listing if e.name.lower().endswith(".sig"))
    except OSError:
        return False
    if not path.is_dir():
        own = {f"{path.name}.sig", f"{path.stem}.sig", "model.sig"}
        bundles = [b for b in bundles if Path(b).name in own]
    return any(_is_bundle(Path(b)) for b in bundles[:100])


def _files(root: Path) -> list[tuple[str, str] | FileDigest | Problem]:
    if stat.S_ISDIR(os.lstat(root).st_mode):
        return list(walk(os.path.abspath(root), frozenset()))
    return [(str(root), root.name)]


def _judge(subject: str, entry: tuple[str, str] | FileDigest | Problem) -> Finding | None:
    if isinstance(entry, Problem):
        return _finding(FindingType.UNREADABLE, subject, entry.path, entry.problem)
    if isinstance(entry, FileDigest):
        traits = traits_by_name(entry.path.rpartition("/")[2])
        return _dangerous(subject, entry.path, traits) if traits else None
    absolute, relative = entry
    name = relative.rpartition("/")[2]
    try:
        handle = os.open(absolute, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return _finding(FindingType.UNREADABLE, subject, relative, "is not a plain file")
            traits = traits_by_name(name) + traits_by_content(name, stream)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        return _finding(FindingType.UNREADABLE, subject, relative, problem)
    return _dangerous(subject, relative, traits) if traits else None


def _dangerous(subject: str, path: str, traits: list[Trait]) -> Finding:
    reasons = list(dict.fromkeys(t.problem for t in traits))
    severity = Severity.highest([t.severity for t in traits])
    return _finding(FindingType.DANGEROUS_FILE, subject, path, "; ".join(reasons), severity)


def _finding(
    kind: FindingType,
    subject: str,
    path: str,
    problem: str,
    severity: Severity = Severity.HIGH,
) -> Finding:
    file = printable(path)
    evidence: Json = {"file": file, "problem": problem}
    return Finding(kind, severity, SOURCE, f"{file} {problem}", evidence, subject)


def _holds_bytes(path: Path) -> bool:
    try:
        info = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and info.st_size > 0


def _is_bundle(path: Path) -> bool:
    """A Sigstore bundle is a JSON object with a DSSE envelope; an empty `x.sig` is no signature."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            data = stream.read(MAX_BUNDLE + 1)
        if len(data) > MAX_BUNDLE:
            return False
        raw = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "dsseEnvelope" in raw
