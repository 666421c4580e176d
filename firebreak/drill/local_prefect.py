"""A Prefect server of our own on loopback, with Firebreak's deployments served beside it.

Both are children of this process and end with it; everything they keep lies in one folder.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import requests

from firebreak.drill.world import DrillError
from firebreak.prefect_bridge import QUIET, project_root

START_S = 120.0
STOP_S = 15.0


class LocalPrefect:
    """A Prefect server and the process that serves the deployments.

    Args:
        folder: where database, settings and logs go.
        inventory: the inventory the flows work with.
    """

    def __init__(self, folder: Path, inventory: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            **QUIET,
            "FIREBREAK_INVENTORY": str(inventory),
            "PREFECT_HOME": str(folder),
            "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V2 calls an outside host from the browser
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(project_root()), os.environ.get("PYTHONPATH", "")])
            ),
        }
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_server(self) -> None:
        """Start the server; returns at once, `wait_ready` waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._run("server", [sys.executable, "-m", "prefect", "server", "start"])

    def wait_ready(self) -> None:
        """Wait until the server answers. Raises: DrillError with the end of its log."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                if requests.get(f"{self.url}/api/health", timeout=2).ok:
                    return
            except requests.RequestException:
                pass  # not listening yet
            time.sleep(0.2)
        raise DrillError("Prefect server", f"does not answer after {START_S:g} s\n{self._tail()}")

    def serve(self) -> None:
        """Serve the deployments and wait until they are registered."""
        self._run("serve", [sys.executable, str(project_root() / "deployments" / "serve.py")])
        deadline = time.monotonic() + START_S
        address = f"{self.url}/api/deployments/name/respond/respond"
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                if requests.get(address, timeout=2).ok:
                    return
            except requests.RequestException:
                pass  # the server is busy starting; the deadline decides
            time.sleep(0.2)
        raise DrillError("deployments", f"not there after {START_S:g} s\n{self._tail()}")

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End one of the two children, `server` or `serve`, with everything it started."""
        _end(self._children.pop(name), number)

    def close(self) -> None:
        """End both children, the serving one first."""
        for name in reversed(list(self._children)):
            self.stop(name)

    def _run(self, name: str, argv: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                argv,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
            )

    def _check_alive(self) -> None:
        for child in self._children.values():
            if child.poll() is not None:
                raise DrillError("Prefect", f"ended with status {child.returncode}\n{self._tail()}")

    def _tail(self) -> str:
        logs = sorted(self.folder.glob("*.log"), key=lambda p: p.stat().st_mtime)
        return logs[-1].read_text(errors="replace")[-1500:] if logs else ""


def _end(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Signal a child's whole session, and kill what has not ended in time."""
    for attempt in (number, signal.SIGKILL):
        try:
            os.killpg(child.pid, attempt)
        except ProcessLookupError:
            break
        try:
            child.wait(STOP_S)
            break
        except subprocess.TimeoutExpired:
            continue


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
