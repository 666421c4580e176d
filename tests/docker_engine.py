"""A real Docker engine for tests: containers and networks that are removed afterwards."""

import os
import uuid
from typing import Any

import pytest

IMAGE = os.environ.get("ENGINE_IMAGE", "firebreak-test/python:1")  # .ci/engine.sh builds it


class Engine:
    """Makes containers and networks for one test, and removes them afterwards."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.label = f"t{uuid.uuid4().hex[:10]}"
        self.uri = f"docker://model={self.label}"
        self._made: list[Any] = []
        self._networks: list[Any] = []

    def network(self) -> Any:
        """A new bridge network."""
        made = self.client.networks.create(f"{self.label}-{len(self._networks)}")
        self._networks.append(made)
        return made

    def run(self, *command: str, ours: bool = True, **options: Any) -> Any:
        """A running container of the test image; labelled as the model's when it is `ours`."""
        made = self.create(*command, ours=ours, **options)
        made.start()
        made.reload()
        return made

    def create(self, *command: str, ours: bool = True, **options: Any) -> Any:
        """The same, not started."""
        labels = {"model": self.label} if ours else {}
        made = self.client.containers.create(
            IMAGE, list(command) or ["/bin/sleep", "3600"], labels=labels, **options
        )
        self._made.append(made)
        return made

    def close(self) -> None:
        """Remove everything this test made."""
        import docker.errors

        for made in self._made:
            try:
                made.remove(force=True)
            except docker.errors.NotFound:
                continue
        for made in self._networks:
            try:
                made.remove()
            except docker.errors.NotFound:
                continue
        self.client.close()


def unavailable(reason: str) -> None:
    """Fail in CI, where an engine must be there; skip elsewhere, with the reason."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
