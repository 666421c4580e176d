"""Containers on a real engine: what is cut, what is kept, what the engine cannot see."""

import io
import json
import subprocess
import sys
import tarfile
import time

import docker.errors
import pytest

from firebreak.containment import docker_actions
from firebreak.containment.docker import DockerDriver
from firebreak.containment.driver import Exposure, Mode
from firebreak.errors import ContainmentError
from firebreak.evidence.capture import capture
from firebreak.evidence.containers import host_pid
from firebreak.inventory import Model, Target

DRIVER = DockerDriver()
RECEIVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("", 8000), Handler).serve_forever()
"""
CALLER = """
import pathlib, sys, time, urllib.request
pathlib.Path("/scratch/dropped.bin").write_text("attacker was here")
pathlib.Path("/scratch/link").symlink_to("/etc/passwd")
while True:
    try: urllib.request.urlopen("http://receiver:8000/" + sys.argv[1], timeout=1).read()
    except OSError as error: print(error, flush=True)
    time.sleep(0.02)
"""


def calls(receiver, name: str = "beacon") -> int:
    """How many calls of that name a receiver has logged."""
    return receiver.logs().count(f"GET /{name} ".encode())


def wait_for(condition, tries: int = 600) -> None:
    """Wait until something outside this process has happened; at most half a minute."""
    for _ in range(tries):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("did not happen in time")


def evidence(case, ending: str) -> bytes:
    """The evidence whose name ends so."""
    (entry,) = [
        e
        for e in case.entries()
        if e.kind == "evidence.collected" and e.body["name"].endswith(ending)
    ]
    return case.blobs.get(entry.body["sha256"])


@pytest.mark.engine
def test_a_calling_container_is_cut_and_what_it_dropped_is_kept(case, engine):
    """End to end: the receiver's log stops, what it dropped in tmpfs is kept, then it calls on."""
    network = engine.network()
    receiver = engine.run("/usr/bin/python3", "-u", "-c", RECEIVER, ours=False)
    network.connect(receiver, aliases=["receiver"])
    engine.run(
        "/usr/bin/python3",
        "-c",
        CALLER,
        "beacon",
        "--token=hunter2",
        network=network.name,
        tmpfs={"/scratch": ""},
        environment={"HF_TOKEN": "hunter2"},
    )
    wait_for(lambda: calls(receiver) > 3)
    target = Target(engine.uri)

    receipt = DRIVER.isolate(target, Mode.REVERSIBLE, case)
    assert DRIVER.probe(target).exposure is Exposure.CONTAINED
    count = calls(receiver)
    command = ("/usr/bin/python3", "-c", CALLER, "witness")
    engine.run(*command, ours=False, network=network.name, tmpfs={"/scratch": ""})
    wait_for(lambda: calls(receiver, "witness") > 5)
    assert calls(receiver) == count

    listing = json.loads(evidence(case, "tmpfs.json"))
    files = {e["path"]: e for e in listing["entries"]}
    assert files["dropped.bin"]["size"] == len("attacker was here")
    assert files["link"]["sha256"] is None
    with tarfile.open(fileobj=io.BytesIO(evidence(case, "tmpfs.tar"))) as archive:
        assert archive.getnames() == ["scratch/dropped.bin"]
        assert archive.extractfile("scratch/dropped.bin").read() == b"attacker was here"
    assert json.loads(evidence(case, "inspect.json"))["Config"]["Env"] == ["HF_TOKEN", "PATH"]
    assert b"python3" in evidence(case, "top.json")
    assert "sockets" in json.loads(evidence(case, "sockets.json"))
    for entry in case.entries():
        assert "hunter2" not in json.dumps(entry.body)
        if entry.kind == "evidence.collected":
            assert b"hunter2" not in case.blobs.get(entry.body["sha256"])
    assert not [e for e in case.entries() if e.kind == "evidence.failed"]

    DRIVER.release(target, [receipt], case)
    wait_for(lambda: calls(receiver) > count + 20)


@pytest.mark.engine
def test_sockets_of_a_container_are_seen_from_the_host(case, engine):
    """The listening socket is in the capture, with the process that holds it."""
    container = engine.run("/usr/bin/python3", "-c", RECEIVER)
    model = Model(id="chat", path=case.model.path, where="test", targets=(Target(engine.uri),))
    case.model.path.mkdir()

    def listening() -> bool:
        return b":1F40 " in container.exec_run("cat /proc/net/tcp").output

    wait_for(listening)
    assert "filesystem" in capture(case, model)
    sockets = json.loads(evidence(case, "-sockets.json"))["sockets"]
    (found,) = [s for s in sockets if s.get("local") == "0.0.0.0:8000"]
    assert found["state"] == "LISTEN"
    container.reload()
    assert found["pids"] == [host_pid(container)]


@pytest.mark.engine
@pytest.mark.parametrize("mode", ["host", "none", "container"])
def test_network_modes_that_cannot_be_disconnected_are_paused(case, engine, mode):
    """Host, none and another container's network: pausing cuts them, release unpauses."""
    if mode == "container":
        mode = f"container:{engine.run(ours=False).id}"
    container = engine.run(network_mode=mode)
    target = Target(engine.uri)
    serving = Exposure.CONTAINED if mode == "none" else Exposure.SERVING
    assert DRIVER.probe(target).exposure is serving
    receipt = DRIVER.isolate(target, Mode.REVERSIBLE, case)
    container.reload()
    assert container.status == "paused"
    assert DRIVER.probe(target).exposure is Exposure.CONTAINED
    DRIVER.release(target, [receipt], case)
    container.reload()
    assert container.status == "running"


@pytest.mark.engine
def test_containers_that_are_down_stay_down(case, engine):
    """Created, exited and paused ones are recorded as such and left so."""
    created = engine.create()
    exited = engine.run("/bin/true")
    exited.wait()
    paused = engine.run()
    paused.pause()
    target = Target(engine.uri)
    receipt = DRIVER.isolate(target, Mode.REVERSIBLE, case)
    DRIVER.release(target, [receipt], case)
    for container, status in ((created, "created"), (exited, "exited"), (paused, "paused")):
        container.reload()
        assert container.status == status
        assert container.attrs["NetworkSettings"]["Networks"]


@pytest.mark.engine
def test_an_ended_container_stays_down_and_is_not_removed(case, engine):
    """Its restart policy is taken while it is down, and given back."""
    container = engine.run(restart_policy={"Name": "always"})
    target = Target(engine.uri)
    receipt = DRIVER.isolate(target, Mode.DESTRUCTIVE, case)
    container.reload()
    assert container.status == "exited"
    assert container.attrs["HostConfig"]["RestartPolicy"]["Name"] == "no"
    DRIVER.release(target, [receipt], case)
    container.reload()
    assert container.status == "running"
    assert container.attrs["HostConfig"]["RestartPolicy"]["Name"] == "always"


@pytest.mark.engine
def test_a_container_made_with_rm_is_paused_but_not_ended(case, engine):
    """Ending it would remove it: the error says so, and it is contained."""
    container = engine.run(auto_remove=True)
    target = Target(engine.uri)
    with pytest.raises(ContainmentError, match="made with --rm"):
        DRIVER.isolate(target, Mode.DESTRUCTIVE, case)
    container.reload()
    assert container.status == "paused"
    assert DRIVER.probe(target).exposure is Exposure.CONTAINED


@pytest.mark.engine
def test_a_container_that_restarts_for_ever_is_ended(case, engine):
    """Between two starts it cannot be paused."""
    container = engine.run("/bin/false", restart_policy={"Name": "always"})

    def restarting() -> bool:
        container.reload()
        return container.status == "restarting"

    wait_for(restarting)
    DRIVER.isolate(Target(engine.uri), Mode.REVERSIBLE, case)
    container.reload()
    assert container.status == "exited"


@pytest.mark.engine
def test_one_container_that_refuses_does_not_save_the_others(case, engine, monkeypatch):
    """The error names the one that refused and what was done to the others."""
    stubborn, other = engine.run(), engine.run()
    real = docker_actions._pause

    def refusing(container) -> None:
        if container.id == stubborn.id:
            raise docker.errors.APIError("no, with password=hunter2")
        real(container)

    monkeypatch.setattr(docker_actions, "_pause", refusing)
    with pytest.raises(ContainmentError, match="no, with") as caught:
        DRIVER.isolate(Target(engine.uri), Mode.REVERSIBLE, case)
    assert stubborn.name in str(caught.value)
    assert f"paused {other.name}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    other.reload()
    assert other.status == "paused"


@pytest.mark.engine
def test_a_removed_container_is_reported_at_release(case, engine):
    """Somebody removed it meanwhile: the others are released, the error names it."""
    gone, stays = engine.run(), engine.run()
    target = Target(engine.uri)
    receipt = DRIVER.isolate(target, Mode.REVERSIBLE, case)
    gone.remove(force=True)
    with pytest.raises(ContainmentError, match=f"{gone.name}: was removed"):
        DRIVER.release(target, [receipt], case)
    stays.reload()
    assert stays.status == "running"


def test_without_an_engine_nothing_is_proven(case, monkeypatch, tmp_path):
    """The probe says UNPROVEN; isolating and planning raise."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    target = Target("docker://model=chat")
    assert DRIVER.probe(target).exposure is Exposure.UNPROVEN
    with pytest.raises(ContainmentError, match="engine"):
        DRIVER.isolate(target, Mode.REVERSIBLE, case)
    with pytest.raises(ContainmentError, match="engine"):
        DRIVER.plan(target, Mode.REVERSIBLE, case)


@pytest.mark.parametrize("rest", ["", "model", "model=", "=chat"])
def test_a_target_without_label_and_value_is_refused(case, rest):
    """A bare label would cut off every model's containers."""
    with pytest.raises(ContainmentError, match="LABEL=VALUE"):
        DRIVER.isolate(Target(f"docker://{rest}"), Mode.REVERSIBLE, case)


def test_importing_the_drivers_does_not_import_docker():
    """The command line's help and the file driver do not pay for the docker SDK."""
    code = "import sys, firebreak.containment.drivers; sys.exit('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
