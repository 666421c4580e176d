"""Starting a service again: its argument list, its log, its pid file."""

import os
import secrets
import subprocess
import time
from pathlib import Path

from firebreak.containment.process_tree import Member, PidFileError, member, read_pid_file
from firebreak.containment.reach import answers
from firebreak.errors import ContainmentError
from firebreak.evidence.redaction import redact
from firebreak.incidents.case import Case
from firebreak.inventory import Target
from firebreak.records import printable

START_TIMEOUT_S = 30.0
SETTLE_S = 0.5  # without a probe URL: how long a started service must live to count as serving
TAIL_BYTES = 2048
OWN_VARIABLES = ("FIREBREAK_", "PREFECT_")  # the responder's own secrets are not the service's
HAND_OVER_S = 5.0  # how long a daemon may take from leaving its first process to its pid file
STARTED = "containment.started"

_children: dict[int, "subprocess.Popen[bytes]"] = {}  # kept, so that ended ones can be reaped


def start(target: Target, case: Case) -> Member:
    """Start a service with its own argument list (no shell) and wait until it serves.

    It gets this process's environment without `FIREBREAK_*` and `PREFECT_*`; its output goes to
    `service-<n>.log` in the incident's folder. The pid file is written only if the program has not
    written one itself that names a living process: many programs refuse to start over a pid file
    that is already there. A run that died after starting is found again through the journal
    (`containment.started`), so that no second service is started.

    Raises:
        ContainmentError: no `start` is listed, the program cannot be run, it ended, or it did not
            serve in time; with the last lines of its log.
    """
    if not target.start:
        raise ContainmentError(
            target.uri, "ended, and no `start` is listed for it: start the service by hand"
        )
    found, log = _started_before(target, case) or _start_now(target, case)
    wait_until_serving(target, found, log)
    _write_pid_file(target, found)
    return found


def wait_until_serving(target: Target, found: Member, log: Path | None = None) -> None:
    """Wait until a started or continued service answers (or, without a probe URL, stays alive).

    Raises:
        ContainmentError: it ended or did not answer in time.
    """
    begin = time.monotonic()
    while True:
        state = _life(target, found)
        waited = time.monotonic() - begin
        if state == "ended" or (state == "handing over" and waited > HAND_OVER_S):
            raise ContainmentError(target.uri, f"ended after its start; {_tail(log)}")
        if target.probe is None and state == "alive" and waited >= SETTLE_S:
            return
        if target.probe is not None and answers(target.probe):
            return
        if waited > START_TIMEOUT_S:
            problem = f"does not answer at {target.probe} after {START_TIMEOUT_S:g} s"
            raise ContainmentError(target.uri, f"{problem}; {_tail(log)}")
        time.sleep(0.05)


def reap() -> None:
    """Collect the exit status of services we started that have ended since."""
    for child in _children.values():
        child.poll()


def _life(target: Target, found: Member) -> str:
    """`alive`, `ended`, or `handing over`: exit status 0 is how a daemon leaves its first process.

    A daemon is alive again as soon as its pid file names a living process.
    """
    reap()
    if found.state is not None or _named_by(target) is not None:
        return "alive"
    child = _children.get(found.pid)
    return "handing over" if child is not None and child.returncode == 0 else "ended"


def _started_before(target: Target, case: Case) -> tuple[Member, Path] | None:
    for entry in reversed(case.entries()):
        if entry.kind == STARTED and entry.body["target"] == target.uri:
            found = Member.from_key(entry.body["item"])
            return (found, case.folder / entry.body["log"]) if found.state is not None else None
    return None


def _start_now(target: Target, case: Case) -> tuple[Member, Path]:
    log = case.folder / f"service-{len(list(case.folder.glob('service-*.log'))) + 1}.log"
    child = _spawn(target, log)
    found = member(child.pid)
    if found is None:  # ended at once, perhaps a daemon: any start will do, it is not there
        found = Member(child.pid, 0)
    body = {"target": target.uri, "item": found.key, "log": log.name, "pid": child.pid}
    case.append(STARTED, body)
    return found, log


def _spawn(target: Target, log: Path) -> "subprocess.Popen[bytes]":
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    output = os.open(log, flags, 0o600)
    try:
        child = subprocess.Popen(
            target.start,
            cwd=target.cwd,
            env={k: v for k, v in os.environ.items() if not k.startswith(OWN_VARIABLES)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        problem = f"cannot start {printable(target.start[0])!r}: {error}"
        raise ContainmentError(target.uri, problem) from error
    finally:
        os.close(output)
    reap()
    _children[child.pid] = child
    return child


def _named_by(target: Target) -> Member | None:
    try:
        pid = read_pid_file(Path(target.rest))
    except PidFileError:
        return None
    return member(pid) if pid else None


def _write_pid_file(target: Target, found: Member) -> None:
    if _named_by(target) is not None:
        return
    path = Path(target.rest)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(f"{found.pid}\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        problem = f"serves as process {found.pid}, but its pid file cannot be written: {error}"
        raise ContainmentError(target.uri, problem) from error


def _tail(log: Path | None) -> str:
    if log is None or not log.exists():
        return "it has no log here"
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = stream.read(TAIL_BYTES).decode("utf-8", "backslashreplace")
    lines = [redact(printable(line)) for line in text.splitlines()[-10:]]
    return f"{log.name} ends: {' | '.join(lines) or 'empty'}"
