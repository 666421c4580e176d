"""A gate in a real Prefect: suspended, answered badly, forced, rejected; the journal decides."""

import time
from collections.abc import Callable, Iterator

import pytest
import requests

from firebreak.baselines import adopt
from firebreak.detection import detect
from firebreak.drill import world as worlds
from firebreak.drill.local_prefect import LocalPrefect
from firebreak.drill.world import World
from firebreak.incidents.case import Case, open_case
from firebreak.incidents.view import view
from firebreak.inventory import load_inventory
from firebreak.prefect_bridge import playbook_folder, start_response, wake
from firebreak.response import answer_gate
from firebreak.settings import load_settings

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(400)]

WAIT_S = 90.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A served, tampered model that detection leaves alone: responses are started by hand."""
    with worlds.create(tmp_path_factory.mktemp("gates") / "world") as made:
        text = made.inventory.read_text()
        text = text.replace("respond: automatic", "respond: manual")
        made.inventory.write_text(text.replace("check_interval: 10s", "check_interval: 1d"))
        made.start_server()
        yield made


@pytest.fixture(scope="module")
def served(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrefect]:
    """A Prefect server with the deployments served."""
    with LocalPrefect(tmp_path_factory.mktemp("own"), world.inventory) as own:
        own.start_server()
        own.wait_ready()
        own.serve()
        yield own


@pytest.fixture
def api(served: LocalPrefect, world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's address, set for this process."""
    monkeypatch.setenv("PREFECT_API_URL", served.environment["PREFECT_API_URL"])
    monkeypatch.setenv("FIREBREAK_INVENTORY", str(world.inventory))
    return served.environment["PREFECT_API_URL"]


@pytest.fixture
def case(world: World, api: str) -> Case:
    """A fresh incident whose response runs on the server."""
    inventory = load_inventory(load_settings(world.inventory))
    model = inventory.models[0]
    adopt(inventory, model, by="ana", reason="as it is", replace=True)
    (world.model / f"extra-{time.monotonic_ns()}.bin").write_bytes(b"\0" * 16)
    found = detect(inventory).recorded[0]
    return open_case(found.incident, inventory)


def test_bad_answers_and_force_are_refused_and_asked_again_and_a_no_holds(
    case: Case, api: str
) -> None:
    """Wrong person, schema violations and a forced state change nothing; reject holds the run."""
    run = start_response(case.id, "tampered-model", "chloe")
    until(lambda: state(api, run) == "Suspended", "the gate suspends")

    refused = resume(api, run, {"decision": "maybe", "approver": "ana", "reason": "typed by hand"})
    assert refused["status"] == "REJECT", "a decision that is no decision never reaches the flow"
    assert asked(case) == 1
    assert refusals(case) == []

    resume(api, run, {"decision": "approve", "approver": "ben", "reason": "not asked"})
    resume(api, run, {"decision": "approve", "approver": "ana", "reason": "  x "})
    until(lambda: len(refusals(case)) == 1 and state(api, run) == "Suspended", "asked again")
    assert "reason" in refusals(case)[0]

    force(api, run)
    until(lambda: len(refusals(case)) == 2 and state(api, run) == "Suspended", "asked again")
    assert "'' is not a person" in refusals(case)[1], "forced: nobody answered"
    assert "stop" not in started(case), "a forced run must not get past its gate"

    resume(api, run, {"decision": "reject", "approver": "ana", "reason": "keep it for forensics"})
    until(lambda: state(api, run) == "Held", "the run ends held")
    seen = view(case.entries())
    assert seen.status.value == "held"
    assert "keep it for forensics" in seen.reason
    assert not {"stop", "rollback-approval", "rollback"} & started(case)
    case.store.close_incident(case.id)


def test_an_answer_from_the_command_line_wakes_the_suspended_run(case: Case, api: str) -> None:
    """The answer is journaled first; Prefect is only told to go on, and asks nobody twice."""
    run = start_response(case.id, "tampered-model", "firebreak")
    assert start_response(case.id, "tampered-model", "firebreak") == run, "one run per attempt"
    until(lambda: state(api, run) == "Suspended", "the gate suspends")
    question = view(case.entries()).question
    assert question is not None
    answer_gate(
        case,
        question,
        decision="reject",
        by="ana",
        reason="from the terminal",
        digest=question["digest"],
        playbooks=playbook_folder(),
    )
    answer = {"decision": "reject", "approver": "ana", "reason": "from the terminal"}
    assert wake(case, question["step"], answer)
    until(lambda: state(api, run) == "Held", "the run ends held")
    assert asked(case) == 1
    assert refusals(case) == []
    case.store.close_incident(case.id)


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.2)


def state(api: str, run: str) -> str:
    """Name of the run's state."""
    return str(requests.get(f"{api}/flow_runs/{run}", timeout=10).json()["state_name"])


def resume(api: str, run: str, answer: dict[str, str]) -> dict[str, object]:
    """Answer as the UI does."""
    url = f"{api}/flow_runs/{run}/resume"
    found: dict[str, object] = requests.post(url, json={"run_input": answer}, timeout=10).json()
    return found


def force(api: str, run: str) -> None:
    """What anybody who reaches the API can do: set the state, without any answer."""
    url = f"{api}/flow_runs/{run}/set_state"
    body = {"state": {"type": "SCHEDULED"}, "force": True}
    requests.post(url, json=body, timeout=10).raise_for_status()


def asked(case: Case) -> int:
    """How often a gate was asked."""
    return sum(e.kind == "gate.asked" for e in case.entries())


def refusals(case: Case) -> list[str]:
    """Why answers were refused, in order."""
    return [e.body["why"] for e in case.entries() if e.kind == "gate.refused"]


def started(case: Case) -> set[str]:
    """The steps that were started."""
    return {e.body["step"] for e in case.entries() if e.kind == "step.started"}
