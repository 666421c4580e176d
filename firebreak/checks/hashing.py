"""Hashing a model: every file under it, streamed, in constant memory, following no links out of it.

A model directory may be the attacker's. What cannot be hashed safely (a FIFO, a device, a link that
leaves the model, a name that is not UTF-8, a file that changes while it is read) becomes a
`Problem`, never silence: callers decide between refusing (`scan_strict`) and reporting (`scan`).
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from firebreak.errors import UnsafeFileError
from firebreak.records import printable

CHUNK = 1 << 20  # 1 MiB: smaller costs system calls, larger misses the processor's cache
MAX_FILES = 2_000_000
MAX_DEPTH = 64

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file of a model.

    Attributes:
        path: relative to the model, `/` between parts.
        size: bytes.
        sha256: of the content, 64 hex digits; of the link's text for a link.
        link: where a symbolic link inside the model points (as written), None for a plain file.
        changed_ns: inode change time in ns since 1970, 0 when unknown; unlike the modification
            time nobody sets it by choice. No part of the file's identity.
    """

    path: str
    size: int
    sha256: str
    link: str | None = None
    changed_ns: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something under a model that could not be hashed safely. `path` is escaped for display."""

    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class Tree:
    """What lies under a model: files sorted by path, and everything that is not one."""

    files: tuple[FileDigest, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(f.size for f in self.files)

    def by_path(self) -> dict[str, FileDigest]:
        """The files by their path."""
        return {f.path: f for f in self.files}


def scan(
    root: Path,
    *,
    skip: frozenset[str] = frozenset(),
    progress: Progress | None = None,
    workers: int = 2,
) -> Tree:
    """Hash every file under a model; never raises for what it finds there.

    Args:
        root: a directory, or a single-file model (the tree then has one file, named like it).
        skip: names directly under `root` to leave out, such as `.signatures`.
        progress: called with the number of bytes read since the last call, from several threads.
        workers: threads; hashing releases the interpreter lock.

    Raises:
        FileNotFoundError: `root` does not exist.
        OSError: `root` itself cannot be listed.
    """
    info = os.lstat(root)
    if stat.S_ISREG(info.st_mode):
        found = _hash_one(str(root), root.name, progress)
        return Tree((found,)) if isinstance(found, FileDigest) else Tree((), (found,))
    if not stat.S_ISDIR(info.st_mode):
        return Tree((), (Problem(printable(str(root)), f"is {_kind(info.st_mode)}"),))
    files: list[FileDigest] = []
    problems: list[Problem] = []
    with ThreadPoolExecutor(max_workers=workers) as pool:
        jobs = []
        for entry in walk(os.path.abspath(root), skip):
            if isinstance(entry, Problem):
                problems.append(entry)
            elif isinstance(entry, FileDigest):
                files.append(entry)
            else:
                jobs.append(pool.submit(_hash_one, *entry, progress))
        for job in jobs:
            result = job.result()
            (files if isinstance(result, FileDigest) else problems).append(result)  # type: ignore[arg-type]
    return Tree(
        tuple(sorted(files, key=lambda f: f.path)), tuple(sorted(problems, key=lambda p: p.path))
    )


def scan_strict(
    root: Path, *, skip: frozenset[str] = frozenset(), progress: Progress | None = None
) -> Tree:
    """Like `scan`, but refuses a tree with anything unsafe in it.

    Raises:
        UnsafeFileError: names the first such file.
        OSError: `root` is missing or cannot be listed.
    """
    tree = scan(root, skip=skip, progress=progress)
    if tree.problems:
        raise UnsafeFileError(tree.problems[0].path, tree.problems[0].problem)
    return tree


def tree_size(root: Path) -> int:
    """Bytes under a model by `lstat`, for progress bars; what cannot be read counts as 0."""
    if not root.is_dir():
        return os.lstat(root).st_size
    total = 0
    for entry in walk(os.path.abspath(root), frozenset()):
        if isinstance(entry, tuple):
            try:
                total += os.lstat(entry[0]).st_size
            except OSError:
                continue
    return total


def walk(root: str, skip: frozenset[str]) -> Iterator[tuple[str, str] | FileDigest | Problem]:
    """Yield (absolute, relative) of plain files, links inside the model, and problems."""
    pending, count = [(root, "", 0)], 0
    while pending:
        folder, prefix, depth = pending.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda e: os.fsencode(e.name))
        except OSError as error:
            yield Problem(printable(prefix or folder), f"cannot be listed: {error.strerror}")
            continue
        for entry in entries:
            count += 1
            if count > MAX_FILES:
                yield Problem(printable(prefix or folder), f"more than {MAX_FILES} files")
                return
            if not prefix and entry.name in skip:
                continue
            if not entry.is_dir(follow_symlinks=False):
                yield _leaf(root, entry, prefix + entry.name)
            elif depth >= MAX_DEPTH or not _is_utf8(entry.name):
                problem = "file name is not UTF-8" if depth < MAX_DEPTH else "is nested too deeply"
                yield Problem(printable(prefix + entry.name), problem)
            else:
                pending.append((entry.path, f"{prefix}{entry.name}/", depth + 1))


def _leaf(
    root: str, entry: "os.DirEntry[str]", relative: str
) -> tuple[str, str] | FileDigest | Problem:
    if not _is_utf8(entry.name):
        return Problem(printable(relative), "file name is not UTF-8")
    if entry.is_symlink():
        return _link(root, entry.path, relative)
    if entry.is_file(follow_symlinks=False):
        return entry.path, relative
    return Problem(printable(relative), f"is {_kind(_mode(entry))}")


def _link(root: str, path: str, relative: str) -> FileDigest | Problem:
    try:
        text = os.readlink(path)
    except OSError as error:
        return Problem(printable(relative), f"cannot be read: {error.strerror}")
    place = os.path.realpath(path)
    if not _is_utf8(text):
        return Problem(printable(relative), "links to a name that is not UTF-8")
    if not place.startswith(os.path.realpath(root) + os.sep):
        return Problem(
            printable(relative), f"is a symbolic link out of the model, to {printable(text)!r}"
        )
    data = text.encode()
    return FileDigest(relative, len(data), hashlib.sha256(data).hexdigest(), link=text)


def _hash_one(path: str, relative: str, progress: Progress | None) -> FileDigest | Problem:
    """Hash one plain file; opened without following links and without blocking on a FIFO."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Problem(printable(relative), f"cannot be read: {error.strerror}")
    before = os.fstat(handle)
    if not stat.S_ISREG(before.st_mode):  # swapped since it was listed; fdopen refuses a directory
        os.close(handle)
        return Problem(printable(relative), f"is {_kind(before.st_mode)}")
    with os.fdopen(handle, "rb", buffering=0) as stream:
        try:
            sha, size = hashlib.sha256(), 0
            buffer = bytearray(min(CHUNK, max(before.st_size, 1)))
            view = memoryview(buffer)
            while count := stream.readinto(buffer):
                sha.update(view[:count])
                size += count
                if progress:
                    progress(count)
            after = os.fstat(handle)
        except OSError as error:
            return Problem(printable(relative), f"cannot be read: {error.strerror}")
    if (size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return Problem(printable(relative), "changed while it was read")
    return FileDigest(relative, size, sha.hexdigest(), changed_ns=after.st_ctime_ns)


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _mode(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return 0


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a directory"),
    ):
        if test(mode):
            return name
    return "not a plain file"
