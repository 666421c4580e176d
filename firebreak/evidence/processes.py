"""Processes as evidence: who runs, since when, started how, holding which files of a model.

psutil's `process_iter(["environ", ...])` drops a process whose environ cannot be read (on some
kernels every kernel thread), so each attribute is read on its own and a failure is written down.
Of environments only the names are kept: values are where secrets live.
"""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from firebreak.evidence.redaction import storable
from firebreak.records import Json, now, printable, timestamp

MAX_FILES_LISTED = 200  # model files listed per process

_READERS: dict[str, Callable[[psutil.Process], Any]] = {
    "ppid": lambda p: p.ppid(),
    "name": lambda p: p.name(),
    "exe": lambda p: p.exe(),
    "cwd": lambda p: p.cwd(),
    "cmdline": lambda p: p.cmdline(),
    "status": lambda p: p.status(),
    "create_time": lambda p: p.create_time(),
    "uids": lambda p: list(p.uids()),
    "gids": lambda p: list(p.gids()),
    "threads": lambda p: p.num_threads(),
    "memory_rss": lambda p: p.memory_info().rss,
    "environment_names": lambda p: sorted(p.environ()),
}


def snapshot(model: Path | None = None) -> Json:
    """Every process this host shows, most facts of each, and which ones hold files of the model.

    Args:
        model: a model's path; its open and mapped files are listed per process.

    Returns: `{taken_at, host, processes: [...], incomplete: {pid: [attribute]}}`. Never raises for
        a process that ends or cannot be read: what is missing is listed under `incomplete`.
    """
    found, incomplete = [], {}
    for pid in psutil.pids():
        record, missing = describe(pid, model)
        if record is None:
            continue
        found.append(record)
        if missing:
            incomplete[str(pid)] = missing
    return {
        "taken_at": timestamp(now()),
        "host": socket.gethostname(),
        "processes": found,
        "incomplete": incomplete,
    }


def describe(pid: int, model: Path | None = None) -> tuple[Json | None, list[str]]:
    """One process and the attributes that could not be read; None when it is gone."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None, []
    record: Json = {"pid": pid}
    missing = []
    for name, read in _READERS.items():
        try:
            record[name] = storable(read(process))
        except (psutil.Error, OSError):
            missing.append(name)
    record["cgroup"] = _cgroup(pid)
    record["namespaces"] = _namespaces(pid)
    if model is not None:
        record["model_files"] = held_files(pid, model)
    return record, missing


def holders(model: Path) -> list[int]:
    """Ids of the processes that have a file of the model open or mapped, as far as we may look."""
    return [pid for pid in psutil.pids() if pid != os.getpid() and held_files(pid, model)]


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal, or gone: it serves nobody just now."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.NoSuchProcess:
        return True


def held_files(pid: int, model: Path) -> list[str]:
    """The model's files a process has open or mapped, relative paths kept absolute, at most 200."""
    root = os.path.realpath(model)
    inside = (root + os.sep, root)
    held = {
        path
        for path in (*_open_paths(pid), *_mapped_paths(pid))
        if path.removesuffix(" (deleted)") == inside[1] or path.startswith(inside[0])
    }
    return [printable(path) for path in sorted(held)[:MAX_FILES_LISTED]]


def _open_paths(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        handles = os.listdir(folder)  # noqa: PTH208 - names, many of them
    except OSError:  # gone, or not ours to look at
        return
    for handle in handles:
        try:
            yield os.readlink(f"{folder}/{handle}")
        except OSError:  # closed since
            continue


def _mapped_paths(pid: int) -> Iterator[str]:
    try:
        with Path(f"/proc/{pid}/maps").open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields = line.rstrip("\n").split(maxsplit=5)
                if len(fields) == 6 and fields[5].startswith("/"):
                    yield fields[5]
    except OSError:  # gone, or not ours to look at
        return


def _cgroup(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/cgroup").read_bytes()
    except OSError:
        return []
    return [printable(line) for line in text.splitlines()]


def _namespaces(pid: int) -> Json:
    found: Json = {}
    for kind in ("net", "pid", "mnt", "user"):
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{kind}")
        except OSError:
            found[kind] = None
    return found
