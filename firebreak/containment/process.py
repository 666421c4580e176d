"""`process://<pid file>`: a service of this host, held by SIGSTOP, ended by SIGKILL.

A stopped process keeps its memory and its sockets, and runs nothing: the reversible isolation.
Ending one goes by SIGKILL alone. SIGTERM would wait for SIGCONT, and continuing a compromised
program, if only for its farewell, lets it run its own handler: delete traces, send what it has.
"""

import signal
from pathlib import Path
from typing import ClassVar

from firebreak.containment import service
from firebreak.containment.before import forget, outstanding, remember
from firebreak.containment.driver import Exposure, Mode, Plan, Probe, Receipt
from firebreak.containment.process_tree import (
    Member,
    PidFileError,
    member,
    read_pid_file,
    service_members,
)
from firebreak.containment.reach import answers
from firebreak.errors import ContainmentError
from firebreak.incidents.case import Case
from firebreak.inventory import Target
from firebreak.records import Json

MAX_ROUNDS = 100  # of listing a tree until it no longer grows
MAX_GENERATIONS = 5  # of a service that a supervisor starts again
DESTROYS = ("memory", "sockets", "processes")


class ProcessDriver:
    """Stops, ends and restarts a service known by its pid file."""

    scheme: ClassVar[str] = "process"

    def plan(self, target: Target, mode: Mode, case: Case) -> Plan:
        """Which processes would be stopped or killed. Raises: ContainmentError."""
        members = service_members(_pid(target), _known(target, case))
        if not members:
            return Plan(target.uri, mode, ("do nothing: no such process lives",))
        ids = tuple(str(m.pid) for m in members)
        actions = [f"stop (SIGSTOP) {len(ids)} processes: {', '.join(ids)}"]
        if mode is Mode.DESTRUCTIVE:
            actions.append(f"kill (SIGKILL) them without letting them run again: {', '.join(ids)}")
        return Plan(
            target.uri, mode, tuple(actions), DESTROYS if mode is Mode.DESTRUCTIVE else (), ids
        )

    def isolate(self, target: Target, mode: Mode, case: Case) -> Receipt:
        """Stop the service and its descendants; in destructive mode kill them then.

        The receipt's `undo["items"]` holds, by `pid@start`, how each was started, and whether
        somebody else had stopped it before (such a one is never continued by `release`).

        Raises:
            ContainmentError: the pid file must not be acted on, a process does not stop or end, or
                a supervisor starts the service again and again.
        """
        done: list[str] = []
        for _ in range(MAX_GENERATIONS):
            members = _freeze(target, case, done)
            if mode is Mode.REVERSIBLE or not members:
                break
            _kill(target, members, done)
        else:
            problem = f"was started again {MAX_GENERATIONS} times: disable its supervisor first"
            raise ContainmentError(target.uri, problem)
        undo: Json = {"items": outstanding(case, target.uri)}
        if not undo["items"]:
            undo["note"] = "no such process lived: nothing was done"
        return Receipt(target.uri, mode, undo, tuple(done))

    def release(self, target: Target, receipts: list[Receipt], case: Case) -> Receipt:
        """Continue what we stopped; start the service when it is gone. Serving already: nothing.

        Raises:
            ContainmentError: it is gone and no `start` is listed, or it does not serve in time.
        """
        before = outstanding(case, target.uri, receipts)
        done = [*_continue(target, before), *_bring_up(target, before, case)]
        forget(case, target.uri, before)
        return Receipt(target.uri, Mode.REVERSIBLE, {"items": before}, tuple(done))

    def probe(self, target: Target) -> Probe:
        """SERVING, CONTAINED (all stopped) or GONE; UNPROVEN for a bad pid file or no answer.

        When the probe URL answers although nothing we know of runs, somebody serves: SERVING.
        """
        service.reap()
        exposure, detail = _look(target)
        return Probe(target.uri, exposure, detail)


def _look(target: Target) -> tuple[Exposure, str]:
    try:
        members = service_members(read_pid_file(Path(target.rest)))
    except PidFileError as error:
        return Exposure.UNPROVEN, str(error)
    running = [m.pid for m in members if m.state and not m.is_stopped]
    answering = target.probe is not None and answers(target.probe)
    if not running and answering:
        return Exposure.SERVING, f"{target.probe} answers although no process of it runs"
    if not members:
        return Exposure.GONE, "no process lives that its pid file names"
    if not running:
        return Exposure.CONTAINED, f"all {len(members)} processes are stopped"
    if target.probe is not None and not answering:
        return Exposure.UNPROVEN, f"process {running[0]} runs, {target.probe} does not answer"
    return Exposure.SERVING, f"{len(running)} of {len(members)} processes run"


def _pid(target: Target) -> int | None:
    service.reap()
    try:
        return read_pid_file(Path(target.rest))
    except PidFileError as error:
        raise ContainmentError(target.uri, str(error)) from error


def _known(target: Target, case: Case) -> list[Member]:
    return [Member.from_key(key) for key in outstanding(case, target.uri)]


def _freeze(target: Target, case: Case, done: list[str]) -> list[Member]:
    """Stop the oldest first (a stopped parent starts no more), until the tree stays the same."""
    pid, known = _pid(target), _known(target, case)
    for _ in range(MAX_ROUNDS):
        members = service_members(pid, known)
        remember(case, target.uri, {m.key: {**m.describe(), "main": m.pid == pid} for m in members})
        running = [m for m in members if m.state and not m.is_stopped]
        if not running:
            return members
        for one in running:
            _signal(target, one, signal.SIGSTOP, "stopped")
            done.append(f"stopped process {one.pid}")
        known = members
    raise ContainmentError(target.uri, f"still starts processes after {MAX_ROUNDS} rounds")


def _kill(target: Target, members: list[Member], done: list[str]) -> None:
    for one in members:
        _signal(target, one, signal.SIGKILL, None)
    for one in members:
        if not one.wait_until("gone"):
            raise ContainmentError(target.uri, f"process {one.pid} does not end after SIGKILL")
        done.append(f"killed process {one.pid}")
    service.reap()


def _signal(target: Target, one: Member, number: signal.Signals, wanted: str | None) -> None:
    try:
        one.send(number)
    except PermissionError as error:
        problem = f"may not send {number.name} to process {one.pid}: run as its user or as root"
        raise ContainmentError(target.uri, problem) from error
    if wanted and not one.wait_until(wanted):
        raise ContainmentError(target.uri, f"process {one.pid} does not obey {number.name}")


def _continue(target: Target, before: dict[str, Json]) -> list[str]:
    """Continue the processes that we stopped, children before their parents."""
    done = []
    for one in sorted(map(Member.from_key, before), key=lambda m: m.started, reverse=True):
        if one.is_stopped and not before[one.key]["was_stopped"]:
            _signal(target, one, signal.SIGCONT, None)
            done.append(f"continued process {one.pid}")
    return done


def _bring_up(target: Target, before: dict[str, Json], case: Case) -> list[str]:
    """Start the service when it is gone, unless somebody else had it isolated before us."""
    pid = _pid(target)
    main = member(pid) if pid else None
    if main is not None:
        if main.is_stopped:
            return ["left stopped: it was isolated by somebody else"]
        if target.probe:
            service.wait_until_serving(target, main)
        return []
    mains = [state for state in before.values() if state["main"]]
    if mains and all(state["was_stopped"] for state in mains):
        return ["left down: it was isolated by somebody else before this incident"]
    nothing_to_do = not before and not target.start
    if nothing_to_do or (target.probe is not None and answers(target.probe)):
        return []
    return [f"started process {service.start(target, case).pid}"]
