"""Captures the evidence of an incident, most volatile first, within a time budget."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from firebreak.checks.hashing import Progress
from firebreak.evidence import containers, environment, files, processes, sockets
from firebreak.evidence.redaction import redact
from firebreak.incidents.case import Case
from firebreak.inventory import Model, Target
from firebreak.records import Json, printable


@dataclass(frozen=True, slots=True)
class Collector:
    """One piece of evidence: its class, its name, and what takes it and returns the digests."""

    kind: str
    name: str
    take: Callable[[], list[str]]


class _BudgetSpentError(Exception):
    """No time is left; never leaves this module."""


def capture(
    case: Case, model: Model | None, progress: Progress | None = None, budget_s: float = 120.0
) -> list[str]:
    """Capture what is not captured yet: processes, sockets, containers, packages, files.

    Each piece is taken once per step. One that fails, or for which no time is left, is journaled
    as `evidence.failed` (`class`, `name`, `error`) and the others go on.

    Args:
        case: the incident.
        model: the model it is about; None when it is about the environment.
        progress: called with the number of model bytes hashed since the last call.
        budget_s: seconds for everything; hashing a large model is broken off when they are over.

    Returns: the evidence classes of the pieces that are captured now, such as
        `["processes", "sockets", "packages", "files"]`; a class is listed once.
    """
    deadline = time.monotonic() + budget_s

    def watched(count: int) -> None:
        if time.monotonic() > deadline:
            raise _BudgetSpentError(f"not captured: the budget of {budget_s:g} s is used up")
        if progress and count:
            progress(count)

    captured: dict[str, None] = {}
    for collector in _collectors(case, model, watched):
        try:
            watched(0)
            taken = case.perform("capture", collector.name, _receipt(collector))
        except Exception as error:  # noqa: BLE001 - journaled; evidence must not stop evidence
            _journal_failure(case, collector, error)
            continue
        if taken["sha256"]:
            captured[collector.kind] = None
    return list(captured)


def _collectors(case: Case, model: Model | None, progress: Progress) -> Iterator[Collector]:
    path = model.path if model else None
    yield _snapshot(case, "processes", lambda: processes.snapshot(path), "/proc of this host")
    yield _snapshot(case, "sockets", sockets.snapshot, "/proc/*/net of this host")
    for target in model.targets if model else ():
        if target.scheme == "docker":
            take = _containers(case, target)
            yield Collector("filesystem", f"containers of {target.uri}", take)
    place = case.inventory.environment
    where = str(place) if place else "this process's environment"
    yield _snapshot(case, "packages", lambda: environment.snapshot(place), where)
    if path:
        yield Collector("signature", "signature", lambda: files.collect_signature(case, path))
        yield _snapshot(case, "files", lambda: files.file_list(path, progress), str(path))


def _snapshot(case: Case, kind: str, take: Callable[[], Json], source: str) -> Collector:
    name = f"{kind}.json"
    return Collector(kind, name, lambda: [case.add_evidence(kind, name, take(), source)])


def _containers(case: Case, target: Target) -> Callable[[], list[str]]:
    def take() -> list[str]:
        with containers.containers_of(target) as found:
            return [d for container in found for d in containers.collect(case, container)]

    return take


def _receipt(collector: Collector) -> Callable[[], Json]:
    return lambda: {"sha256": collector.take()}


def _journal_failure(case: Case, collector: Collector, error: Exception) -> None:
    name = "" if isinstance(error, _BudgetSpentError) else f"{type(error).__name__}: "
    problem = redact(printable(f"{name}{error}"))
    case.append(
        "evidence.failed", {"class": collector.kind, "name": collector.name, "error": problem}
    )
