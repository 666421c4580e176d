"""The file operations under a rollback: copy a release, exchange and move directories, remove.

All of them are durable when they return (files and folders are synced), never follow links, and
never replace anything that is already there.
"""

import ctypes
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from firebreak.checks.hashing import CHUNK, Progress
from firebreak.checks.release_manifest import SIGNATURES, ManifestFile
from firebreak.checks.signatures import MANIFEST, SIGNATURE, SignedManifest
from firebreak.errors import UnsafeFileError
from firebreak.records import printable

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # linux/fs.h
AT_FDCWD = -100
NOT_OFFERED = (errno.ENOSYS, errno.EINVAL)  # by the kernel, by the file system

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_release(
    source: Path,
    staging: Path,
    files: Sequence[ManifestFile],
    signed: SignedManifest,
    progress: Progress | None = None,
) -> None:
    """Copy the listed files of a release, and its manifest and signature, into a new directory.

    Each file is hashed while it is copied. Permission bits are kept without setuid, setgid and
    sticky; folders stay writable for their owner, `staging` itself is 0700. Nothing that the
    manifest does not list is copied.

    Args:
        source: the release.
        staging: must not exist yet.
        files: what the manifest lists.
        signed: manifest and signature as they were verified; written from memory.
        progress: called with the number of bytes copied since the last call.

    Raises:
        UnsafeFileError: a file is no longer what the manifest says.
        OSError: the file system refuses; `staging` is then incomplete.
    """
    folders = sorted({str(p) for f in files for p in PurePosixPath(f.path).parents if p.name})
    for folder in (staging, *(staging / f for f in folders), staging / SIGNATURES):
        folder.mkdir(0o700)
    for file in files:
        _copy(source / file.path, staging / file.path, file, progress)
    for name, data in ((MANIFEST, signed.manifest), (SIGNATURE, signed.signature)):
        handle = os.open(staging / SIGNATURES / name, _CREATE, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as stream:
            _write_all(handle, memoryview(data))
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(handle)
    for name in (*reversed(folders), SIGNATURES):
        (staging / name).chmod(folder_mode(source / name))
        sync_folder(staging / name)
    sync_folder(staging)


def folder_mode(folder: Path) -> int:
    """Permission bits of a folder without the special ones, always usable by its owner."""
    return os.lstat(folder).st_mode & 0o777 | 0o700


def exchange(one: Path, other: Path) -> bool:
    """Exchange two directories in one step; False when the system cannot, and nothing happened.

    Source: renameat2(2), RENAME_EXCHANGE; Linux 3.15, and the file system must support it.

    Raises:
        OSError: either is missing, or they lie on different file systems.
    """
    try:
        renameat2(one, other, RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in NOT_OFFERED:
            return False
        raise
    sync_folder(one.parent)
    sync_folder(other.parent)
    return True


def move(source: Path, place: Path) -> None:
    """Rename a directory to a name that nothing has.

    Raises:
        FileExistsError: something is there already; nothing is replaced.
        OSError: EXDEV between file systems, and whatever else rename(2) refuses.
    """
    try:
        renameat2(source, place, RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        if os.path.lexists(place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place)) from error
        source.rename(place)
    sync_folder(source.parent)
    sync_folder(place.parent)


def remove(folder: Path) -> None:
    """Delete a directory of ours, following no links. Raises: OSError."""
    shutil.rmtree(folder)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises: OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def renameat2(source: Path, place: Path, flags: int) -> None:
    """The system call that Python lacks. Raises: OSError; ENOSYS when libc lacks it, too."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(source))
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if call(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(place), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(place))


def _copy(source: Path, place: Path, listed: ManifestFile, progress: Progress | None) -> None:
    reader = os.open(source, _READ)
    with os.fdopen(reader, "rb", buffering=0) as origin:
        info = os.fstat(reader)
        if not stat.S_ISREG(info.st_mode):
            raise UnsafeFileError(printable(listed.path), "is not a plain file any more")
        writer = os.open(place, _CREATE, 0o600)
        with os.fdopen(writer, "wb", buffering=0) as copy:
            sha, view = hashlib.sha256(), memoryview(bytearray(CHUNK))
            while count := origin.readinto(view):
                sha.update(view[:count])
                _write_all(writer, view[:count])
                if progress:
                    progress(count)
            os.fchmod(writer, info.st_mode & 0o777)
            os.fsync(copy.fileno())
    if sha.hexdigest() != listed.sha256:
        raise UnsafeFileError(
            printable(listed.path),
            f"changed since it was verified: sha256 is {sha.hexdigest()}, signed {listed.sha256}",
        )


def _write_all(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]
