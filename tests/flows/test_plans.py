"""What a gate shows and what its steps do when there is no model, no target, or no plan."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from firebreak.errors import UnknownModelError
from firebreak.incidents.case import Case
from firebreak.incidents.view import view
from firebreak.inventory import Target
from firebreak.playbook.schema import Playbook, load_playbook
from firebreak.prefect_bridge import expose_project
from playbook_cases import PLAYBOOKS, bodies
from small_world import SmallWorld, make_world, tampered

expose_project()

from flows import contain as contain_flow  # noqa: E402
from flows import investigate as investigate_flow  # noqa: E402
from flows.respond import plan_step, run_step  # noqa: E402

BOOK = load_playbook(PLAYBOOKS / "tampered-model.yaml")
UNPLANNED = "cannot be planned: unknown model 'chat'; the inventory lists: fraud"


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
    """Two models without targets, and the inventory that flows read."""
    monkeypatch.setenv("FIREBREAK_INVENTORY", str(home / "firebreak.yaml"))
    return make_world(home)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flows' tasks run as plain functions; returns the incidents whose report was written."""
    published: list[str] = []
    publish: Callable[[str, str], None] = lambda incident, _step: published.append(incident)  # noqa: E731
    monkeypatch.setattr(contain_flow, "mark_model", contain_flow.mark_model.fn)
    monkeypatch.setattr(investigate_flow, "publish_report", publish)
    return published


def planned(case: Case, step: str, book: Playbook = BOOK) -> str:
    """The one line of a step's plan."""
    ((text,),) = (plan["actions"] for plan in plan_step(case, book, book.step(step)))
    return str(text)


def without_chat(case: Case) -> Case:
    """The case after somebody took the model out of the inventory."""
    models = tuple(m for m in case.inventory.models if m.id != "chat")
    return replace(case, inventory=replace(case.inventory, models=models))


def with_candidate(case: Case) -> Case:
    """The case after an investigation named a version to restore."""
    candidate = {"version": "1.0", "manifest_sha256": "ab" * 32}
    case.append("step.started", {"step": "find-out", "flow": "investigate"})
    case.append("step.finished", {"step": "find-out", "result": {"candidate": candidate}})
    return case


def test_a_model_without_targets_is_to_be_isolated_by_hand(world: SmallWorld) -> None:
    """An empty list under "If you approve" would read as if all were well."""
    assert planned(world.incident(), "stop") == (
        "nothing: the inventory lists no target for chat; isolate it by hand"
    )


def test_containing_a_model_without_targets_proves_nothing(
    world: SmallWorld, direct: list[str]
) -> None:
    """It is marked all the same; the result and the journal say what is unproven."""
    case = world.incident()
    done = contain_flow.contain.fn(case.id, "isolate", "reversible")
    assert (done["targets"], done["proven"]) == ([], 0)
    assert "isolate it by hand" in done["unproven"]
    assert [b["exposure"] for b in bodies(case, "containment.probed")] == ["unproven"]
    assert [b["target"] for b in bodies(case, "action.finished")] == ["chat:compromised"]


@pytest.mark.parametrize("step", ["isolate", "stop", "rollback"])
def test_a_model_that_left_the_inventory_cannot_be_planned(world: SmallWorld, step: str) -> None:
    """The question is still put, whether or not a version was found before."""
    case = world.incident()
    assert planned(without_chat(case), step) == UNPLANNED
    assert planned(without_chat(with_candidate(case)), step) == UNPLANNED


def test_a_model_with_targets_is_planned_target_by_target(world: SmallWorld) -> None:
    """As before."""
    case = with_candidate(world.incident())
    model = replace(case.model, targets=(Target("file:///x"), Target("process:///run/no.pid")))
    case = replace(case, inventory=replace(case.inventory, models=(model,)))
    plans = plan_step(case, BOOK, BOOK.step("stop"))
    assert [p["target"] for p in plans] == ["file:///x", "process:///run/no.pid"]
    first, *restarts = plan_step(case, BOOK, BOOK.step("rollback"))
    assert first["actions"][0].startswith("restore chat 1.0, manifest abab")
    assert [p["target"] for p in restarts] == ["process:///run/no.pid"]


def test_an_incident_about_the_environment_has_nothing_of_ours_to_contain(
    world: SmallWorld, direct: list[str]
) -> None:
    """The flow ends well and says so; nothing is marked."""
    case = world.incident("environment")
    assert planned(case, "stop").startswith("nothing of ours to contain: ")
    done = contain_flow.contain.fn(case.id, "isolate", "reversible")
    assert done["targets"] == []
    assert done["unproven"].startswith("nothing of ours to contain: ")
    assert bodies(case, "action.started") == []


def test_an_incident_about_the_environment_is_investigated_without_files(
    world: SmallWorld, direct: list[str]
) -> None:
    """Its report is written, and the result names the reason."""
    case = world.incident("environment")
    case.add_findings([tampered(subject="environment")])
    found = investigate_flow.investigate.fn(case.id, "find-out")
    assert (found["new_findings"], found["candidate"]) == (0, None)
    assert "not about a model" in found["problem"]
    assert (direct, found["reference"]["compared"]) == ([case.id], False)


def test_an_incident_about_the_environment_cannot_be_recovered(world: SmallWorld) -> None:
    """Said at the gate; the step fails with a sentence before any flow is started."""
    case = world.incident("environment")
    assert planned(case, "rollback").startswith("nothing of ours to restore, ")
    with pytest.raises(UnknownModelError, match="unknown model 'environment'"):
        run_step(case, BOOK, BOOK.step("rollback"))
    assert view(case.entries()).subject == "environment"
