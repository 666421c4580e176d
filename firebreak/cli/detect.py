"""`firebreak detect`: check once, or keep watching."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from firebreak.cli.output import ExitCode, Output, add_common, inventory_of

if TYPE_CHECKING:
    from firebreak.detection import Summary
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
    from firebreak.communication.alerts import alert_all
    from firebreak.detection import detect

    inventory = inventory_of(args)
    if args.watch:
        return _watch(args, output)
    chosen = [inventory.model(m) for m in args.models] or inventory.models
    total = sum(_size(model.path) for model in chosen)
    with output.progress("checking", total) as progress:
        summary = detect(
            inventory, args.models, progress=progress, on_critical=alert_all(inventory)
        )
    _report(output, summary)
    return ExitCode.FINDINGS if summary.findings else ExitCode.CLEAN


def _watch(args: argparse.Namespace, output: Output) -> ExitCode:
    from firebreak.communication.alerts import alert_all
    from firebreak.detection import detect
    from firebreak.inventory import load_inventory
    from firebreak.watch import Watch

    inventory = load_inventory()
    for model in args.models:
        inventory.model(model)  # a wrong id will not get better by waiting

    def check() -> int:
        fresh = load_inventory()
        summary = detect(fresh, args.models, on_critical=alert_all(fresh))
        _report(output, summary)
        return len(summary.findings)

    watch = Watch(
        check,
        inventory.check_interval.total_seconds(),
        on_error=lambda error: output.error(
            str(error) or type(error).__name__,
            "Trying again after a pause.",
            getattr(error, "__notes__", ()),
        ),
    )
    output.line(
        f"watching {len(inventory.models)} models every "
        f"{inventory.check_interval.total_seconds():g} s; stop with SIGTERM or Ctrl-C"
    )
    counters = watch.run()
    output.data(counters)
    output.line(", ".join(f"{name} {count}" for name, count in counters.items()))
    return ExitCode.CLEAN


def _report(output: Output, summary: "Summary") -> None:
    """Print the outcome and start what is due; a server that is away hides no finding."""
    print_summary(output, summary)
    started: list[dict[str, str]] = []
    try:
        started = _start(output)
    finally:
        output.data({**summary.to_json(), "started": started})


def _start(output: Output) -> list[dict[str, str]]:
    """Start due responses on the Prefect server; without one, say what waits."""
    from firebreak.inventory import load_inventory
    from firebreak.prefect_bridge import playbook_folder, start_response
    from firebreak.response import due_responses
    from firebreak.settings import load_settings

    started = []
    for due in due_responses(load_inventory(), playbook_folder()):
        if load_settings().prefect_api_url is None:
            output.line(f"{due.incident} waits: firebreak respond {due.incident}", "medium")
            continue
        run = start_response(due.incident, due.playbook, "firebreak")
        output.line(f"started {due.playbook} for {due.incident}: run {run}")
        started.append({"incident": due.incident, "playbook": due.playbook, "run": run})
    return started


def print_summary(output: Output, summary: "Summary") -> None:
    """The outcome of a full check, for people."""
    print_findings(output, summary.findings)
    for recorded in summary.recorded:
        what = "opened" if recorded.opened else f"{len(recorded.new)} new findings in"
        output.line(f"{what} {recorded.incident} ({recorded.subject})", "high")


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
