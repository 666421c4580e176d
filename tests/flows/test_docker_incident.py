"""A model served by a container on a real engine, through the whole playbook."""

import json
import os
from pathlib import Path

import pytest
import yaml
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from docker_engine import Engine
from firebreak.baselines import adopt
from firebreak.detection import detect
from firebreak.drill.local_prefect import LocalPrefect
from firebreak.incidents.bundle import verify_stored
from firebreak.incidents.case import Case, open_case
from firebreak.incidents.view import view
from firebreak.inventory import load_inventory
from firebreak.prefect_bridge import playbook_folder
from firebreak.recovery.signing import generate_keypair, sign_manifest, write_manifest
from firebreak.response import answer_gate

pytestmark = [pytest.mark.engine, pytest.mark.prefect]


@pytest.fixture
def case(
    tmp_path: Path,
    engine: Engine,
    prefect_environment: LocalPrefect,
    monkeypatch: pytest.MonkeyPatch,
) -> Case:
    """An incident about a tampered model that a labelled container serves."""
    private, public = generate_keypair(tmp_path / "keys")
    release = tmp_path / "archive" / "2.0"
    release.mkdir(parents=True)
    (release / "weights.bin").write_bytes(b"good" * 1000)
    write_manifest(release, engine.label, "2.0")
    sign_manifest(release, private)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(b"good" * 1000)
    inventory = {
        "firebreak": 1,
        "keys": {"cosign": str(public)},
        "models": [
            {
                "id": engine.label,
                "version": "2.0",
                "path": str(model),
                "archive": str(release.parent),
                "critical": True,
                "targets": [f"file://{model}", engine.uri],
            }
        ],
        "people": [{"id": "ana", "roles": ["incident-commander", "ml-oncall"]}],
    }
    (tmp_path / "firebreak.yaml").write_text(yaml.safe_dump(inventory))
    monkeypatch.setenv("FIREBREAK_INVENTORY", str(tmp_path / "firebreak.yaml"))
    loaded = load_inventory()
    adopt(loaded, loaded.models[0], by="ana", reason="release 2.0")
    (model / "weights.bin").write_bytes(b"evil" * 1000)
    return open_case(detect(loaded).recorded[0].incident, loaded)


def respond(case: Case) -> None:
    """Walk the playbook as far as it goes."""
    from flows.respond import respond as flow

    settings = {
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_API_URL: os.environ[
            "PREFECT_API_URL"
        ],  # Prefect read its settings before this test
    }
    with temporary_settings(settings):
        flow(incident=case.id, return_state=True)


def approve(case: Case) -> None:
    """Answer the gate that stands."""
    question = view(case.entries()).question
    assert question is not None, view(case.entries())
    answer_gate(
        case,
        question,
        decision="approve",
        by="ana",
        reason="tested",
        digest=question["digest"],
        playbooks=playbook_folder(),
    )


def test_a_serving_container_is_paused_cut_stopped_and_brought_back(
    case: Case, engine: Engine, tmp_path: Path
) -> None:
    """Reversible first, with the evidence kept; stopped after a yes; running again at the end."""
    network = engine.network()
    container = engine.create(network=network.name, tmpfs={"/scratch": ""})
    container.start()

    respond(case)
    container.reload()
    assert container.status == "paused"
    assert not container.attrs["NetworkSettings"]["Networks"]
    classes = {e.body["class"] for e in case.entries() if e.kind == "evidence.collected"}
    assert classes >= {"processes", "sockets", "files", "filesystem"}
    assert mark_of(case)["mark"] == "compromised"
    assert [f["file"] for f in mark_of(case)["files"]] == ["weights.bin"]

    approve(case)
    respond(case)
    container.reload()
    assert container.status == "exited"
    assert (tmp_path / "model" / "weights.bin").read_bytes().startswith(b"evil")

    approve(case)
    respond(case)
    seen = view(case.entries())
    assert seen.status.value == "recovered", seen.reason
    container.reload()
    assert container.status == "running"
    assert list(container.attrs["NetworkSettings"]["Networks"]) == [network.name]
    assert (tmp_path / "model" / "weights.bin").read_bytes().startswith(b"good")
    assert verify_stored(case).checkpoints >= 3
    assert mark_of(case)["mark"] == "restored"
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [".signatures", "weights.bin"]


def mark_of(case: Case) -> dict:
    """What other tools read about the model."""
    return json.loads((case.inventory.home / "marks" / f"{case.subject}.json").read_text())
