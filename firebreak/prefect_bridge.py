"""The one module of the library that may import Prefect: starting, resuming and serving runs.

Flows and tasks live beside the library (`flows/`, `tasks/`, `playbooks/`): in a checkout at its
root, in an installed wheel inside the package. `project_root` finds them either way, and
`expose_project` makes them importable here and in the processes Prefect starts.
"""

import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from firebreak.errors import ServerError
from firebreak.incidents.case import Case
from firebreak.records import Json

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

RESPOND_DEPLOYMENT = "respond/respond"
SETTLE_S = 30.0
MAX_STARTS = 20
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # the server reports home otherwise
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # results are never pickles
    "DO_NOT_TRACK": "1",
}


def project_root() -> Path:
    """The folder that holds `flows/`, `tasks/` and `playbooks/`."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    return checkout if (checkout / "flows" / "respond.py").is_file() else package / "_project"


def playbook_folder() -> Path:
    """The folder of the shipped playbooks."""
    return project_root() / "playbooks"


def expose_project() -> None:
    """Make `flows` and `tasks` importable here and in child processes, and keep Prefect quiet."""
    root = str(project_root())
    if root not in sys.path:
        sys.path.insert(0, root)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, known)])
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def start_response(incident: str, playbook: str, initiator: str, attempt: int = 0) -> str:
    """Start the served `respond` flow for an incident; returns the flow run's id.

    The same incident and attempt start one run, however often this is called: the caller may
    retry, and two detectors may see the same incident. A run that is over already (it died before
    it wrote anything) is replaced by a new one.

    Raises:
        ServerError: no server is set or reachable, `respond` is not deployed there, or
            `MAX_STARTS` runs have died.
    """
    with _client() as client:
        deployment = _deployment(client)
        for number in range(MAX_STARTS):
            run = client.create_flow_run_from_deployment(
                deployment.id,
                parameters={"incident": incident, "playbook": playbook, "initiator": initiator},
                idempotency_key=f"respond-{incident}-{attempt}-{number}",
            )
            if run.state is None or not run.state.is_final():
                return str(run.id)
        raise ServerError(str(client.api_url), f"{MAX_STARTS} runs for {incident} ended at once")


def respond_here(incident: str, playbook: str, initiator: str) -> None:
    """Walk a playbook in this process, with a Prefect of its own; gates cannot suspend here.

    The response then waits in its journal: answer with `firebreak approve`, and start it again.

    Raises:
        ServerError: the server inside this process does not start.
    """
    expose_project()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    flow = importlib.import_module("flows.respond").respond
    try:
        flow(incident=incident, playbook=playbook, initiator=initiator, return_state=True)
    except RuntimeError as error:
        if "ephemeral" not in str(error):
            raise
        raise ServerError("this process", f"its own server did not start: {error}") from error


def wake(case: Case, step: str, run_input: Json) -> bool:
    """Resume the suspended run that showed a gate's question; False when none waits.

    The answer is in the journal already: what Prefect is given only wakes the run.

    Raises:
        ServerError: a run waits, and the server cannot be reached or refuses.
    """
    shown = [e.body for e in case.entries() if e.kind == "gate.shown" and e.body["step"] == step]
    if not shown:
        return False
    return resume_run(shown[-1]["run"], run_input)


def waiting_run(case: Case) -> str | None:
    """The suspended run that waits for an answer about this incident; None when none does.

    Raises:
        ServerError: no server is set.
    """
    shown = [e.body["run"] for e in case.entries() if e.kind == "gate.shown"]
    if not shown:
        return None
    from prefect.exceptions import ObjectNotFound

    with _client() as client:
        try:
            state = client.read_flow_run(UUID(shown[-1])).state
        except ObjectNotFound:  # asked on another server: nothing waits on this one
            return None
    return str(shown[-1]) if state is not None and state.is_paused() else None


def resume_run(run_id: str, run_input: Json) -> bool:
    """Resume a suspended run with an answer; False when it does not wait (or no longer).

    A run that has asked but is not suspended yet is waited for, up to `SETTLE_S`.

    Raises:
        ServerError: no server is reachable, or it refuses the answer (with its reason).
    """
    from prefect.client.schemas.responses import SetStateStatus

    deadline = time.monotonic() + SETTLE_S
    with _client() as client:
        while time.monotonic() < deadline:
            state = client.read_flow_run(UUID(run_id)).state
            if state is None or state.is_final():
                return False
            if state.is_paused():
                answer = client.resume_flow_run(UUID(run_id), run_input=run_input)
                if answer.status is SetStateStatus.ACCEPT:
                    return True
                if answer.status is SetStateStatus.ABORT:
                    return False
                reason = str(getattr(answer.details, "reason", "") or "")
                # The run shows as suspended a moment before the form's schema is stored.
                if "schema not found" not in reason:
                    raise ServerError(str(client.api_url), f"refused the answer: {reason}")
            time.sleep(0.25)
    return False


def end_waiting_run(case: Case, message: str) -> bool:
    """Cancel the run that waits for an answer which no longer counts; False when none waits.

    Raises:
        ServerError: no server is set or reachable.
    """
    from prefect.states import Cancelled

    waiting = waiting_run(case)
    if waiting is None:
        return False
    with _client() as client:
        client.set_flow_run_state(UUID(waiting), Cancelled(message=message), force=True)
    return True


def _deployment(client: "SyncPrefectClient") -> Any:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(RESPOND_DEPLOYMENT)
    except ObjectNotFound as error:
        raise ServerError(str(client.api_url), f"{RESPOND_DEPLOYMENT!r} is not deployed") from error


@contextmanager
def _client() -> "Iterator[SyncPrefectClient]":
    """A client of the set server; whatever goes wrong on the way is a ServerError."""
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        raise ServerError("PREFECT_API_URL", "is not set")
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        # The environment's address, also when Prefect has read another one earlier in this process.
        with (
            temporary_settings({PREFECT_API_URL: address}),
            get_client(sync_client=True) as client,
        ):
            yield client
    except HTTPError as error:
        raise ServerError(address, f"cannot be reached: {error}") from error
    except ObjectNotFound as error:
        raise ServerError(address, "does not know that run: another server started it") from error
