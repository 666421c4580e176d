"""Real processes, a real Docker engine and a real case for the containment tests."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from firebreak.containment import service
from firebreak.incidents.blobs import Blobs
from firebreak.incidents.case import Case
from firebreak.incidents.store import Store
from firebreak.inventory import Inventory, Model, Target

SERVICE = """
import http.server, os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
address = ("127.0.0.1", int(sys.argv[2]))
server = http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler)
print("serving", flush=True)
server.serve_forever()
"""


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """An open incident of the model `chat`, in a temporary home."""
    model = Model(id="chat", path=tmp_path / "model", where="test")
    inventory = Inventory(
        file=tmp_path / "firebreak.yaml",
        home=tmp_path / "home",
        database_url=f"sqlite:///{tmp_path / 'home' / 'firebreak.db'}",
        models=(model,),
    )
    store = Store(inventory.database_url)
    incident, _ = store.open_incident("chat", "test", {})
    return Case(incident, inventory, store, Blobs(inventory.home / "evidence"))


@pytest.fixture
def model_tree(case: Case) -> Path:
    """A small model directory."""
    root = case.model.path
    (root / "weights").mkdir(parents=True)
    (root / "config.json").write_text('{"layers": 2}')
    (root / "weights" / "part.bin").write_bytes(b"\0\1" * 5000)
    return root


@pytest.fixture
def spawn() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts `python -c CODE ARG`, leading its own session; all of it is killed afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str, *arguments: str) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(child)
        return child

    yield run
    for child in started:
        for pid in _session(child.pid):
            _kill(pid)
        child.kill()
        child.wait(10)
        if child.stdout:
            child.stdout.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Target]:
    """A target whose `start` runs a small web server that writes its own pid file; not started."""
    port = free_port()
    pid_file = tmp_path / "service.pid"
    before = set(service._children)
    yield Target(
        uri=f"process://{pid_file}",
        start=(sys.executable, "-c", SERVICE, str(pid_file), str(port)),
        cwd=tmp_path,
        probe=f"http://127.0.0.1:{port}/",
    )
    for pid in set(service._children) - before:
        child = service._children.pop(pid)
        child.kill()
        child.wait(10)


def free_port() -> int:
    """A port nobody listens on just now."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        return int(server.server_address[1])


@pytest.fixture
def answering() -> Iterator[str]:
    """The URL of a web server inside this process that answers 200."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def _session(leader: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader:
                found.append(pid)
        except OSError:
            continue
    return found


def _kill(pid: int) -> None:
    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        return
