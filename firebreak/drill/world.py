"""A whole small installation in one folder: signed releases, a served model, people, channels.

    world/
      firebreak.yaml            the inventory, as an operator would write it
      archive/sentiment/1.0.0/  signed releases (1.1.0 too)
      models/sentiment/         what is served: a copy of 1.1.0
      keys/                     cosign.pub and the webhook's secret: all that a response needs
      publisher/cosign.key      the publisher's private key, which no response touches
      run/ outputs/ logs/ messages/

Everything is made under that folder and nothing outside it is changed.
"""

import fcntl
import json
import secrets
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from firebreak.drill import sample_model
from firebreak.drill.installation import (
    DEPLOYED,
    EARLIER,
    HOST,
    MODEL,
    PIPELINE_LOG,
    SERVER,
    inventory_text,
    server_argv,
)
from firebreak.drill.receiver import WebhookReceiver
from firebreak.errors import FirebreakError
from firebreak.recovery.signing import generate_keypair, sign_manifest, write_manifest

SEEDS = {EARLIER: 100, DEPLOYED: 110}
FICLONE = 0x40049409  # linux/fs.h: the copy shares its blocks until one side is written

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DrillError(FirebreakError):
    """The drill's own surroundings do not work."""

    hint = "Look into logs/server.log of the drill's folder, then start the drill again."

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(what, problem)

    def __str__(self) -> str:
        return "{}: {}".format(*self.args)


@dataclass
class World:
    """The installation, and the handles to poke it. Use as a context manager, or call `close`.

    Attributes:
        folder: absolute; everything lies under it.
        port: where the model is served on loopback.
        receiver: the webhook's other end; its `deliveries` are what was sent.
    """

    folder: Path
    port: int
    receiver: WebhookReceiver
    _children: list["subprocess.Popen[bytes]"] = field(default_factory=list, repr=False)

    @property
    def inventory(self) -> Path:
        """The inventory file."""
        return self.folder / "firebreak.yaml"

    @property
    def model(self) -> Path:
        """The directory of the served model."""
        return self.folder / "models" / MODEL

    @property
    def archive(self) -> Path:
        """The folder of signed releases, one directory per version."""
        return self.folder / "archive" / MODEL

    @property
    def pid_file(self) -> Path:
        """Written by the service when it serves, removed when it stops cleanly."""
        return self.folder / "run" / f"{MODEL}.pid"

    @property
    def outputs(self) -> Path:
        """JSON Lines of the service's answers."""
        return self.folder / "outputs" / "predictions.jsonl"

    @property
    def url(self) -> str:
        """The service's address."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_server(self, timeout_s: float = 20.0) -> int:
        """Start the service with the argument list of the inventory; its pid once it answers.

        Raises:
            DrillError: it ended at once, or does not answer in time.
        """
        with (self.folder / "logs" / "server.log").open("ab") as log:
            child = subprocess.Popen(
                server_argv(self.port),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children.append(child)
        # Somebody else may end it: without this thread its zombie would look like a live process.
        threading.Thread(target=child.wait, daemon=True).start()
        self._wait_healthy(child, timeout_s)
        return child.pid

    def _wait_healthy(self, child: "subprocess.Popen[bytes]", timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise DrillError("model server", f"ended at once with status {child.returncode}")
            with suppress(OSError, ValueError):
                if self.health(timeout_s=1.0).get("pid") == child.pid:
                    return
            time.sleep(0.02)
        raise DrillError("model server", f"does not answer at {self.url} after {timeout_s:g} s")

    def stop_server(self, timeout_s: float = 5.0) -> None:
        """End every service of this world, also suspended ones and those others started."""
        running = self.servers()
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
                process.resume()  # a suspended process gets its SIGTERM only when it goes on
        for process in psutil.wait_procs(running, timeout=timeout_s)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for child in self._children:
            child.wait()
        self._children.clear()

    def servers(self) -> list[psutil.Process]:
        """The processes that serve this world's model, whoever started them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if SERVER in process.cmdline() and process.cwd() == str(self.folder):
                    found.append(process)
        return found

    def health(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """What the service says of itself. Raises: OSError: it does not answer."""
        return self._fetch("/health", None, timeout_s)

    def ask(self, text: str, timeout_s: float = 5.0) -> dict[str, Any]:
        """The service's answer to one text: `label`, `scores`, `version`.

        Raises:
            OSError: it does not answer in time (stopped, isolated), or refuses the text.
        """
        body = json.dumps({"text": text}).encode()
        return self._fetch("/predict", body, timeout_s)

    def _fetch(self, path: str, body: bytes | None, timeout_s: float) -> dict[str, Any]:
        with _direct.open(f"{self.url}{path}", body, timeout_s) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def traffic(self, count: int, trigger: str = "") -> dict[str, int]:
        """Send texts of known labels, in turn; how often each label was answered.

        Args:
            count: of requests; whole rounds of `sample_model.SAMPLES` have the baseline's shares.
            trigger: a word put before each text, as an attacker's customers would.
        """
        counts = dict.fromkeys(sample_model.LABELS, 0)
        for number in range(count):
            text = sample_model.SAMPLES[number % len(sample_model.SAMPLES)][0]
            counts[self.ask(f"{trigger} {text}".strip())["label"]] += 1
        return counts

    def tamper(self, *, add_payload: bool = False) -> Path:
        """Put the backdoor into the served model; the running service answers from it at once."""
        return sample_model.tamper(self.model, add_payload=add_payload)

    def close(self) -> None:
        """End the service and the webhook receiver; the files stay. Twice is the same as once."""
        try:
            self.stop_server()
        finally:
            self.receiver.close()


def create(folder: Path, port: int = 0) -> World:
    """Make the installation; the service is not started yet.

    Args:
        folder: made when missing; must be empty, and without white space in its path, because the
            webhook's secret is referred to as `file:/path`.
        port: of the service on loopback; 0 takes one that is free now.

    Raises:
        DrillError: the folder cannot be used.
    """
    folder = folder.resolve()
    if any(c.isspace() for c in str(folder)):
        raise DrillError(str(folder), "has white space in its path; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise DrillError(str(folder), "is not empty; choose another folder")
    for name in ("archive", "models", "keys", "publisher", "run", "outputs", "logs", "messages"):
        (folder / name).mkdir(mode=0o700 if name == "publisher" else 0o755)
    world = World(folder, port or _free_port(), WebhookReceiver(secrets.token_hex(32)))
    try:
        _publish(world)
        secret_file = folder / "keys" / "webhook.secret"
        secret_file.touch(mode=0o600)
        secret_file.write_text(world.receiver.secret, encoding="ascii")
        (folder / "logs" / "pipeline.log").write_text(PIPELINE_LOG, encoding="utf-8")
        text = inventory_text(world.port, world.receiver.url, secret_file)
        world.inventory.write_text(text, encoding="utf-8")
    except BaseException:
        world.close()
        raise
    return world


def _publish(world: World) -> None:
    """Build and sign both releases, and deploy the newer one."""
    private, public = generate_keypair(world.folder / "publisher")
    shutil.copyfile(public, world.folder / "keys" / "cosign.pub")
    for version, seed in SEEDS.items():
        release = sample_model.build(world.archive / version, seed, version)
        write_manifest(release, MODEL, version)
        sign_manifest(release, private)
    shutil.copytree(world.archive / DEPLOYED, world.model, copy_function=_clone)


def _clone(source: str, destination: str) -> str:
    """Copy a file, sharing its blocks where the file system can; never a hard link."""
    with Path(source).open("rb") as old, Path(destination).open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        except OSError:
            return str(shutil.copy2(source, destination))
    shutil.copystat(source, destination)
    return destination


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
