"""`firebreak approve`: answer the question that stands."""

import argparse

from firebreak.cli.output import ExitCode, Output, add_common, inventory_of


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "approve",
        help="approve or reject what an incident's gate asks",
        description="Answer the question that stands. It is printed first; the answer is bound to "
        "its digest, and the run that waits goes on.",
        epilog='example:\n  firebreak approve INC-20260102-0a1b2c --by ana --reason "checked"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("incident", help="incident id, or a model id with an open incident")
    command.add_argument("--by", required=True, metavar="PERSON", help="your id in the inventory")
    command.add_argument("--reason", required=True, metavar="TEXT", help="why; goes on record")
    command.add_argument("--reject", action="store_true", help="reject: the response is held")
    command.add_argument(
        "--digest",
        metavar="HEX",
        help="digest of the question you read; refused when it is another one now",
    )
    add_common(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Take the answer and wake the run that waits for it."""
    from firebreak import prefect_bridge as bridge
    from firebreak.errors import ServerError
    from firebreak.playbook.question import as_text
    from firebreak.response import answer_gate, find_case, standing_question

    case = find_case(inventory_of(args), args.incident)
    question = standing_question(case)
    output.line(as_text(case, question))
    decision = "reject" if args.reject else "approve"
    taken = answer_gate(
        case,
        question,
        decision=decision,
        by=args.by,
        reason=args.reason,
        digest=args.digest,
        playbooks=bridge.playbook_folder(),
    )
    try:
        woken = bridge.wake(
            case,
            question["step"],
            {"decision": decision, "approver": args.by, "reason": args.reason},
        )
    except ServerError as error:  # the answer is on record; only the waiting run was not reached
        output.error(f"{error}", "The answer is taken; only the run that waits was not woken.")
        woken = False
    output.data(
        {
            "incident": case.id,
            "step": question["step"],
            "decision": decision,
            "why": taken.why,
            "run_resumed": woken,
        }
    )
    output.line(taken.why, "clean")
    if not woken:
        output.line(f"go on with: firebreak respond {case.id}")
    return ExitCode.CLEAN
