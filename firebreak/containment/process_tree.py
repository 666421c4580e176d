"""A service's processes, found from its pid file and named so that a reused pid is never hit."""

import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from firebreak.evidence.plain_file import read_plain
from firebreak.evidence.redaction import storable
from firebreak.records import Json

MAX_PID_FILE_BYTES = 64
PID_FILE_SLACK_S = 2.0  # a pid file is written after its process started, give or take clock steps
STOP_TIMEOUT_S = 5.0


class PidFileError(Exception):
    """A pid file whose content must not be acted on. Becomes a ContainmentError."""


@dataclass(frozen=True, slots=True)
class Member:
    """One process, told apart from a later one with the same pid by its start.

    Attributes:
        pid: process id.
        started: clock ticks from boot to its start; no clock adjustment changes them.
    """

    pid: int
    started: int

    @property
    def key(self) -> str:
        """`pid@started`."""
        return f"{self.pid}@{self.started}"

    @classmethod
    def from_key(cls, key: str) -> "Member":
        """The member that `key` names. Raises: ValueError."""
        pid, _, started = key.partition("@")
        return cls(int(pid), int(started))

    @property
    def state(self) -> str | None:
        """The kernel's one-letter state; None when gone. A zombie is gone: it runs nothing."""
        found = _stat(self.pid)
        if found is None or found[1] != self.started or found[0] in "ZXx":
            return None
        return found[0]

    @property
    def is_stopped(self) -> bool:
        """Whether it is held by SIGSTOP (or a debugger)."""
        return self.state in ("T", "t")

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to exactly this process; False when it is gone.

        Raises:
            PermissionError: it is somebody else's.
        """
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if self.state is None:  # checked after opening: the handle cannot change its process
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)

    def wait_until(self, wanted: str, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Wait until it is `stopped` or `gone` (gone counts for both); False when time is over."""
        deadline = time.monotonic() + timeout_s
        while (state := self.state) is not None:
            if wanted == "stopped" and state in ("T", "t"):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def describe(self) -> Json:
        """What a responder wants to know of it later; secrets masked, environment names only."""
        record: Json = {"pid": self.pid, "started": self.started, "was_stopped": self.is_stopped}
        try:
            process = psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            return record
        for name in ("create_time", "cmdline", "cwd", "exe", "environ"):
            try:
                value = getattr(process, name)()
            except (psutil.Error, OSError):
                value = None
            if name == "environ":
                record["environment_names"] = storable([*sorted(value or {})])
            else:
                record[name] = storable(value)
        return record


def member(pid: int) -> Member | None:
    """The living process of that id; None when there is none (a zombie is none)."""
    found = _stat(pid)
    return Member(pid, found[1]) if found and found[0] not in "ZXx" else None


def read_pid_file(path: Path) -> int | None:
    """The process id a pid file holds, whether or not it lives; None when there is no file.

    The file may be the attacker's: it must be a plain file with one number, must not name this
    process, one above it, or another user's (unless root wrote it), and must not be older than the
    process (the pid was then used again).

    Raises:
        PidFileError: it must not be acted on, and why.
    """
    try:
        text, info = read_plain(path, MAX_PID_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PidFileError(f"pid file cannot be used: {error.strerror}") from error
    if not re.fullmatch(rb"\s*[0-9]{1,10}\s*", text):
        raise PidFileError("pid file does not hold one number")
    pid = int(text)
    if pid <= 1:
        raise PidFileError(f"pid file names process {pid}")
    if pid in own_line():
        raise PidFileError(f"pid file names process {pid}, which is this process or above it")
    created, users = _created_by(pid)
    if users and info.st_uid not in (0, *users):
        raise PidFileError(
            f"pid file belongs to user {info.st_uid}, process {pid}, which it names, to {users[0]}"
        )
    if created > info.st_mtime + PID_FILE_SLACK_S:
        raise PidFileError(
            f"pid file is older than process {pid}, which it names: the id was used again, or the "
            "file was backdated"
        )
    return pid


def own_line() -> set[int]:
    """This process and everything above it: never signalled."""
    return {os.getpid(), *(p.pid for p in psutil.Process().parents())}


def service_members(pid: int | None, known: Iterable[Member] = ()) -> list[Member]:
    """The living processes of a service, oldest first.

    Args:
        pid: its main process. When that is dead its session may live on: Linux gives no process
            the id of a session that still has members.
        known: processes seen earlier, whose parent may be gone since.

    Returns: the main process, the known ones, all their descendants, and the session that the main
        process leads or led; never this process or one above it.
    """
    seeds = {m.pid for m in known if m.state is not None} | ({pid} if pid else set())
    found = {*seeds, *(_session(pid) if pid else ())}
    for seed in seeds:
        found.update(_descendants(seed))
    members = [member(one) for one in found - own_line()]
    return sorted((m for m in members if m is not None), key=lambda m: (m.started, m.pid))


def _descendants(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _session(leader: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader:
                found.append(pid)
        except (ProcessLookupError, PermissionError):
            continue
    return found


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start in ticks, from `/proc/<pid>/stat`."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before may hold anything
    return fields[0].decode(), int(fields[19])


def _created_by(pid: int) -> tuple[float, tuple[int, ...]]:
    """When it was started (0 when it is gone) and as which real and effective user."""
    try:
        process = psutil.Process(pid)
        users = process.uids()
        return float(process.create_time()), (users.real, users.effective)
    except psutil.Error:
        return 0.0, ()
