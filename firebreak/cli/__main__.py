"""Entry point: `firebreak` and `python -m firebreak.cli`."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from firebreak import __version__
from firebreak.cli import approve, baseline, detect, incident, init, respond
from firebreak.cli.output import ExitCode, Output

EPILOG = """\
exit codes: 0 clean or done, 1 findings or waiting for people, 2 error (nothing changed)

example:
  firebreak init && firebreak baseline create sentiment --by ana --reason "release 1.1.0"
  firebreak detect
"""


class UsageError(Exception):
    """Arguments that do not fit; carries the parser that refused them."""

    def __init__(self, refused_by: argparse.ArgumentParser, problem: str) -> None:
        super().__init__(refused_by, problem)
        self.refused_by, self.problem = refused_by, problem


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(self, message)


def parser() -> argparse.ArgumentParser:
    """The whole command line's parser."""
    root = _Parser(
        prog="firebreak",
        description="Respond to AI supply-chain incidents: detect, contain, ask, restore, report.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"firebreak {__version__}")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (init, baseline, detect, respond, approve, incident):
        module.add(commands)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # never die of a character the terminal lacks
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    output = Output(as_json="--json" in given, as_lines="--watch" in given)
    try:
        args = parser().parse_args(given)
    except UsageError as error:
        output.error(error.problem, f"See: {error.refused_by.prog} --help")
        return ExitCode.ERROR
    return _run(args, output)


def _run(args: argparse.Namespace, output: Output) -> int:
    """Run the chosen command; every error becomes one message and exit code 2."""
    from firebreak.errors import FirebreakError

    try:
        return int(args.run(args, output))
    except FirebreakError as error:
        output.error(str(error), error.hint, getattr(error, "__notes__", ()))
        return ExitCode.ERROR
    except BrokenPipeError:  # the reader of our output has gone; say nothing more, at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.ERROR
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        notes = getattr(error, "__notes__", ())
        output.error(
            f"{name}{error.strerror or error}", "Check the path and its permissions.", notes
        )
        return ExitCode.ERROR
    except KeyboardInterrupt:
        output.error("interrupted", "Start the command again; finished work is kept.")
        return 130
    except Exception as error:  # noqa: BLE001 - exit code 1 means findings, so Python's own must not
        import traceback

        trace = traceback.format_exc().splitlines()
        hint = "This is a defect; please report it."
        output.error(f"unexpected {type(error).__name__}", hint, trace)
        return ExitCode.ERROR


if __name__ == "__main__":
    sys.exit(main())
