"""`firebreak baseline create|verify`."""

import argparse
from pathlib import Path

from firebreak.cli.output import ExitCode, Output, add_common, inventory_of


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    command = commands.add_parser(
        "baseline",
        help="make or verify a model's baseline",
        epilog='example:\n  firebreak baseline create sentiment --by ana --reason "release 1.1.0"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = command.add_subparsers(dest="kind", metavar="ACTION", required=True)
    create = kinds.add_parser(
        "create",
        help="seal what the model is now, on purpose",
        description="Hash every file of a model and seal the result as its baseline.",
        epilog='example:\n  firebreak baseline create sentiment --by ana --reason "release 1.1.0"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    create.add_argument("model", help="model id of the inventory")
    create.add_argument("--by", required=True, metavar="PERSON", help="who says it is trusted")
    create.add_argument("--reason", required=True, metavar="TEXT", help="why it is trusted")
    create.add_argument("--replace", action="store_true", help="replace an existing baseline")
    add_common(create)
    create.set_defaults(run=run_create)
    verify = kinds.add_parser(
        "verify",
        help="compare a model with its baseline",
        description="Compare a model with its baseline and print what differs; opens no incident.",
        epilog="example:\n  firebreak baseline verify sentiment",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("model", help="model id of the inventory")
    add_common(verify)
    verify.set_defaults(run=run_verify)


def run_create(args: argparse.Namespace, output: Output) -> ExitCode:
    """Create the baseline; an open incident that only missed it is closed."""
    from firebreak.baselines import adopt
    from firebreak.checks.manifest import baseline_path

    inventory = inventory_of(args)
    model = inventory.model(args.model)
    with output.progress(f"hashing {model.id}", _size(model.path)) as progress:
        baseline = adopt(
            inventory,
            model,
            by=args.by,
            reason=args.reason,
            replace=args.replace,
            progress=progress,
        )
    size = sum(f.size for f in baseline.files)
    output.data(
        {
            "model": model.id,
            "files": len(baseline.files),
            "bytes": size,
            "created": baseline.created,
            "path": str(baseline_path(inventory, model.id)),
        }
    )
    output.line(
        f"sealed baseline of {model.id}: {len(baseline.files)} files, {size:,} bytes", "clean"
    )
    return ExitCode.CLEAN


def run_verify(args: argparse.Namespace, output: Output) -> ExitCode:
    """Compare and print; opens no incident."""
    from firebreak.checks.manifest import compare, load_baseline, look
    from firebreak.cli.detect import print_findings
    from firebreak.errors import BaselineError

    inventory = inventory_of(args)
    model = inventory.model(args.model)
    baseline = load_baseline(inventory, model.id)
    if baseline is None:
        raise BaselineError(model.id, "there is none")
    with output.progress(f"hashing {model.id}", _size(model.path)) as progress:
        findings = compare(baseline, look(model, progress=progress))
    output.data(
        {
            "model": model.id,
            "baseline": baseline.created,
            "by": baseline.by,
            "findings": [f.to_json() for f in findings],
        }
    )
    print_findings(output, findings)
    return ExitCode.FINDINGS if findings else ExitCode.CLEAN


def _size(path: Path) -> int:
    from firebreak.checks.hashing import tree_size

    try:
        return tree_size(path)
    except OSError:
        return 0  # the command itself says what is wrong with the path
