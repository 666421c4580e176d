"""What the command line prints: colour and tables in a terminal, plain text in a pipe, JSON."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firebreak.records import printable

if TYPE_CHECKING:
    from firebreak.checks.hashing import Progress
    from firebreak.inventory import Inventory

STYLES = {
    "critical": "bold red",
    "high": "red",
    "medium": "yellow",
    "low": "dim",
    "held": "bold red",
    "failed": "bold red",
    "waiting": "bold yellow",
    "recovered": "green",
    "open": "red",
    "responding": "yellow",
    "closed": "dim",
    "clean": "green",
}


class ExitCode(IntEnum):
    """What a command says to the shell."""

    CLEAN = 0
    FINDINGS = 1
    ERROR = 2


class Output:
    """Prints one command's outcome, for people or for machines."""

    def __init__(self, *, as_json: bool = False, as_lines: bool = False) -> None:
        self.as_json, self.as_lines = as_json, as_lines
        self.rich = not as_json and sys.stdout.isatty()

    def data(self, value: Any) -> None:
        """Print a value as JSON, only with --json; on one line when there will be several."""
        if self.as_json:
            print(json.dumps(value, indent=None if self.as_lines else 2), flush=True)

    def line(self, text: str, style: str = "") -> None:
        """Print text for people; nothing with --json. Control characters are escaped."""
        if self.as_json:
            return
        text = "\n".join(printable(part) for part in text.split("\n"))
        if not self.rich:
            print(text, flush=True)  # a daemon's lines must not wait in a buffer
            return
        from rich.console import Console
        from rich.text import Text

        Console().print(Text(text, style=STYLES.get(style, style)), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table for people: drawn in a terminal, tab-separated in a pipe."""
        if self.as_json:
            return
        rows = [[printable(cell) for cell in row] for row in rows]
        if not self.rich:
            for row in rows:
                print("\t".join(row), flush=True)
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, header_style="bold", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        Console().print(table)

    def error(self, problem: str, hint: str, notes: Sequence[str] = ()) -> None:
        """Print an error, what else is known and the next move to standard error, as JSON if asked.

        Args:
            problem: what is wrong.
            hint: the next move.
            notes: what else happened, such as further errors.
        """
        if self.as_json:
            text = json.dumps({"error": problem, "hint": hint, "notes": list(notes)})
        else:
            lines = [f"error: {problem}", *(f"also: {note}" for note in notes), f"hint: {hint}"]
            text = "\n".join(printable(line) for line in lines)
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator["Progress | None"]:
        """A progress bar over `total` bytes on standard error; None when that is no terminal."""
        if self.as_json or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn(title),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            job = bar.add_task(title, total=total)
            yield lambda count: bar.advance(job, count)


def add_common(command: argparse.ArgumentParser) -> None:
    """The options that every command has."""
    command.add_argument("--json", action="store_true", help="print JSON for machines")
    command.add_argument(
        "--inventory",
        type=Path,
        metavar="FILE",
        help="inventory file (default: $FIREBREAK_INVENTORY or firebreak.yaml)",
    )


def inventory_of(args: argparse.Namespace) -> "Inventory":
    """The inventory a command works with. Raises: SourceError."""
    import os

    from firebreak.inventory import load_inventory
    from firebreak.settings import load_settings

    inventory = load_inventory(load_settings(args.inventory))
    os.environ["FIREBREAK_INVENTORY"] = str(inventory.file)  # flows started from here use it, too
    return inventory
