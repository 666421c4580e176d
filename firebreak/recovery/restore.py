"""Putting a verified version in the place of a compromised one, without ever having neither.

The version is copied into a private staging folder beside the model, the copy is verified in full,
then both directories are exchanged in one step, and the compromised one is moved out of the way,
unchanged. Whoever reads the model sees all of the old version or all of the new one.

Killed at any point, the next call completes the work. It goes by what it sees: the journaled intent
names the inodes of the two directories, and a directory keeps its inode through every rename.

| staging name holds | model path holds | so |
|---|---|---|
| nothing, or a copy with no intent yet | the old version | copy (again) |
| the new version, whole | the old version, or nothing | exchange, or rename |
| the old version | the new one | move the old one to its preserved name |
| nothing | the new version | done |

Only a directory that was proven to be our own copy is ever deleted.

A process or container that holds the old directory open (a bind mount does) goes on seeing it until
it is started again.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firebreak.checks.hashing import Progress
from firebreak.checks.release_manifest import SIGNATURES, ReleaseManifest, parse_manifest
from firebreak.checks.signatures import (
    MANIFEST,
    SignedManifest,
    Verification,
    read_signed,
    verify_release,
)
from firebreak.errors import ManifestError, RestoreError, UnsafeFileError
from firebreak.incidents.case import Case
from firebreak.inventory import Inventory, Model
from firebreak.records import Json, printable
from firebreak.recovery import staging
from firebreak.recovery.known_good import Candidate

INTENT, DONE, VOID = "restore.intent", "restore.done", "restore.void"
SPARE_BYTES = 16 << 20  # for folders, inodes and the journal, on top of the files
CANNOT_MOVE = (errno.EXDEV, errno.EACCES, errno.EPERM)


def restore(
    case: Case, model: Model, candidate: Candidate, progress: Progress | None = None
) -> Json:
    """Put an accepted candidate in the model's place and keep the compromised version.

    Calling it again, after a crash or after success, completes or confirms the same rollback.

    Args:
        case: the incident; its journal gets `restore.intent` before the exchange and
            `restore.done` after it.
        model: its path must be a directory or missing.
        candidate: from `known_good`, accepted.
        progress: called with bytes copied and bytes hashed since the last call.

    Returns: the receipt: `model`, `path`, `version`, `manifest_sha256`, and `preserved`, where the
        compromised version lies now (None when there was none).

    Raises:
        RestoreError: what stopped it. The old or the new version is whole in its place (without
            RENAME_EXCHANGE, after a crash, possibly none: call again).
    """
    job = _Job(case, model, candidate, progress)
    try:
        with _alone(job):
            return _run(job)
    except OSError as error:
        place = printable(str(error.filename or model.path))
        raise RestoreError(model.id, f"{place}: {error.strerror or error}") from error
    except (ManifestError, UnsafeFileError) as error:
        raise RestoreError(model.id, f"{candidate.path}: {error}") from error


def verify_in_place(
    model: Model, inventory: Inventory, progress: Progress | None = None
) -> Verification:
    """Verify what lies at the model's path now, as this model, in whatever version."""
    return verify_release(
        model.path, inventory.cosign_key, expect_model=model.id, progress=progress
    )


@dataclass(frozen=True, slots=True)
class _Job:
    case: Case
    model: Model
    candidate: Candidate
    progress: Progress | None

    @property
    def place(self) -> Path:
        return self.model.path

    @property
    def staging(self) -> Path:
        return self.place.with_name(f".{self.place.name}.firebreak-{self.case.id}")

    def fail(self, problem: str) -> RestoreError:
        return RestoreError(self.model.id, problem)

    def holds(self, place: Path) -> bool:
        """Whether a directory is exactly the candidate; reads the files only when it may be."""
        signed = _signed(place)
        if signed is None or signed.sha256 != self.manifest_sha256:
            return False
        return self.verify(place).verified

    def verify(self, place: Path) -> Verification:
        return verify_release(
            place,
            self.case.inventory.cosign_key,
            expect_model=self.model.id,
            expect_version=self.candidate.version,
            progress=self.progress,
        )

    @property
    def manifest_sha256(self) -> str | None:
        found = self.candidate.verification
        return found.manifest_sha256 if found and found.verified else None


def _run(job: _Job) -> Json:
    _refuse_unsupported(job)
    intent = _settle_staging(job, _pending(job))
    if job.holds(job.place):
        return _finish(job, intent)
    if not os.path.lexists(job.staging):
        if intent:
            _void(job, "nothing is staged, and the model is not the version wanted")
        intent = None
        _stage(job)
    if intent is None or not _still_fits(job, intent):
        intent = _declare(job)
    _swap(job, intent)
    return _finish(job, intent)


def _refuse_unsupported(job: _Job) -> None:
    if not job.candidate.accepted or job.manifest_sha256 is None:
        reasons = "; ".join(job.candidate.reasons) or "not verified"
        raise job.fail(f"version {job.candidate.version} is not acceptable: {reasons}")
    source, place = os.path.realpath(job.candidate.path), os.path.realpath(job.place)
    if os.path.commonpath([source, place]) in (source, place):
        raise job.fail(f"{job.candidate.path} and {job.place} lie inside each other")
    try:
        mode = os.lstat(job.place).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "a single file"
        raise job.fail(f"{job.place} is {kind}, not supported yet: give the real directory")
    if os.path.ismount(job.place):
        raise job.fail(f"{job.place} is a mount point, not supported yet: mount its parent")


def _pending(job: _Job) -> Json | None:
    """The last intent of this incident and model that was neither completed nor given up."""
    intent = None
    for entry in job.case.entries():
        if entry.kind in (INTENT, DONE, VOID) and entry.body["model"] == job.model.id:
            intent = entry.body if entry.kind == INTENT else None
    return intent


def _settle_staging(job: _Job, intent: Json | None) -> Json | None:
    """Find out what an earlier run left at the staging name; the intent if it still stands."""
    if not os.path.lexists(job.staging):
        return intent
    inode = _inode(job.staging)
    if intent is None:
        staging.remove(job.staging)  # copying was cut off: there was no exchange yet
        return None
    if inode == intent["from"]["inode"]:
        _preserve(job.staging, intent)
        return intent
    if job.holds(job.staging):
        return intent
    if inode == intent["to"]["inode"]:
        staging.remove(job.staging)
        _void(job, "the staged copy is not the version wanted now")
    else:
        aside = _free_place(job)
        _preserve(job.staging, aside)
        _void(job, f"found something unknown in staging, kept as {_kept(aside)}")
    return None


def _stage(job: _Job) -> None:
    """Copy the candidate and verify the copy; on failure the staging folder is gone again."""
    signed = read_signed(job.candidate.path)
    if signed is None or signed.sha256 != job.manifest_sha256:
        raise job.fail(f"{job.candidate.path} changed since it was verified")
    manifest = parse_manifest(signed.manifest, str(job.candidate.path / SIGNATURES / MANIFEST))
    _need_space(job, manifest)
    try:
        _copy(job, signed, manifest)
    except Exception:
        if os.path.lexists(job.staging):
            staging.remove(job.staging)
        raise


def _copy(job: _Job, signed: SignedManifest, manifest: ReleaseManifest) -> None:
    staging.copy_release(job.candidate.path, job.staging, manifest.files, signed, job.progress)
    found = job.verify(job.staging)
    if not found.verified or found.manifest_sha256 != job.manifest_sha256:
        raise job.fail(f"the copy did not verify, {found.verdict.value}: {found.detail}")


def _need_space(job: _Job, manifest: ReleaseManifest) -> None:
    sizes = (os.lstat(job.candidate.path / f.path).st_size for f in manifest.files)
    needed = sum(sizes) + SPARE_BYTES
    system = os.statvfs(job.place.parent)
    free = system.f_bavail * system.f_frsize
    if free < needed:
        raise job.fail(
            f"{job.place.parent} has {free} bytes free, {needed} are needed for the copy"
        )


def _declare(job: _Job) -> Json:
    """Journal what is about to be exchanged, so that any later run can tell the two apart."""
    old = _signed(job.place)
    intent = {
        "model": job.model.id,
        "place": str(job.place),
        "staging": str(job.staging),
        **_free_place(job),
        "from": {"inode": _inode(job.place), "manifest_sha256": old.sha256 if old else None},
        "to": {
            "inode": _inode(job.staging),
            "manifest_sha256": job.manifest_sha256,
            "version": job.candidate.version,
        },
    }
    job.case.append(INTENT, intent)
    return intent


def _still_fits(job: _Job, intent: Json) -> bool:
    """Whether the model path is as the intent found it, or as a cut-off fallback left it."""
    found = _inode(job.place)
    return found == intent["from"]["inode"] or (found is None and _kept(intent) is not None)


def _swap(job: _Job, intent: Json) -> None:
    job.staging.chmod(staging.folder_mode(job.candidate.path))
    if _inode(job.place) is None:
        staging.move(job.staging, job.place)
    elif staging.exchange(job.staging, job.place):
        _preserve(job.staging, intent)
    else:
        _preserve(job.place, intent)
        staging.move(job.staging, job.place)


def _finish(job: _Job, intent: Json | None) -> Json:
    receipt = {
        "model": job.model.id,
        "path": str(job.place),
        "version": job.candidate.version,
        "manifest_sha256": job.manifest_sha256,
        "preserved": _kept(intent) if intent else None,
    }
    if intent:
        job.case.append(DONE, receipt)
        return receipt
    for entry in reversed(job.case.entries()):
        if entry.kind == DONE and {**entry.body, "preserved": None} == receipt:
            return entry.body
    return receipt


def _void(job: _Job, reason: str) -> None:
    job.case.append(VOID, {"model": job.model.id, "reason": reason})


def _free_place(job: _Job) -> Json:
    """Where the compromised version will go: in the case's folder, else beside the model.

    Numbered from the second rollback of an incident on: nothing preserved is ever replaced.
    """
    folder = job.case.folder / "compromised"
    beside = f".{job.place.name}.compromised-{job.case.id}"
    for number in range(1, 10_000):
        suffix = "" if number == 1 else f".{number}"
        preserved = folder / f"{job.place.name}{suffix}"
        otherwise = job.place.with_name(beside + suffix)
        if not os.path.lexists(preserved) and not os.path.lexists(otherwise):
            return {"preserved": str(preserved), "otherwise": str(otherwise)}
    raise job.fail(f"{folder} holds too many preserved versions")


def _preserve(found: Path, intent: Json) -> None:
    """Move the compromised version out of the way, unchanged.

    To the case's folder when that is on the same file system and the directory may change its
    parent (its owner must be allowed to write it), else beside the model.
    """
    place = Path(intent["preserved"])
    place.parent.mkdir(exist_ok=True, mode=0o700)
    try:
        staging.move(found, place)
    except OSError as error:
        if error.errno not in CANNOT_MOVE:
            raise
        staging.move(found, Path(intent["otherwise"]))


def _kept(intent: Json) -> str | None:
    """Where the preserved version of an intent lies; None when it is not there (yet)."""
    for place in (intent["preserved"], intent["otherwise"]):
        if os.path.lexists(place):
            return str(place)
    return None


def _inode(path: Path) -> str | None:
    """The inode as text, for it may exceed what JSON numbers hold; None when nothing is there."""
    try:
        return str(os.lstat(path).st_ino)
    except FileNotFoundError:
        return None


def _signed(place: Path) -> SignedManifest | None:
    """The manifest lying there; None when there is none that can be read safely."""
    try:
        return read_signed(place)
    except ManifestError:
        return None


@contextmanager
def _alone(job: _Job) -> Iterator[None]:
    """One rollback of an incident at a time on this host: two would exchange twice."""
    handle = os.open(job.case.folder / "restore.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise job.fail("another process is restoring this model right now") from error
        yield
    finally:
        os.close(handle)
