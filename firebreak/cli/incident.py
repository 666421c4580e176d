"""`firebreak incident list|show|export|verify|close`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from firebreak.cli.output import ExitCode, Output, add_common, inventory_of

if TYPE_CHECKING:
    from firebreak.incidents.bundle import BundleReport


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    command = commands.add_parser(
        "incident",
        help="list, show, export, verify or close incidents",
        epilog="example:\n  firebreak incident show sentiment",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = command.add_subparsers(dest="kind", metavar="ACTION", required=True)
    listing = kinds.add_parser(
        "list",
        help="all incidents, newest first",
        epilog="example:\n  firebreak incident list --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    show = kinds.add_parser(
        "show",
        help="one incident: status, question, timeline",
        epilog="example:\n  firebreak incident show INC-20260102-0a1b2c",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export = kinds.add_parser(
        "export",
        help="write one file that proves itself",
        epilog="example:\n  firebreak incident export INC-20260102-0a1b2c --to incident.tar",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("--to", type=Path, metavar="FILE", help="default: INCIDENT.tar")
    close = kinds.add_parser(
        "close",
        help="close an incident: a false alarm, or handled elsewhere",
        epilog='example:\n  firebreak incident close INC-20260102-0a1b2c --by ana --reason "drill"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    close.add_argument("--by", required=True, metavar="PERSON", help="your id in the inventory")
    close.add_argument("--reason", required=True, metavar="TEXT", help="why; goes on record")
    verify = kinds.add_parser(
        "verify",
        help="verify an exported bundle, or a stored incident",
        epilog="example:\n  firebreak incident verify incident.tar --key evidence.pub",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("incident", help="bundle file, or incident id")
    verify.add_argument(
        "--key", type=Path, metavar="PUB", help="public key that must have sealed the bundle"
    )
    for parser in (show, export, close):
        parser.add_argument("incident", help="incident id, or a model id with an open incident")
    for parser, run in (
        (listing, run_list),
        (show, run_show),
        (export, run_export),
        (close, run_close),
        (verify, run_verify),
    ):
        add_common(parser)
        parser.set_defaults(run=run)


def run_list(args: argparse.Namespace, output: Output) -> ExitCode:
    """Print all incidents; exit 1 while one is not over."""
    from firebreak.errors import JournalCorruptError
    from firebreak.incidents.case import open_case
    from firebreak.incidents.store import Store
    from firebreak.incidents.view import IncidentView, view

    inventory = inventory_of(args)
    rows, corrupt = [], None
    for row in Store(inventory.database_url).incidents():
        try:
            seen = view(open_case(row.id, inventory).entries()).to_json()
        except JournalCorruptError as error:  # the others are shown all the same
            corrupt = corrupt or error
            unknown = IncidentView(subject=row.subject, opened_at=row.opened_at)
            seen = {**unknown.to_json(), "status": "corrupt", "severity": "unknown"}
        rows.append({"id": row.id, **seen})
    output.data(rows)
    if not rows:
        output.line("no incidents", "clean")
    columns = ("id", "status", "severity", "subject", "opened_at", "findings")
    output.table(columns, [tuple(str(row[c]) for c in columns) for row in rows])
    if corrupt is not None:
        raise corrupt
    over = all(row["status"] in ("recovered", "closed") for row in rows)
    return ExitCode.CLEAN if over else ExitCode.FINDINGS


def run_show(args: argparse.Namespace, output: Output) -> ExitCode:
    """Print one incident."""
    from firebreak.incidents.view import view
    from firebreak.investigation.timeline import timeline, times
    from firebreak.playbook.question import as_text
    from firebreak.response import find_case

    case = find_case(inventory_of(args), args.incident)
    entries = case.entries()
    seen = view(entries)
    events = timeline(entries)
    output.data(
        {
            "id": case.id,
            **seen.to_json(),
            "times": times(entries),
            "journal": [e.to_json() for e in entries],
        }
    )
    output.line(f"{case.id}  {seen.status}  {seen.severity}  {seen.subject}", seen.status.value)
    if seen.reason:
        output.line(seen.reason, "high")
    output.table(("time", "what"), [(event.time, event.text) for event in events])
    if seen.question:
        output.line("")
        output.line(as_text(case, seen.question))
    return ExitCode.CLEAN if seen.status.value in ("recovered", "closed") else ExitCode.FINDINGS


def run_export(args: argparse.Namespace, output: Output) -> ExitCode:
    """Write the bundle."""
    from firebreak.incidents.bundle import export_bundle
    from firebreak.response import find_case

    case = find_case(inventory_of(args), args.incident)
    place = args.to or Path(f"{case.id}.tar")
    report = export_bundle(case, place)
    output.data({"path": str(place), **report.to_json()})
    output.line(
        f"wrote {place}: {report.entries} entries, {report.evidence} pieces of evidence", "clean"
    )
    return ExitCode.CLEAN


def run_close(args: argparse.Namespace, output: Output) -> ExitCode:
    """Close it; its journal stays."""
    from firebreak.response import close, find_case

    case = find_case(inventory_of(args), args.incident)
    close(case, by=args.by, reason=args.reason)
    output.data({"incident": case.id, "status": "closed"})
    output.line(f"closed {case.id}", "closed")
    return ExitCode.CLEAN


def run_verify(args: argparse.Namespace, output: Output) -> ExitCode:
    """Verify a bundle file offline, or an incident in the store."""
    from firebreak.errors import BundleError
    from firebreak.incidents.bundle import verify_bundle, verify_stored
    from firebreak.response import find_case
    from firebreak.sealing import load_sealer

    path = Path(args.incident)
    key = load_sealer(args.key) if args.key else None
    stored = not path.is_file()
    if not stored:
        report = verify_bundle(path, key)
    elif path.suffix == ".tar" or "/" in args.incident:
        raise BundleError(str(path), "there is no such file")
    else:
        report = verify_stored(find_case(inventory_of(args), args.incident))
        if key is not None and key.key_id != report.key_id:
            raise BundleError(
                report.incident, f"sealed by key {report.key_id}, not by {key.key_id}"
            )
    output.data(report.to_json())
    _print_report(output, report, stored)
    return ExitCode.CLEAN


def _print_report(output: Output, report: "BundleReport", stored: bool) -> None:
    output.line(f"{report.incident}: {report.entries} entries, chain intact, head {report.head}")
    output.line(f"{report.evidence} pieces of evidence and {report.checkpoints} sealed heads fit")
    if report.signer_proven:
        output.line(f"sealed by key {report.key_id}", "clean")
    elif stored:
        output.line("not sealed yet: no head of this journal bears a signature", "medium")
    else:
        output.line(
            f"signer unproven: the bundle brings its own key {report.key_id}; "
            "pass --key to prove who sealed it",
            "medium",
        )
