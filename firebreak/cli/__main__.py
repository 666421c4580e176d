"""Entry point: `firebreak` and `python -m firebreak.cli`."""

import argparse
import sys
from collections.abc import Sequence

from firebreak import __version__
from firebreak.cli import approve, baseline, detect, incident, init, respond
from firebreak.cli.output import ExitCode, Output

EPILOG = """\
exit codes: 0 clean or done, 1 findings or waiting for people, 2 error (nothing changed)

example:
  firebreak init && firebreak baseline create sentiment --by ana --reason "release 1.1.0"
  firebreak detect
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line's parser."""
    root = argparse.ArgumentParser(
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
    from firebreak.errors import FirebreakError

    args = parser().parse_args(arguments)
    output = Output(as_json=args.json)
    try:
        return int(args.run(args, output))
    except FirebreakError as error:
        output.error(str(error), error.hint)
        return ExitCode.ERROR
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; say nothing more
        return ExitCode.ERROR
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        output.error(f"{name}{error.strerror or error}", "Check the path and its permissions.")
        return ExitCode.ERROR
    except KeyboardInterrupt:
        output.error("interrupted", "Start the command again; finished work is kept.")
        return 130
    except Exception as error:  # noqa: BLE001 - exit code 1 means findings, so Python's own must not
        import traceback

        traceback.print_exc()
        output.error(f"unexpected {type(error).__name__}", "This is a defect; please report it.")
        return ExitCode.ERROR


if __name__ == "__main__":
    sys.exit(main())
