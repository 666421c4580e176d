"""What holds for every command: help, JSON, exit codes, lightness, clean pipes."""

import argparse
import json
import os
import subprocess
import sys

import pytest

from firebreak.cli.__main__ import main, parser


def all_parsers(root: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parser and every command's below it."""
    found = [root]
    for action in root._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += all_parsers(child)
    return found


PARSERS = all_parsers(parser())


@pytest.mark.parametrize("command", PARSERS, ids=lambda p: p.prog)
def test_every_help_shows_an_example(command):
    """A responder under stress copies a line instead of reading a synopsis."""
    assert "example" in command.format_help()
    example = command.epilog.splitlines()[-1].strip()
    assert example.startswith("firebreak ")


@pytest.mark.parametrize("command", PARSERS, ids=lambda p: p.prog)
def test_every_example_can_be_parsed(command):
    """The line that is copied works."""
    import shlex

    for line in command.epilog.splitlines():
        for part in line.split(" && "):
            if part.strip().startswith("firebreak "):
                parser().parse_args(shlex.split(part)[1:])


@pytest.mark.parametrize("command", PARSERS, ids=lambda p: p.prog)
def test_every_command_knows_json_and_inventory(command):
    """All of them can be used by machines and from any folder."""
    if any(isinstance(a, argparse._SubParsersAction) for a in command._actions):
        return
    options = {o for a in command._actions for o in a.option_strings}
    assert {"--json", "--inventory"} <= options


def test_help_is_light():
    """`--help` loads nothing heavy; it answers at once on a node in trouble."""
    code = (
        "import sys\n"
        "from firebreak.cli.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'prefect', 'numpy', 'docker', 'sqlalchemy', 'sigstore', 'requests', 'jinja2', "
        "'cryptography', 'rich', 'psutil', 'yaml', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"
    assert "exit codes: 0 clean or done, 1 findings" in ran.stdout


WRONG_USE = [
    (),
    ("nosuch",),
    ("baseline",),
    ("baseline", "create"),
    ("baseline", "create", "chat"),
    ("detect", "--nosuch"),
    ("incident", "show"),
    ("incident", "nosuch"),
    ("approve", "INC-1"),
]


@pytest.mark.parametrize("arguments", WRONG_USE, ids=" ".join)
def test_wrong_use_is_an_error_with_the_help_to_read(cli, arguments):
    """Exit 2; with --json the error is JSON as well."""
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert "--help" in ran.err
    machine = cli(*arguments, "--json")
    assert machine.code == 2
    assert machine.error["error"]


NEED_INVENTORY = [
    ("baseline", "create", "chat", "--by", "ana", "--reason", "x"),
    ("baseline", "verify", "chat"),
    ("detect",),
    ("detect", "--watch"),
    ("incident", "list"),
    ("incident", "show", "INC-1"),
    ("incident", "export", "INC-1"),
    ("incident", "verify", "INC-1"),
    ("approve", "INC-1", "--by", "ana", "--reason", "evidence is safe"),
    ("respond", "INC-1", "--by", "ana"),
]


@pytest.mark.parametrize("arguments", NEED_INVENTORY, ids=" ".join)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "firebreak.yaml: cannot be read: No such file or directory"),
        ("firebreak: 1\nmodels: [", "firebreak.yaml:2:10: not valid YAML"),
    ],
    ids=["missing", "broken"],
)
def test_an_inventory_that_cannot_be_used_is_one_json_error_for_every_command(
    cli, world, arguments, text, message
):
    """File, line and column where there are any; exit 2; nothing on standard output."""
    if text is None:
        world.file.unlink()
    else:
        world.file.write_text(text)
    ran = cli(*arguments, "--json")
    assert ran.code == 2
    assert message in ran.error["error"]
    assert ran.error["hint"]


NEED_STORE = [
    a for a in NEED_INVENTORY if a[:2] not in (("baseline", "verify"), ("detect", "--watch"))
]


@pytest.mark.parametrize("arguments", NEED_STORE, ids=" ".join)
def test_a_store_that_cannot_be_opened_is_one_json_error_for_every_command(cli, world, arguments):
    """Exit 2 with the address and the reason, and no baseline is left behind."""
    world.file.write_text(world.file.read_text() + "database_url: nosuch://robot:hunter2@x/db\n")
    ran = cli(*arguments, "--json")
    assert ran.code == 2
    told = json.loads(ran.err)["error"]  # detect prints what it saw as well
    assert "incident store nosuch://robot:***@x/db: Can't load plugin" in told
    assert not (world.root / ".firebreak" / "baselines").exists()


@pytest.mark.parametrize("command", ["respond", "approve"])
def test_an_unknown_incident_is_refused_without_a_server(cli, command):
    """Exit 2 before anything of Prefect is needed."""
    more = ("--by", "ana", "--reason", "evidence is safe")
    ran = cli(command, "INC-0", *more, "--json")
    assert ran.code == 2
    assert "no incident 'INC-0'" in ran.error["error"]


def test_approving_when_nobody_was_asked_is_an_error(cli, world):
    """Exit 2: there is no question to answer."""
    case = world.incident()
    ran = cli("approve", case.id, "--by", "ana", "--reason", "evidence is safe", "--json")
    assert ran.code == 2
    assert "no question stands" in ran.error["error"]


def test_a_defect_is_an_error_and_not_a_finding(cli, monkeypatch):
    """Python's own exit code 1 would mean findings; with --json the trace is inside the JSON."""
    from firebreak.incidents import store

    def broken(_self):
        raise ZeroDivisionError("defect")

    monkeypatch.setattr(store.Store, "incidents", broken)
    ran = cli("incident", "list", "--json")
    assert ran.code == 2
    assert ran.error["error"] == "unexpected ZeroDivisionError"
    assert any("defect" in line for line in ran.error["notes"])
    assert cli("incident", "list").code == 2


def test_an_interrupt_is_said_and_has_its_own_exit_code(cli, monkeypatch):
    """As a shell expects it."""
    from firebreak.incidents import store

    def interrupted(_self):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.Store, "incidents", interrupted)
    assert cli("incident", "list").code == 130


def run_in(world, *arguments: str, **more) -> "subprocess.CompletedProcess[bytes]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    return subprocess.run(
        [sys.executable, "-m", "firebreak.cli", *arguments],
        cwd=world.root,
        env=environment | more.pop("env", {}),
        capture_output=True,
        check=False,
        **more,
    )


def test_arguments_that_are_not_utf_8_end_in_a_message(world):
    """No traceback, whatever bytes a shell passes on, also with an ASCII terminal."""
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    create = ("baseline", "create")
    ran = run_in(
        world, *create, b"ch\xff\xc3\xa9t", "--by", b"\xff", "--reason", b"\xe9", env=ascii_only
    )
    assert ran.returncode == 2
    assert b"unknown model" in ran.stderr
    assert b"Traceback" not in ran.stderr
    ran = run_in(world, "detect", "--inventory", b"\xff.yaml", "--json")
    assert ran.returncode == 2
    assert "cannot be read" in json.loads(ran.stderr)["error"]
    refused = run_in(world, *create, "chat", "--by", b"\xff", "--reason", "checked", env=ascii_only)
    assert refused.returncode == 2
    assert b"unknown person" in refused.stderr
    by = ("--by", "ana", "--reason", b"\xff" + "é".encode())
    ran = run_in(world, *create, "chat", *by, "--json", env=ascii_only)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert json.loads(ran.stdout)["files"] == 3


def test_a_reader_that_goes_away_is_no_noise(world):
    """`firebreak … | head` leaves no traceback behind."""
    for n in range(30):
        world.incident(f"subject-{n}")
    command = [sys.executable, "-m", "firebreak.cli", "incident", "list"]
    ran = subprocess.run(
        ["bash", "-c", '"$@" | true; echo "${PIPESTATUS[0]}"', "-", *command],
        cwd=world.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == ""
    assert ran.stdout.strip() in ("1", "2")


def test_the_version_is_printed(capsys):
    """Exit 0, one line."""
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("firebreak ")
