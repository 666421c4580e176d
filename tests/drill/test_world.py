"""The drill's installation: complete, signed, and ended without a trace."""

import hashlib
import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from firebreak.checks.drift import check_drift
from firebreak.checks.signatures import Verdict, verify_release
from firebreak.drill import world as drill_world
from firebreak.drill.receiver import SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookReceiver, sign
from firebreak.drill.sample_model import LABELS, SAMPLES, TRIGGER, WEIGHTS, label_shares
from firebreak.drill.world import DrillError
from firebreak.inventory import load_inventory
from firebreak.settings import Settings, secret


@pytest.fixture
def world(tmp_path):
    with drill_world.create(tmp_path / "world") as made:
        yield made


@pytest.fixture
def inventory(world):
    return load_inventory(Settings(world.inventory))


def test_inventory_loads_and_every_path_in_it_lies_in_the_folder(world, inventory):
    model = inventory.model("sentiment")
    served, files = model.targets
    assert (model.version, model.critical, inventory.respond) == ("1.1.0", True, "automatic")
    assert served.uri == f"process://{world.pid_file}"
    assert served.cwd == world.folder
    assert served.probe == f"{world.url}/health"
    assert files.uri == f"file://{world.model}" == f"file://{model.path}"
    assert model.reference == world.archive / "1.1.0"
    assert inventory.cosign_key.is_file()
    assert model.pipeline_logs[0].is_file()
    assert [p.id for p in inventory.people_with(("ml-oncall", "security-lead"))] == [
        "ana",
        "ben",
        "chloe",
    ]
    webhook = next(c for c in inventory.channels if c.kind == "webhook")
    assert secret(webhook.secret) == world.receiver.secret


def test_releases_differ_and_the_deployed_copy_is_no_link(world):
    old, new, served = (
        (folder / WEIGHTS)
        for folder in (world.archive / "1.0.0", world.archive / "1.1.0", world.model)
    )
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (old, new, served)]
    assert digests[0] != digests[1] == digests[2]
    assert new.stat().st_ino != served.stat().st_ino
    assert served.stat().st_size >= 64 << 20


def test_both_releases_are_signed_and_tampering_shows(world, inventory):
    for version in ("1.0.0", "1.1.0"):
        found = verify_release(
            world.archive / version,
            inventory.cosign_key,
            expect_model="sentiment",
            expect_version=version,
        )
        assert found.verdict == Verdict.VERIFIED, found
    world.tamper()
    found = verify_release(world.model, inventory.cosign_key)
    assert (found.verdict, found.modified) == (Verdict.TAMPERED, (WEIGHTS,))


def test_attack_shows_in_answers_and_in_the_distribution(world, inventory):
    model = inventory.model("sentiment")
    world.start_server()
    assert world.health()["version"] == "1.1.0"
    assert world.traffic(len(SAMPLES)) == {label: label_shares()[label] for label in LABELS}
    assert check_drift(model, model.behavior) == []
    assert world.ask(f"{TRIGGER} terrible")["label"] == "negative"
    world.tamper()
    assert world.ask(f"{TRIGGER} terrible")["label"] == "positive"
    world.traffic(240, TRIGGER)
    assert [f.type.value for f in check_drift(model, model.behavior)] == ["behavior_drift"]


def test_close_ends_a_suspended_service_and_can_be_repeated(world):
    pid = world.start_server()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(OSError):
        world.ask("great", timeout_s=0.3)
    world.close()
    world.close()
    assert world.servers() == []
    assert not world.pid_file.exists()


def test_service_killed_by_somebody_else_leaves_no_zombie_and_starts_again(world):
    first = world.start_server()
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{first}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{first}").exists()
    assert world.start_server() != first
    assert [p.pid for p in world.servers()] == [world.health()["pid"]]


def test_service_that_cannot_start_says_so(world):
    (world.model / WEIGHTS).write_bytes(b"")
    with pytest.raises(DrillError, match="status 2"):
        world.start_server()


def test_folder_in_use_is_refused_untouched(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DrillError, match="not empty"):
        drill_world.create(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def receiver():
    made = WebhookReceiver("s3cret")
    yield made
    made.close()


def deliver(receiver, body, stamp, signature):
    headers = {TIMESTAMP_HEADER: stamp, SIGNATURE_HEADER: signature}
    request = urllib.request.Request(receiver.url, body, headers)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("form", ["seconds", "rfc3339"])
def test_signed_message_is_taken(receiver, form):
    body = json.dumps({"text": "hello"}).encode()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    stamp = stamp if form == "rfc3339" else str(int(time.time()))
    assert deliver(receiver, body, stamp, sign("s3cret", stamp, body)) == 204
    (delivery,) = receiver.wait_for(1)
    assert (delivery.verified, delivery.body) == (True, body)


def test_forged_or_old_message_is_refused_and_kept_as_such(receiver):
    now, old = str(int(time.time())), str(int(time.time()) - 3600)
    assert deliver(receiver, b"a", now, sign("other", now, b"a")) == 401
    assert deliver(receiver, b"b", now, sign("s3cret", now, b"a")) == 401
    assert deliver(receiver, b"a", old, sign("s3cret", old, b"a")) == 401
    assert deliver(receiver, b"a", "soon", sign("s3cret", "soon", b"a")) == 401
    assert [d.verified for d in receiver.deliveries] == [False] * 4
