"""Copying a hostile tree: hash while copying, follow no link, block on nothing, read the copy back.

Folders are walked by handle, so that a folder swapped for a link meanwhile is not entered. Whatever
cannot be copied as a plain file with a UTF-8 name becomes a problem in the record.
"""

import hashlib
import os
import stat
from pathlib import Path

from firebreak.checks.hashing import CHUNK, MAX_DEPTH, MAX_FILES
from firebreak.records import Json, printable

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class CopyError(Exception):
    """The copy is not what was read. Becomes a ContainmentError."""


class TreeCopy:
    """One copy of a model and what was seen on the way.

    Attributes:
        files: `{path, size, sha256}` of each file copied, as it was read.
        links: `{path, link}`: links are noted, never recreated.
        problems: `{path, problem}` of what was not copied, or changed while it was read.
    """

    def __init__(self) -> None:
        self.files: list[Json] = []
        self.links: list[Json] = []
        self.problems: list[Json] = []

    def run(self, source: Path, place: Path) -> None:
        """Copy a file or a directory to a place that does not exist yet.

        Raises:
            OSError: the source cannot be opened, or the copy cannot be written.
        """
        info = os.lstat(source)
        if stat.S_ISDIR(info.st_mode):
            handle = os.open(source, _READ | os.O_DIRECTORY)
            try:
                self._folder(handle, place, "", 0)
            finally:
                os.close(handle)
            return
        parent = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._entry(parent, source.name, place, source.name, 0)
        finally:
            os.close(parent)

    def verify(self, place: Path) -> None:
        """Read every copied file back from the disk and compare its digest.

        Raises:
            CopyError: one differs.
            OSError: one cannot be read.
        """
        for file in self.files:
            copied = place / file["path"] if place.is_dir() else place
            found = _digest(copied)
            if found != file["sha256"]:
                problem = f"{file['path']!r} reads back as {found}, copied was {file['sha256']}"
                raise CopyError(problem)

    def _folder(self, handle: int, place: Path, prefix: str, depth: int) -> None:
        place.mkdir(mode=0o700)
        for name in sorted(os.listdir(handle), key=os.fsencode):
            if len(self.files) + len(self.links) + len(self.problems) >= MAX_FILES:
                self._problem(prefix or ".", f"more than {MAX_FILES} files")
                break
            self._entry(handle, name, place / name, prefix + name, depth)
        place.chmod(0o500)

    def _entry(self, parent: int, name: str, place: Path, path: str, depth: int) -> None:
        try:
            name.encode()
        except UnicodeEncodeError:
            self._problem(path, "name is not UTF-8")
            return
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                link = os.readlink(name, dir_fd=parent)
                self.links.append({"path": path, "link": printable(link)})
                return
            if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode):
                self._problem(path, f"is not a plain file ({stat.filemode(info.st_mode)})")
                return
            handle = os.open(name, _READ, dir_fd=parent)
        except OSError as error:
            self._problem(path, f"cannot be read: {error.strerror}")
            return
        try:
            self._opened(handle, place, path, depth)
        finally:
            os.close(handle)

    def _opened(self, handle: int, place: Path, path: str, depth: int) -> None:
        """What it is now is decided by its handle: the name may have got another file since."""
        info = os.fstat(handle)
        if stat.S_ISREG(info.st_mode):
            self._file(handle, info, place, path)
        elif not stat.S_ISDIR(info.st_mode):
            self._problem(path, "is not a plain file")
        elif depth >= MAX_DEPTH:
            self._problem(path, "is nested too deeply")
        else:
            self._folder(handle, place, f"{path}/", depth + 1)

    def _file(self, handle: int, info: os.stat_result, place: Path, path: str) -> None:
        """Copy at most the bytes it has now: a file that grows must not fill the disk."""
        sha, size = hashlib.sha256(), 0
        with os.fdopen(os.open(place, _WRITE, 0o600), "wb") as out:
            while size < info.st_size:
                try:
                    chunk = os.read(handle, min(CHUNK, info.st_size - size))
                except OSError as error:
                    self._problem(path, f"cannot be read after {size} bytes: {error.strerror}")
                    break
                if not chunk:
                    break
                out.write(chunk)
                sha.update(chunk)
                size += len(chunk)
            out.flush()
            os.fsync(out.fileno())
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read back from the disk
            os.fchmod(out.fileno(), 0o400)
        after = os.fstat(handle)
        if (after.st_size, after.st_mtime_ns) != (size, info.st_mtime_ns):
            self._problem(path, "changed while it was read")
        self.files.append({"path": path, "size": size, "sha256": sha.hexdigest()})

    def _problem(self, path: str, problem: str) -> None:
        self.problems.append({"path": printable(path), "problem": problem})


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with os.fdopen(os.open(path, _READ), "rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK):
            sha.update(chunk)
    return sha.hexdigest()
