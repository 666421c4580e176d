"""Files under a model that can run code when it is loaded; `.signatures` is no hiding place."""

import os
import stat
from pathlib import Path

from firebreak.checks.hashing import FileDigest, Problem, walk
from firebreak.inventory import Model
from firebreak.investigation.content import Trait, traits_by_content, traits_by_name
from firebreak.records import Finding, FindingType, Json, Severity, printable

SOURCE = "scan"
SIGNATURE_FOLDER = ".signatures"


def scan_model(model: Model) -> list[Finding]:
    """What is dangerous about a model's files, those beside its signature among them.

    Every file is judged by its name and by its first bytes; one finding per file holds all reasons.
    What cannot be read or parsed is a finding as well. Links inside the model are not followed:
    the file they point to is scanned itself.

    Returns: findings, worst first, then by path; empty for a model without such files.
    """
    try:
        findings = [f for path in _files(model.path) if (f := _judge(model.id, path)) is not None]
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        return [_finding(FindingType.UNREADABLE, model.id, str(model.path), problem)]
    return sorted(findings, key=lambda f: (-f.severity.rank, f.message))


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
