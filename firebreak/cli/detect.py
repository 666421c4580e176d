"""`firebreak detect`: check once, or keep watching."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from firebreak.cli.output import ExitCode, Output, add_common, inventory_of

if TYPE_CHECKING:
    from typing import TextIO

    from firebreak.detection import Summary
    from firebreak.inventory import Inventory
    from firebreak.records import Finding


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "detect",
        help="compare every model with its baseline, open or extend incidents",
        description="Check integrity, behaviour and packages; findings open or extend incidents.",
        epilog="example:\n  firebreak detect --watch",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("models", nargs="*", help="model ids (default: all, and the packages)")
    command.add_argument(
        "--watch",
        action="store_true",
        help="keep checking at the inventory's interval until SIGTERM",
    )
    add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Check once or watch."""
    from firebreak.detection import check_all

    inventory = inventory_of(args)
    if args.watch:
        return _watch(args, output)
    chosen = [inventory.model(m) for m in args.models] or inventory.models
    total = sum(_size(model.path) for model in chosen)
    with output.progress("checking", total) as progress:
        summary = check_all(inventory, args.models, progress=progress)
    _finish(output, inventory, summary)
    return ExitCode.FINDINGS if summary.findings else ExitCode.CLEAN


def _watch(args: argparse.Namespace, output: Output) -> ExitCode:
    from firebreak.detection import check_all
    from firebreak.inventory import load_inventory
    from firebreak.watch import Watch

    inventory = load_inventory()
    for model in args.models:
        inventory.model(model)  # a wrong id will not get better by waiting

    def check() -> int:
        fresh = load_inventory()
        summary = check_all(fresh, args.models)
        _finish(output, fresh, summary)
        return len(summary.findings)

    def complain(error: Exception) -> None:
        output.error(
            str(error) or type(error).__name__,
            "Trying again after a pause.",
            getattr(error, "__notes__", ()),
        )

    watch = Watch(
        check,
        inventory.check_interval.total_seconds(),
        on_error=lambda error: _show(sys.stderr, lambda: complain(error)),
    )
    seconds = f"{inventory.check_interval.total_seconds():g} s"
    hello = f"watching {len(inventory.models)} models every {seconds}; stop with SIGTERM or Ctrl-C"
    _show(sys.stdout, lambda: output.line(hello))
    counters = watch.run()
    goodbye = ", ".join(f"{name} {count}" for name, count in counters.items())
    _show(sys.stdout, lambda: output.data(counters))
    _show(sys.stdout, lambda: output.line(goodbye))
    return ExitCode.CLEAN


def _finish(output: Output, inventory: "Inventory", summary: "Summary") -> None:
    """Start what is due, then print the outcome, then alert; none of them keeps back the next.

    Raises:
        Exception: the first thing that failed, of the check or here; the others in its notes.
    """
    from firebreak.communication.alerts import alert_new

    started: list[dict[str, str]] = []
    lines: list[tuple[str, str]] = []
    failed: list[Exception] = []

    def report() -> None:
        print_summary(output, summary)
        for text, style in lines:
            output.line(text, style)
        output.data({**summary.to_json(), "started": started})

    stages: tuple[Callable[[], None], ...] = (
        lambda: _start(inventory, started, lines),
        lambda: _show(sys.stdout, report),
        lambda: alert_new(inventory, summary.recorded, summary.unrecorded),
    )
    for stage in stages:
        try:
            stage()
        except Exception as error:  # noqa: BLE001 - raised below, when the other stages are done
            failed.append(error)
    summary.raise_errors(failed)


def _show(stream: "TextIO", write: Callable[[], None]) -> None:
    """Write; when the reader has gone, go on and say nothing more."""
    try:
        write()
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _start(
    inventory: "Inventory", started: list[dict[str, str]], lines: list[tuple[str, str]]
) -> None:
    """Start due responses on the Prefect server; without one, say what waits.

    Args:
        inventory: says whether responses start by themselves.
        started: gets each response as it is started, those before a failure too.
        lines: gets what to tell people, each a text and its style.
    """
    from firebreak.prefect_bridge import playbook_folder, start_response
    from firebreak.response import due_responses
    from firebreak.settings import load_settings

    for due in due_responses(inventory, playbook_folder()):
        if load_settings().prefect_api_url is None:
            lines.append((f"{due.incident} waits: firebreak respond {due.incident}", "medium"))
            continue
        run = start_response(due.incident, due.playbook, "firebreak")
        lines.append((f"started {due.playbook} for {due.incident}: run {run}", ""))
        started.append({"incident": due.incident, "playbook": due.playbook, "run": run})


def print_summary(output: Output, summary: "Summary") -> None:
    """The outcome of a full check, for people."""
    if summary.findings or not summary.errors:  # what could not be checked is not clean
        print_findings(output, summary.findings)
    for recorded in summary.recorded:
        what = "opened" if recorded.opened else f"{len(recorded.new)} new findings in"
        output.line(f"{what} {recorded.incident} ({recorded.subject})", "high")
    if summary.unrecorded:
        output.line(f"{len(summary.unrecorded)} findings could not be recorded", "critical")


def print_findings(output: Output, findings: "Sequence[Finding]") -> None:
    """Findings as a table, or that there are none."""
    if not findings:
        output.line("clean: nothing differs", "clean")
        return
    rows = [(f.severity.value, f.type.value, f.message) for f in findings]
    output.table(("severity", "type", "what"), rows)


def _size(path: object) -> int:
    from pathlib import Path

    from firebreak.checks.hashing import tree_size

    try:
        return tree_size(Path(str(path)))
    except OSError:
        return 0
