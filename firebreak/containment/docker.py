"""`docker://<label>=<value>`: every container that carries the label, on one Docker engine.

Reversible isolation pauses a container, then disconnects all its networks, then collects evidence.
A quarantine network is not used: even an internal one reaches every port of the host. A container
on the host's network, or on another container's, has no network of its own to cut: pausing cuts it.
Ending one goes by SIGKILL: the engine wakes a paused container to deliver a gentler signal, and
compromised code would run again. Containers are never removed.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from firebreak.containment.before import forget, outstanding, remember
from firebreak.containment.docker_actions import (
    ENGINE_ERRORS,
    before_state,
    end,
    isolate_one,
    networks_of,
    release_one,
    shares_network,
)
from firebreak.containment.driver import Exposure, Mode, Plan, Probe, Receipt
from firebreak.containment.reach import answers
from firebreak.errors import ContainmentError
from firebreak.evidence.containers import collect, containers_of
from firebreak.evidence.redaction import redact
from firebreak.incidents.case import Case
from firebreak.inventory import Target
from firebreak.records import Json, printable

if TYPE_CHECKING:
    from docker.models.containers import Container

MAX_ROUNDS = 5  # of looking for containers that were started meanwhile
DESTROYS = ("memory", "sockets", "processes", "filesystem")  # of the file system: tmpfs


class DockerDriver:
    """Pauses, cuts off, ends and restarts containers found by their label."""

    scheme: ClassVar[str] = "docker"

    def plan(self, target: Target, mode: Mode, case: Case) -> Plan:
        """What would be done to which containers. Raises: ContainmentError."""
        actions, names = [], []
        with containers_of(target) as found:
            for container in found:
                name, networks = container.name or "", ", ".join(sorted(networks_of(container)))
                names.append(name)
                if container.status in ("running", "restarting"):
                    actions.append(f"pause {name}")
                if networks:
                    actions.append(f"disconnect {name} from {networks}")
                if mode is Mode.DESTRUCTIVE and container.status not in ("exited", "created"):
                    actions.append(f"kill {name} and keep it down; it is not removed")
        destroys = DESTROYS if mode is Mode.DESTRUCTIVE and names else ()
        actions = actions or ["do nothing: no container carries the label, or all are isolated"]
        return Plan(target.uri, mode, tuple(actions), destroys, tuple(names))

    def isolate(self, target: Target, mode: Mode, case: Case) -> Receipt:
        """Cut off every container of the label, and end it in destructive mode.

        The receipt's `undo["items"]` holds per container id the state from before: status,
        networks with aliases and addresses, restart policy. A container that refuses does not stop
        the others.

        Raises:
            ContainmentError: the engine does not answer, or some containers refused; names them and
                says what was done to the others.
        """
        done: list[str] = []
        failed: dict[str, str] = {}
        seen: set[str] = set()
        for _ in range(MAX_ROUNDS):
            with containers_of(target) as found:
                new = [c for c in found if c.id and c.id not in seen]
                seen.update(c.id for c in new if c.id)
                before = remember(case, target.uri, {c.id: before_state(c) for c in new if c.id})
                for container in new:
                    act = partial(isolate_one, container, before[container.id or ""], done)
                    _attempt(container, failed, act)
                for container in new:
                    if container.id not in failed:
                        _collect_evidence(case, container)
                for container in new if mode is Mode.DESTRUCTIVE else ():
                    _attempt(container, failed, partial(end, container, done))
            if not new:
                break
        _raise_failures(target, failed, done)
        undo: Json = {"items": outstanding(case, target.uri)}
        return Receipt(target.uri, mode, undo, tuple(done))

    def release(self, target: Target, receipts: list[Receipt], case: Case) -> Receipt:
        """Restart policy, networks with aliases, start, unpause: as it was before, no more.

        A container that somebody else had paused and that was ended since stays down: starting it
        would run it.

        Raises:
            ContainmentError: the engine does not answer, a container is gone, or one refused.
        """
        before = outstanding(case, target.uri, receipts)
        if not before:
            return Receipt(target.uri, Mode.REVERSIBLE)
        done: list[str] = []
        failed: dict[str, str] = {}
        with containers_of(target) as found:
            here = {c.id: c for c in found}
            for item, state in before.items():
                container = here.get(item)
                if container is None:
                    failed[item] = f"{state['name']}: was removed by somebody else"
                else:
                    _attempt(container, failed, partial(release_one, container, state, done))
        forget(case, target.uri, [item for item in before if item not in failed])
        _raise_failures(target, failed, done)
        return Receipt(target.uri, Mode.REVERSIBLE, {"items": before}, tuple(done))

    def probe(self, target: Target) -> Probe:
        """SERVING when one runs with a network, or the probe URL answers; GONE when there is none.

        UNPROVEN when the engine does not answer, or one runs but the probe URL does not answer.
        """
        try:
            with containers_of(target) as found:
                reachable = [c.name or "" for c in found if _is_reachable(c)]
        except ContainmentError as error:
            return Probe(target.uri, Exposure.UNPROVEN, error.args[1])
        answering = target.probe is not None and answers(target.probe)
        if answering and not reachable:
            exposure, detail = Exposure.SERVING, f"{target.probe} answers, no container of it runs"
        elif not found:
            exposure, detail = Exposure.GONE, "no container carries the label"
        elif not reachable:
            text = "paused, down or without a network"
            exposure, detail = Exposure.CONTAINED, f"all {len(found)} containers are {text}"
        elif target.probe is not None and not answering:
            detail = f"{', '.join(reachable)} run, {target.probe} does not answer"
            exposure = Exposure.UNPROVEN
        else:
            exposure, detail = Exposure.SERVING, f"run with a network: {', '.join(reachable)}"
        return Probe(target.uri, exposure, detail)


def _is_reachable(container: "Container") -> bool:
    if container.status not in ("running", "restarting"):
        return False
    return shares_network(container) or bool(networks_of(container))


def _attempt(container: "Container", failed: dict[str, str], act: Callable[[], None]) -> None:
    """Do it; a refusal is kept for the end, so that one container does not save the others."""
    try:
        act()
    except ENGINE_ERRORS as error:
        text = redact(printable(f"{container.name}: {error}"))
        failed[container.id or ""] = text


def _collect_evidence(case: Case, container: "Container") -> None:
    """Once per incident step; a failure is journaled by the collector and does not stop us."""
    name = f"isolated-container-{(container.id or '')[:12]}"
    try:
        case.perform(
            "capture", name, lambda: {"sha256": collect(case, container, "isolated-container")}
        )
    except ENGINE_ERRORS as error:
        problem = redact(printable(f"{type(error).__name__}: {error}"))
        case.append("evidence.failed", {"class": "filesystem", "name": name, "error": problem})


def _raise_failures(target: Target, failed: dict[str, str], done: list[str]) -> None:
    if failed:
        problem = f"{'; '.join(failed.values())}. Done: {'; '.join(done) or 'nothing'}"
        raise ContainmentError(target.uri, problem)
