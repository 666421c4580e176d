"""A container as evidence: what the engine knows, and what it cannot see.

The engine's `diff` and `export` miss tmpfs, and psutil misses a container's sockets; both are read
through `/proc/<State.Pid>` of this host, after making sure that the process is that container's
(a remote engine's pids mean nothing here). Works while the container is paused.
"""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from firebreak.errors import ContainmentError
from firebreak.evidence import sockets
from firebreak.evidence.plain_file import read_plain
from firebreak.evidence.redaction import redact, storable
from firebreak.incidents.case import Case
from firebreak.inventory import Target
from firebreak.records import Json, now, printable, timestamp

if TYPE_CHECKING:
    from docker.models.containers import Container

ENGINE_TIMEOUT_S = 20
MAX_LOG_BYTES = 4 << 20  # the newest
MAX_TMPFS_ENTRIES = 5_000
MAX_TMPFS_FILE_BYTES = 1 << 20  # larger files are listed, not read
MAX_TMPFS_BYTES = 32 << 20  # content kept per container
SKIPPED_MOUNTS = ("/dev", "/proc", "/sys")  # made by the engine, except /dev/shm
SECRET_MOUNTS = ("/run/secrets", "/var/run/secrets")  # listed, content neither hashed nor kept


@contextmanager
def containers_of(target: Target) -> Iterator[list["Container"]]:
    """All containers of a `docker://label=value` target, whatever their state.

    Raises:
        ContainmentError: the target names no label and value, or the engine does not answer.
    """
    import docker
    import docker.errors

    label, _, value = target.rest.partition("=")
    if not label or not value:
        raise ContainmentError(target.uri, "expected docker://LABEL=VALUE, such as model=chat")
    try:
        client = docker.from_env(timeout=ENGINE_TIMEOUT_S)
    except docker.errors.DockerException as error:
        raise ContainmentError(target.uri, f"the engine cannot be used: {error}") from error
    try:
        found = client.containers.list(
            all=True, filters={"label": target.rest}, ignore_removed=True
        )
    except (docker.errors.DockerException, requests.RequestException) as error:
        client.close()
        raise ContainmentError(target.uri, f"the engine does not answer: {error}") from error
    try:
        yield found
    finally:
        client.close()


def collect(case: Case, container: "Container", prefix: str = "container") -> list[str]:
    """Store everything about one container; what fails is journaled, the rest is still taken.

    Args:
        case: the incident.
        container: of the docker SDK; running, paused or stopped.
        prefix: first part of the evidence's names, such as `paused-container`.

    Returns: sha256 of the blobs stored.
    """
    import docker.errors

    container.reload()
    name = f"{prefix}-{(container.id or '')[:12]}"
    pid = host_pid(container)
    parts: list[tuple[str, str, Callable[[], bytes | Json], bool]] = [
        ("processes", "top.json", lambda: _top(container), _is_up(container)),
        ("sockets", "sockets.json", lambda: _sockets(pid), pid > 0),
        ("filesystem", "tmpfs.json", lambda: _tmpfs(pid), pid > 0),
        ("filesystem", "tmpfs.tar", lambda: tmpfs_archive(pid), pid > 0),
        ("filesystem", "inspect.json", lambda: inspect(container), True),
        ("filesystem", "diff.json", lambda: _diff(container), True),
        ("logs", "log.txt", lambda: log_tail(container), True),
    ]
    digests = []
    for kind, part, take, possible in parts:
        if not possible:
            continue
        full = f"{name}-{part}"
        try:
            data = take()
            media = {"txt": "text/plain", "tar": "application/x-tar"}.get(part[-3:])
            source = f"container {container.id}"
            digests.append(case.add_evidence(kind, full, data, source, media or "application/json"))
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            problem = redact(printable(f"{type(error).__name__}: {error}"))
            case.append("evidence.failed", {"class": kind, "name": full, "error": problem})
    return digests


def inspect(container: "Container") -> Json:
    """The engine's record of a container; of its environment the names only."""
    attributes = dict(container.attrs)
    config = dict(attributes.get("Config") or {})
    config["Env"] = sorted(str(e).partition("=")[0] for e in config.get("Env") or [])
    attributes["Config"] = config
    record: Json = storable(attributes)
    return record


def log_tail(container: "Container") -> bytes:
    """The newest part of a container's log with times, at most 4 MiB, secrets masked."""
    tail = bytearray()
    stream: Any = container.logs(stream=True, follow=False, timestamps=True, tail=100_000)
    for chunk in stream:
        tail += chunk
        if len(tail) > 2 * MAX_LOG_BYTES:
            del tail[:-MAX_LOG_BYTES]
    text = bytes(tail[-MAX_LOG_BYTES:]).decode("utf-8", "backslashreplace")
    return redact(text).encode("utf-8", "backslashreplace")


def host_pid(container: "Container") -> int:
    """The container's first process as this host numbers it; 0 when it has none we can see.

    The process's cgroup must name the container: another machine's engine answers with pids that
    here belong to something else.
    """
    pid = int(container.attrs.get("State", {}).get("Pid") or 0)
    try:
        cgroup = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return pid if pid > 0 and container.id and container.id in cgroup else 0


def tmpfs_archive(pid: int) -> bytes:
    """The small plain files on a process's tmpfs mounts, as a tar; at most 32 MiB of content."""
    buffer, total = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for mount, relative, info, content in _walk_tmpfs(pid):
            if content is None or total + len(content) > MAX_TMPFS_BYTES:
                continue
            total += len(content)
            member = tarfile.TarInfo(f"{mount}/{relative}".lstrip("/"))
            member.size, member.mtime, member.mode = len(content), info.st_mtime, 0o400
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _is_up(container: "Container") -> bool:
    return container.status in ("running", "paused")


def _top(container: "Container") -> Json:
    record: Json = storable(container.top(ps_args="-eo pid,ppid,user,lstart,args"))
    # one column holds the whole command line, so it is masked as text, not as arguments
    record["Processes"] = [[redact(printable(str(c))) for c in p] for p in record["Processes"]]
    return record


def _diff(container: "Container") -> Json:
    return {"changes": storable(container.diff() or [])}


def _sockets(pid: int) -> Json:
    return {"taken_at": timestamp(now()), "sockets": sockets.sockets_of(pid)}


def _tmpfs(pid: int) -> Json:
    entries: list[Json] = []
    for mount, relative, info, content in _walk_tmpfs(pid):
        entries.append(
            {
                "mount": printable(mount),
                "path": printable(relative),
                "mode": stat.filemode(info.st_mode),
                "uid": info.st_uid,
                "size": info.st_size,
                "mtime": info.st_mtime,
                "sha256": None if content is None else hashlib.sha256(content).hexdigest(),
            }
        )
    return {
        "taken_at": timestamp(now()),
        "entries": entries,
        "truncated": len(entries) >= MAX_TMPFS_ENTRIES,
    }


def _walk_tmpfs(pid: int) -> Iterator[tuple[str, str, os.stat_result, bytes | None]]:
    """Yield (mount point, path in it, lstat, content of a small plain file); follows no link."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    count = 0
    try:
        for mount in _tmpfs_mounts(pid):
            try:
                folder = _descend(root, mount)
            except OSError:  # covered by another mount, or a link now
                continue
            try:
                for relative, info, content in _walk(folder, mount):
                    yield mount, relative, info, content
                    count += 1
                    if count >= MAX_TMPFS_ENTRIES:
                        return
            finally:
                os.close(folder)
    finally:
        os.close(root)


def _tmpfs_mounts(pid: int) -> list[str]:
    mounts = []
    for line in Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines():
        fields, _, tail = line.partition(b" - ")
        if tail.split(b" ", 1)[0] in (b"tmpfs", b"ramfs"):
            place = os.fsdecode(fields.split(b" ")[4])
            place = place.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
            if place == "/dev/shm" or not place.startswith(SKIPPED_MOUNTS):  # noqa: S108 - a name
                mounts.append(place)
    return mounts


def _descend(root: int, path: str) -> int:
    """A handle of a folder below another one, no link followed on the way."""
    current = os.dup(root)
    for part in path.strip("/").split("/"):
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            following = os.open(part or ".", flags, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


def _walk(folder: int, mount: str) -> Iterator[tuple[str, os.stat_result, bytes | None]]:
    secret = mount.startswith(SECRET_MOUNTS)
    for parent, _, names, handle in os.fwalk(".", dir_fd=folder, follow_symlinks=False):
        for name in names:
            try:
                info = os.stat(name, dir_fd=handle, follow_symlinks=False)
            except OSError:  # removed meanwhile
                continue
            small = stat.S_ISREG(info.st_mode) and info.st_size <= MAX_TMPFS_FILE_BYTES
            content = _content(name, handle) if small and not secret else None
            yield os.path.normpath(f"{parent}/{name}"), info, content


def _content(name: str, folder: int) -> bytes | None:
    try:
        return read_plain(name, MAX_TMPFS_FILE_BYTES, folder)[0]
    except OSError:  # swapped, grown or removed since it was listed: the listing says so
        return None
