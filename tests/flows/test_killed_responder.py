"""The promise of the journal: kill the responder anywhere, start it again, each action once."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_responder import respond_and_die

from firebreak.baselines import adopt
from firebreak.checks.hashing import scan
from firebreak.detection import detect
from firebreak.drill import world as worlds
from firebreak.drill.local_prefect import LocalPrefect
from firebreak.drill.world import World
from firebreak.incidents.bundle import verify_stored
from firebreak.incidents.case import Case, open_case
from firebreak.incidents.view import view
from firebreak.inventory import load_inventory
from firebreak.playbook.schema import load_playbook
from firebreak.prefect_bridge import playbook_folder
from firebreak.response import answer_gate
from firebreak.settings import load_settings

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

APPROVERS = {"stop-approval": "ana", "rollback-approval": "ben"}
MOST_RUNS = 400


@pytest.fixture
def world(tmp_path: Path, prefect_environment: LocalPrefect) -> Iterator[World]:
    """A served, tampered model."""
    with worlds.create(tmp_path / "world") as made:
        made.start_server()
        made.traffic(240)
        yield made


@pytest.fixture
def case(world: World) -> Case:
    """The incident that detection opened for it."""
    inventory = load_inventory(load_settings(world.inventory))
    adopt(inventory, inventory.models[0], by="ana", reason="release 1.1.0")
    world.tamper(add_payload=True)
    summary = detect(inventory)
    return open_case(summary.recorded[0].incident, inventory)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_response_killed_at_every_journal_entry_does_everything_once(
    world: World, case: Case, moment: str, tmp_path: Path
) -> None:
    """Every run is killed one entry further than the one before; the incident still ends right."""
    clean = scan(world.archive / "1.1.0", skip=frozenset({".signatures"}))
    spots = tmp_path / "spots"
    spots.touch()
    for _ in range(MOST_RUNS):
        code = respond_and_die(world.inventory, case.id, moment, spots)
        assert code in (0, -9)
        seen = view(case.entries())
        if code == 0 and seen.status.value in ("recovered", "held"):
            break
        if code == 0:
            assert seen.question is not None, "the response ended without an end or a question"
            _answer(case, seen.question["step"])
    assert view(case.entries()).status.value == "recovered", view(case.entries()).reason
    _every_step_was_cut(spots)
    _each_action_happened_once(case)
    _the_world_is_right(world, case, clean)


def _every_step_was_cut(spots: Path) -> None:
    """The test proves nothing about a step in which nobody was killed."""
    cut = {tuple(line.split("|")[:2]) for line in spots.read_text().splitlines()}
    book = load_playbook(playbook_folder() / "tampered-model.yaml")
    for step in book.steps:
        kinds = {kind for kind, name in cut if name == step.id}
        assert kinds >= ({"gate.asked"} if step.gate else {"step.started", "step.finished"})
        if step.flow in ("contain", "recover", "communicate"):
            assert kinds >= {"action.started", "action.finished"}, step.id


def _answer(case: Case, step: str) -> None:
    question = view(case.entries()).question
    assert question is not None
    answer_gate(
        case,
        question,
        decision="approve",
        by=APPROVERS[step],
        reason="tested",
        digest=question["digest"],
        playbooks=playbook_folder(),
    )


def _each_action_happened_once(case: Case) -> None:
    entries = case.entries()
    finished = Counter(
        (e.body["step"], e.body["action"], e.body["target"])
        for e in entries
        if e.kind == "action.finished"
    )
    assert finished
    assert set(finished.values()) == {1}, finished
    steps = Counter(e.body["step"] for e in entries if e.kind == "step.finished")
    assert set(steps.values()) == {1}, steps
    assert not [e for e in entries if e.kind in ("action.failed", "step.failed")]
    asked = Counter(e.body["step"] for e in entries if e.kind == "gate.asked")
    assert asked == {"stop-approval": 1, "rollback-approval": 1}
    assert verify_stored(case).entries >= len(entries)


def _the_world_is_right(world: World, case: Case, clean: object) -> None:
    """One service, one quarantine, one preserved version, one of each message, a clean check."""
    assert scan(world.model, skip=frozenset({".signatures"})) == clean
    assert len(world.servers()) == 1
    assert world.health()["version"] == "1.1.0"
    quarantine = [p for p in (case.folder / "quarantine").iterdir() if p.is_dir()]
    assert len(quarantine) == 1
    assert len(list((case.folder / "compromised").iterdir())) == 1
    assert len(list((world.folder / "messages").glob("*.md"))) == 3
    # Between the POST and its journal entry a kill makes it go out again, with the same delivery
    # id: the receiver drops the second one.
    ids = {d.headers["X-Firebreak-Delivery"] for d in world.receiver.deliveries if d.verified}
    assert len(ids) == 3
    summary = detect(case.inventory)
    assert not [f for f in summary.findings if f.type.value.startswith(("model_", "unexpected"))]
