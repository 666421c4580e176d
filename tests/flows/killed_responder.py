"""Runs `respond` in a process of its own that is killed (SIGKILL) at a chosen journal entry.

The processes fork from one that has imported Prefect already: each costs a second, not three.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

IDENTITY = ("step", "action", "target", "class", "name", "channel", "template", "key")
PRELOAD = ["prefect", "prefect.flow_engine", "flows.respond"]


def respond_and_die(inventory: Path, incident: str, moment: str, spots: Path) -> int:
    """Respond in a child that is killed at the first journal entry nobody was killed at yet.

    Args:
        inventory: the inventory file.
        incident: incident id.
        moment: `before` or `after` the entry is durable.
        spots: file that remembers the entries already used as places to die, one a line.

    Returns: the child's exit code: -9 when it was killed, 0 when it came to an end or a gate.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    child = context.Process(target=_respond, args=(str(inventory), incident, moment, str(spots)))
    child.start()
    child.join(120)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise TimeoutError(f"respond hung, killed {moment} {spots.read_text()[-200:]}")
    return child.exitcode


def _respond(inventory: str, incident: str, moment: str, spots: str) -> None:
    os.environ["FIREBREAK_INVENTORY"] = inventory
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from firebreak.incidents.store import Store
    from flows.respond import respond

    Store.append = _deadly(Store.append, moment, Path(spots))  # type: ignore[method-assign]
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        respond(incident=incident, return_state=True)
    os._exit(0)


def _deadly(append: Callable[..., Any], moment: str, spots: Path) -> Callable[..., Any]:
    def killing(
        store: Any, incident: str, actor: str, kind: str, body: dict[str, Any], *rest: Any
    ) -> Any:
        spot = "|".join([kind, *(str(body.get(name, "")) for name in IDENTITY)])
        new = spot not in spots.read_text().splitlines()
        if new:
            with spots.open("a") as stream:
                print(spot, file=stream)
        if new and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        entry = append(store, incident, actor, kind, body, *rest)
        if new and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return entry

    return killing
