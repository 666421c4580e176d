"""Fixtures that more than one room of tests needs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_engine import IMAGE, Engine, unavailable
from firebreak.drill.local_prefect import LocalPrefect


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrefect]:
    """A real Prefect server on loopback, started once; nothing is served there yet."""
    folder = tmp_path_factory.mktemp("prefect")
    with LocalPrefect(folder, folder / "unused.yaml") as server:
        server.start_server()
        server.wait_ready()
        yield server


@pytest.fixture
def prefect_environment(prefect: LocalPrefect, monkeypatch: pytest.MonkeyPatch) -> LocalPrefect:
    """This process and its children talk to the session's server."""
    for name, value in prefect.environment.items():
        if name.startswith("PREFECT_") or name == "PYTHONPATH":
            monkeypatch.setenv(name, value)
    return prefect


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current directory, with no inventory set."""
    for name in [n for n in os.environ if n.startswith("FIREBREAK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A Docker engine for one test."""
    import docker
    import docker.errors

    if not os.environ.get("DOCKER_HOST"):
        unavailable("DOCKER_HOST is not set: .ci/engine.sh up DIR starts an engine")
    try:
        client = docker.from_env(timeout=30)
        client.images.get(IMAGE)
    except docker.errors.DockerException as error:
        unavailable(f"no usable engine at {os.environ['DOCKER_HOST']}: {error}")
    made = Engine(client)
    yield made
    made.close()
