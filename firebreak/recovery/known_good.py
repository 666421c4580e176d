"""Which archived version may be restored, and why each of the others may not.

The archive is a directory with one sub-directory per version. It is as suspect as the model: a
version counts only when its signature, its files and its name agree. Nothing in it is followed
when it is a link, and every name in it is listed, accepted or not.

Versions are ordered newest first. Names that PEP 440 can read compare by it (1.10 > 1.9,
1.0 > 1.0rc1); all others come after them and compare part by part, numbers as numbers.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from firebreak.checks.hashing import Progress
from firebreak.checks.release_manifest import SIGNATURES
from firebreak.checks.signatures import MANIFEST, SIGNATURE, Verification, verify_release
from firebreak.errors import NoKnownGoodError
from firebreak.inventory import Inventory, Model
from firebreak.records import Json, printable
from firebreak.yaml_source import ID_PATTERN

LAST_KNOWN_GOOD = "last-known-good"
MARK = ".last-verified"  # touched by the earlier scripts after each successful verification

SortKey = tuple[int, Version | int, tuple[tuple[int, int, str], ...]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One archived version, judged.

    Attributes:
        version: name of its directory, escaped for display.
        path: where it lies; to be used only when `accepted`.
        verification: what verifying it found; None when its name alone already ruled it out.
        accepted: whether it may be restored.
        reasons: why not, all of them; for an accepted one, what a responder should know.
    """

    version: str
    path: Path
    verification: Verification | None
    accepted: bool
    reasons: tuple[str, ...] = ()

    def to_json(self) -> Json:
        """The candidate as it is journaled."""
        return {
            "version": self.version,
            "path": printable(str(self.path)),
            "accepted": self.accepted,
            "reasons": list(self.reasons),
            "verification": self.verification.to_json() if self.verification else None,
        }


def candidates(
    model: Model,
    inventory: Inventory,
    *,
    to: str = LAST_KNOWN_GOOD,
    bad_digests: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> list[Candidate]:
    """Every name in the model's archive, judged, newest version first.

    Args:
        model: whose archive.
        inventory: names the publisher's key.
        to: `last-known-good`, or the one version asked for. The mark `.last-verified` limits only
            the automatic choice: a version a person names may be older than it.
        bad_digests: compromised content, as `release_manifest.content_digest` of what lies on
            disk, or the sha256 of a manifest whose whole release is known to be bad. Never the
            manifest digest of a tampered directory: that is the genuine release's.
        progress: called with the number of bytes hashed since the last call.

    Raises:
        NoKnownGoodError: the model has no archive, or it cannot be listed.
    """
    return list(_judged(model, inventory, to, bad_digests, progress))


def choose(
    model: Model,
    inventory: Inventory,
    *,
    to: str = LAST_KNOWN_GOOD,
    bad_digests: frozenset[str] = frozenset(),
    progress: Progress | None = None,
    judged: Callable[[Candidate], None] | None = None,
) -> Candidate:
    """The newest acceptable version. Versions older than it are not read.

    Args:
        model: as for `candidates`, and likewise the other arguments.
        inventory: likewise.
        to: likewise.
        bad_digests: likewise.
        progress: likewise.
        judged: called with each candidate looked at, rejected or chosen, so it can be journaled.

    Raises:
        NoKnownGoodError: none is acceptable; names every rejected version with its reasons.
    """
    rejected = []
    for candidate in _judged(model, inventory, to, bad_digests, progress):
        if judged:
            judged(candidate)
        if candidate.accepted:
            return candidate
        rejected.append(f"{candidate.version} ({'; '.join(candidate.reasons)})")
    raise NoKnownGoodError(model.id, " | ".join(rejected) or f"{model.archive} is empty")


def version_key(name: str) -> SortKey:
    """Sorts version names, older before newer.

    Source: PEP 440 where it applies; else runs of digits compare as numbers, other runs as text,
    and all such names are older than any PEP 440 version, so that an odd name cannot go first.
    """
    runs = re.findall(r"\d+|\D+", name)
    natural = tuple((1, int(r), "") if r.isdecimal() else (0, 0, r) for r in runs)
    try:
        return 1, Version(name), natural
    except InvalidVersion:
        return 0, 0, natural


def _judged(
    model: Model,
    inventory: Inventory,
    to: str,
    bad_digests: frozenset[str],
    progress: Progress | None,
) -> Iterator[Candidate]:
    mark = _Mark.read(model) if to == LAST_KNOWN_GOOD else _Mark()
    odd, versions = [], []
    for entry in _listed(model):
        problem = _not_a_version(entry)
        if problem:
            odd.append(Candidate(printable(entry.name), Path(entry.path), None, False, (problem,)))
        else:
            versions.append(Path(entry.path))
    for path in sorted(versions, key=lambda p: version_key(p.name), reverse=True):
        if to not in (LAST_KNOWN_GOOD, path.name):
            reason = f"not the version asked for, {printable(to)}"
            yield Candidate(path.name, path, None, False, (reason,))
            continue
        found = verify_release(
            path,
            inventory.cosign_key,
            expect_model=model.id,
            expect_version=path.name,
            progress=progress,
        )
        against = [*_against(found, bad_digests), *mark.against(path)]
        notes = [found.detail] if not found.identity_proven else []
        yield Candidate(path.name, path, found, not against, tuple(against or notes))
    yield from odd


def _against(found: Verification, bad_digests: frozenset[str]) -> Iterator[str]:
    if not found.verified:
        yield f"{found.verdict.value}: {found.detail}"
    if {found.content_sha256, found.manifest_sha256} & bad_digests:
        yield "its content is the compromised content"


def _listed(model: Model) -> list["os.DirEntry[str]"]:
    if model.archive is None:
        raise NoKnownGoodError(model.id, f"{model.where}: the model has no `archive`")
    try:
        with os.scandir(model.archive) as listing:
            entries = [e for e in listing if e.name != MARK]
    except OSError as error:
        problem = f"archive {model.archive} cannot be listed: {error.strerror}"
        raise NoKnownGoodError(model.id, problem) from error
    return sorted(entries, key=lambda e: os.fsencode(e.name))


def _not_a_version(entry: "os.DirEntry[str]") -> str:
    if entry.is_symlink():
        return "is a symbolic link, which is not followed"
    if not entry.is_dir(follow_symlinks=False):
        return "is not a directory"
    if not re.fullmatch(ID_PATTERN, entry.name):
        return "its name is not a version"
    return ""


@dataclass(frozen=True, slots=True)
class _Mark:
    """The earlier scripts' verification mark: when it was last touched, or what is wrong."""

    touched_ns: int | None = None
    problem: str = ""

    @classmethod
    def read(cls, model: Model) -> "_Mark":
        path = (model.archive or Path()) / MARK
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            return cls(problem=f"{MARK} cannot be read: {error.strerror}")
        if not stat.S_ISREG(info.st_mode):
            return cls(problem=f"{MARK} is not a plain file")
        return cls(info.st_mtime_ns)

    def against(self, version: Path) -> list[str]:
        if self.problem:
            return [self.problem]
        if self.touched_ns is None:
            return []
        signed = [
            os.lstat(file).st_mtime_ns
            for name in (MANIFEST, SIGNATURE)
            if os.path.lexists(file := version / SIGNATURES / name)
        ]
        newer = max(signed, default=0) > self.touched_ns
        return [] if newer else ["not newer than the last verification mark"]
