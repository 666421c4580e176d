"""A small installation for each test."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from firebreak.cli.__main__ import main
from small_world import SmallWorld, make_world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
    """Two models and an inventory; the current folder is there and no variable is set."""
    for name in [n for n in os.environ if n.startswith(("FIREBREAK_", "PREFECT_API"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FIREBREAK_INVENTORY", str(tmp_path / "firebreak.yaml"))
    monkeypatch.chdir(tmp_path)
    return make_world(tmp_path)


@dataclass
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The JSON on standard output, which must be all there is."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The JSON on standard error, which must be all there is."""
        assert self.out == ""
        return json.loads(self.err)


class Cli:
    """Calls the command line's entry point."""

    def __init__(self, world: SmallWorld, capsys: pytest.CaptureFixture[str]) -> None:
        self.world, self.capsys = world, capsys

    def __call__(self, *arguments: str) -> Ran:
        self.capsys.readouterr()
        code = main(list(arguments))
        said = self.capsys.readouterr()
        assert "\x1b" not in said.out + said.err, "no escape codes in a pipe"
        return Ran(code, said.out, said.err)


@pytest.fixture
def cli(world: SmallWorld, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs commands in this process."""
    return Cli(world, capsys)
