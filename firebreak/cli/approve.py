"""`firebreak approve`: answer the question that stands."""

import argparse
from typing import TYPE_CHECKING

from firebreak.cli.output import ExitCode, Output, add_common, inventory_of

if TYPE_CHECKING:
    from firebreak.incidents.case import Case
    from firebreak.records import Json


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
    from firebreak.playbook.question import as_text
    from firebreak.response import answer_gate, find_case, question_is_stale, standing_question

    case = find_case(inventory_of(args), args.incident)
    question = standing_question(case)
    output.line(as_text(case, question))
    answer = {
        "decision": "reject" if args.reject else "approve",
        "approver": args.by,
        "reason": args.reason,
    }
    if question_is_stale(case, question, bridge.playbook_folder()):
        return _ask_anew(case, question, answer, output)
    taken = answer_gate(
        case,
        question,
        decision=answer["decision"],
        by=args.by,
        reason=args.reason,
        digest=args.digest,
        playbooks=bridge.playbook_folder(),
    )
    woken = _wake(case, question, answer, output)
    output.data(
        {
            "incident": case.id,
            "step": question["step"],
            "decision": answer["decision"],
            "why": taken.why,
            "run_resumed": woken,
        }
    )
    output.line(taken.why, "clean")
    if not woken:
        output.line(f"go on with: firebreak respond {case.id} --by PERSON")
    return ExitCode.CLEAN


def _ask_anew(case: "Case", question: "Json", answer: "Json", output: Output) -> ExitCode:
    """Nobody can answer a question that the facts have overtaken: have it asked again."""
    woken = _wake(case, question, answer, output)
    next_move = (
        f"it is being asked anew: firebreak incident show {case.id}"
        if woken
        else f"have it asked anew: firebreak respond {case.id} --by PERSON"
    )
    output.error(
        f"{case.id}, gate {question['step']!r}: the evidence changed since this was asked; "
        "your answer does not count",
        next_move,
    )
    return ExitCode.ERROR


def _wake(case: "Case", question: "Json", answer: "Json", output: Output) -> bool:
    """Wake the run that waits; what it is given only wakes it, the journal decides."""
    from firebreak import prefect_bridge as bridge
    from firebreak.errors import ServerError

    try:
        return bridge.wake(case, question["step"], answer)
    except ServerError as error:
        output.error(f"{error}", "The run that waits was not woken; the journal is right.")
        return False
