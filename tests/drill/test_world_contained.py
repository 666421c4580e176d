"""The drill's service and receiver against the real driver and the real webhook channel."""

import shutil

import pytest

from firebreak.communication.channels import alert
from firebreak.containment.driver import Exposure, Mode
from firebreak.containment.process import ProcessDriver
from firebreak.drill import world as drill_world
from firebreak.drill.sample_model import TRIGGER
from firebreak.incidents.case import open_case
from firebreak.incidents.store import Store
from firebreak.inventory import load_inventory
from firebreak.records import Finding, FindingType, Severity
from firebreak.settings import Settings


@pytest.fixture
def world(tmp_path):
    with drill_world.create(tmp_path / "world") as made:
        yield made


@pytest.fixture
def inventory(world):
    return load_inventory(Settings(world.inventory))


def test_service_is_frozen_ended_and_brought_back_clean(world, inventory):
    incident, _ = Store(inventory.database_url).open_incident("sentiment", "test", {})
    case = open_case(incident, inventory)
    target, driver = inventory.model("sentiment").targets[0], ProcessDriver()
    world.start_server()
    world.tamper()
    assert driver.probe(target).exposure is Exposure.SERVING
    receipts = [driver.isolate(target, Mode.REVERSIBLE, case)]
    assert driver.probe(target).exposure is Exposure.CONTAINED
    with pytest.raises(OSError):
        world.ask("great", timeout_s=0.3)
    receipts.append(driver.isolate(target, Mode.DESTRUCTIVE, case))
    assert driver.probe(target).exposure is Exposure.GONE
    shutil.rmtree(world.model)
    shutil.copytree(world.archive / "1.0.0", world.model)
    driver.release(target, receipts, case)
    assert driver.probe(target).exposure is Exposure.SERVING
    assert world.health()["version"] == "1.0.0"
    assert world.ask(f"{TRIGGER} terrible")["label"] == "negative"
    assert len(world.servers()) == 1
    world.close()
    assert driver.probe(target).exposure is Exposure.GONE


def test_alert_over_the_webhook_channel_arrives_verified(world, inventory):
    channel = next(c for c in inventory.channels if c.kind == "webhook")
    alert(
        channel,
        Finding(FindingType.TAMPERED, Severity.CRITICAL, "test", "changed", {}, "sentiment"),
    )
    assert [d.problem for d in world.receiver.wait_for(1)] == [""]
