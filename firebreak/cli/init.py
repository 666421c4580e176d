"""`firebreak init`: write an inventory to start from."""

import argparse
import os
from pathlib import Path

from firebreak.cli.output import ExitCode, Output


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "init",
        help="write firebreak.yaml, new or from an earlier monitor's config.json",
        description="Write an inventory and create the key that seals evidence.",
        epilog="example:\n  firebreak init --from config.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="CONFIG.JSON",
        help="import the JSON configuration of the earlier monitor scripts",
    )
    command.add_argument("--json", action="store_true", help="print JSON for machines")
    command.add_argument(
        "--inventory",
        type=Path,
        default=Path("firebreak.yaml"),
        metavar="FILE",
        help="where to write it (default: firebreak.yaml); never overwritten",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Write the inventory, prove that it loads, create the key."""
    from firebreak.errors import SourceError
    from firebreak.importing import import_config, new_inventory
    from firebreak.incidents.case import open_sealer
    from firebreak.inventory import parse_inventory
    from firebreak.settings import load_settings
    from firebreak.yaml_source import parse_yaml

    text, notes = import_config(args.source) if args.source else (new_inventory(), [])
    file = Path(os.path.abspath(args.inventory))
    source = str(args.source) if args.source else str(file)
    # Proven before it is written: what does not load leaves nothing behind.
    root = parse_yaml(text.encode("utf-8", "surrogatepass"), source)
    inventory = parse_inventory(root, file, load_settings(args.inventory))
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        problem, fix = "exists already and is never overwritten", "name another with --inventory"
        raise SourceError(str(file), problem, fix) from error
    try:
        sealer = open_sealer(inventory)
    except BaseException:
        file.unlink()  # an inventory without its key would keep the next `init` from making one
        raise
    output.data(
        {
            "inventory": str(inventory.file),
            "home": str(inventory.home),
            "models": [m.id for m in inventory.models],
            "notes": notes,
            "key_id": sealer.key_id,
        }
    )
    output.line(f"wrote {inventory.file} with {len(inventory.models)} models", "clean")
    for note in notes:
        output.line(f"note: {note}", "medium")
    output.line("next: firebreak baseline create MODEL --by YOU --reason WHY")
    return ExitCode.CLEAN
