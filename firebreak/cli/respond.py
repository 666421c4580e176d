"""`firebreak respond`: start a playbook, or go on with one that was stopped or held."""

import argparse

from firebreak.cli.output import ExitCode, Output, add_common, inventory_of


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "respond",
        help="start or continue the response to an incident",
        description="Start the playbook on the Prefect server of PREFECT_API_URL; without one, "
        "walk it in this process until it is over or waits for people.",
        epilog="example:\n  firebreak respond INC-20260102-0a1b2c --by ana",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("incident", help="incident id, or a model id with an open incident")
    command.add_argument("--playbook", metavar="NAME", help="default: the one its findings trigger")
    command.add_argument(
        "--by",
        required=True,
        metavar="PERSON",
        help="your id in the inventory; who starts it cannot approve its gates",
    )
    command.add_argument(
        "--reopen", metavar="STEP", help="ask or run a held step again; needs --by and --reason"
    )
    command.add_argument("--reason", metavar="TEXT", help="why it is reopened")
    add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Start it and say where it runs, or walk it here."""
    from firebreak import prefect_bridge as bridge
    from firebreak.incidents.view import view
    from firebreak.response import check_initiator, choose_playbook, find_case, reopen
    from firebreak.settings import load_settings

    case = find_case(inventory_of(args), args.incident)
    check_initiator(case.inventory, args.by)
    playbook = choose_playbook(case, args.playbook, bridge.playbook_folder())
    if args.reopen:
        reopen(case, playbook, args.reopen, by=args.by, reason=args.reason or "")
    if load_settings().prefect_api_url:
        if waiting := bridge.waiting_run(case):
            output.data({"incident": case.id, "playbook": playbook.name, "waiting_run": waiting})
            output.line(f"{case.id} waits for an answer already, in run {waiting}", "waiting")
            return ExitCode.FINDINGS
        attempt = sum(
            e.kind in ("response.started", "response.resumed", "step.reopened")
            for e in case.entries()
        )
        run_id = bridge.start_response(case.id, playbook.name, args.by, attempt)
        output.data({"incident": case.id, "playbook": playbook.name, "run": run_id})
        output.line(f"started {playbook.name} for {case.id}: run {run_id}", "clean")
        return ExitCode.CLEAN
    bridge.respond_here(case.id, playbook.name, args.by)
    seen = view(case.entries())
    output.data({"incident": case.id, "playbook": playbook.name, **seen.to_json()})
    output.line(
        f"{case.id} is {seen.status}{': ' + seen.reason if seen.reason else ''}", seen.status.value
    )
    if seen.question:
        output.line(
            f"gate {seen.question['step']!r} asks {', '.join(seen.question['people'])}: "
            f"firebreak approve {case.id} --by PERSON --reason WHY"
        )
    return ExitCode.CLEAN if seen.status.value == "recovered" else ExitCode.FINDINGS
