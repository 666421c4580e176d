"""What README and docs say is held against the program: help, commands, links, examples, kinds."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firebreak import yaml_source
from firebreak.cli.__main__ import UsageError, parser
from firebreak.inventory import load_inventory
from firebreak.playbook.schema import FLOWS, TEMPLATES, load_playbook
from firebreak.records import FindingType
from firebreak.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
TOP = ("README.md", "SECURITY.md", "CHANGELOG.md")
PAGES = sorted([*(ROOT / name for name in TOP), *(ROOT / "docs").rglob("*.md")])
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))
KIND = r"[a-z]+\.[a-z_]+"
MAX_ADR_LINES = 60
MAX_IMAGE_BYTES = 300_000
# In two parts each, so that this file does not hold what it looks for.
INDEX_HOSTS = re.compile("|".join(("py" + "pi\\.org", "python" + "hosted\\.org", "/simple" + "/")))
MACHINE_PATHS = re.compile("|".join(("(?<![\\w.-])/work" + "/", "/ro" + "ot/", "/tmp" + "/w")))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def typed(page: Path) -> list[str]:
    """The commands of the console blocks, as somebody would type them."""
    text = "".join(blocks(page, "console"))
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


def mentioned(page: Path) -> list[str]:
    """What stands in running text as code."""
    return re.findall(r"`([^`\n]+)`", without_blocks(page))


def of_program(page_commands: list[str], program: str) -> list[str]:
    return [c for c in page_commands if c == program or c.startswith(f"{program} ")]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def parses(words: list[str]) -> bool:
    try:
        parser().parse_args(words)
    except SystemExit as end:  # --help and --version
        return end.code == 0
    except UsageError:
        return False
    return True


# --- the command line


@pytest.mark.parametrize("command", [(), ("respond",), ("approve",)], ids=str)
def test_help_in_readme_is_what_the_command_prints(command: tuple[str, ...]) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "firebreak.cli", *command, "--help"],
        env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    assert printed.rstrip("\n") + "\n" in blocks(ROOT / "README.md", "text")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_to_type_parse(page: Path) -> None:
    commands = of_program(typed(page), "firebreak")
    assert [c for c in commands if not parses(shlex.split(c, comments=True)[1:])] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_mentioned_exist(page: Path) -> None:
    """`firebreak respond` without its arguments is a mention: the command must exist."""
    wrong = []
    for command in of_program(mentioned(page), "firebreak"):
        words = shlex.split(command)[1:]
        complete = parses(words)
        only_names = not any(word.startswith("-") for word in words)
        if not complete and not (only_names and parses([*words, "--help"])):
            wrong.append(command)
    assert wrong == []


def test_the_checks_of_commands_find_mistakes() -> None:
    assert parses(["approve", "x", "--by", "ana", "--reason", "y"])
    assert not parses(["approve", "x", "--by", "ana"])
    assert not parses(["aprove", "--help"])
    assert not parses(["incident", "shew", "--help"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {c.split()[1] for c in of_program([*typed(page), *mentioned(page)], "make") if " " in c}
    assert named <= targets


# --- links, pictures, length


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", without_blocks(page))
    local = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in local if link and not (page.parent / link).exists()] == []


def test_pictures_are_small_and_fetch_nothing() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < MAX_IMAGE_BYTES, picture.name
        if picture.suffix == ".svg":
            text = picture.read_text()
            assert re.findall(r"url\(['\"]?http|<script|@import", text) == []


@pytest.mark.parametrize("page", ADRS, ids=name_of)
def test_decisions_fit_a_page(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= MAX_ADR_LINES


def test_decisions_are_numbered_without_gaps() -> None:
    assert [page.name[:4] for page in ADRS] == [f"{n:04}" for n in range(1, len(ADRS) + 1)]


# --- examples


@pytest.mark.parametrize("page", ["README.md", "docs/inventory.md"])
def test_inventory_examples_load(page: str, tmp_path: Path) -> None:
    file = tmp_path / "firebreak.yaml"
    file.write_text(blocks(ROOT / page, "yaml")[0])
    assert load_inventory(Settings(inventory=file)).models


def test_the_inventory_example_has_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: set[str] = set()
    given: set[str] = set()
    done = yaml_source.Fields.done

    def note(fields: yaml_source.Fields) -> None:
        known.update(fields._asked)
        given.update(fields.node.value)
        done(fields)

    monkeypatch.setattr(yaml_source.Fields, "done", note)
    page = ROOT / "docs" / "inventory.md"
    file = tmp_path / "firebreak.yaml"
    file.write_text(blocks(page, "yaml")[0])
    load_inventory(Settings(inventory=file))
    assert known - given == set()
    words = {word for code in mentioned(page) for word in re.findall(r"\w+", code)}
    assert known - words == set()


def test_playbook_examples_load(tmp_path: Path) -> None:
    example, gate = blocks(ROOT / "docs" / "playbooks.md", "yaml")
    file = tmp_path / "tampered-model.yaml"
    file.write_text(example)
    playbook = load_playbook(file)
    assert any(step.gate for step in playbook.steps)
    assert gate.strip() in example.replace("    gate:", "gate:")


def test_playbook_page_names_every_word_of_the_language() -> None:
    words = {word for code in mentioned(ROOT / "docs" / "playbooks.md") for word in code.split()}
    assert {*FLOWS, *TEMPLATES, *(t.value for t in FindingType)} <= words


def test_every_variable_is_described() -> None:
    """What the settings read from the environment stands in docs/inventory.md."""
    used = {text for _, text in constants(r"FIREBREAK_[A-Z_]+[A-Z]")}
    assert used <= set(mentioned(ROOT / "docs" / "inventory.md"))
    assert "FIREBREAK_INVENTORY" in used


# --- the journal's kinds


def constants(pattern: str) -> Iterator[tuple[Path, str]]:
    """Every text constant of the source that is wholly a given pattern."""
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(pattern, text):
                yield file, text


def sources() -> list[Path]:
    rooms = (ROOT / name for name in ("firebreak", "flows", "tasks"))
    return sorted(file for room in rooms for file in room.rglob("*.py"))


def texts(node: ast.AST) -> set[str]:
    found = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {v for v in found if isinstance(v, str) and re.fullmatch(KIND, v)}


def written_kinds(file: Path) -> set[str]:
    """The kinds a module gives to append, append_after or next_entry, also by a name for them."""
    tree = ast.parse(file.read_text())
    named: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            for name in (n.id for n in ast.walk(target) if isinstance(n, ast.Name)):
                named.setdefault(name, set()).update(texts(node.value))
    kinds: set[str] = set()
    for argument in (a for node in ast.walk(tree) if writes(node) for a in node.args):
        if isinstance(argument, ast.Constant | ast.IfExp):
            kinds |= texts(argument)
        elif isinstance(argument, ast.Name):
            kinds |= named.get(argument.id, set())
    return kinds


def writes(node: ast.AST) -> bool:
    """Whether this is a call that writes to a journal (or, harmlessly, to a list)."""
    called = node.func if isinstance(node, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in ("append", "append_after", "next_entry")


def test_every_kind_that_is_written_is_listed_and_none_besides() -> None:
    page = (ROOT / "docs" / "journal.md").read_text().partition("## Kinds")[2].partition("\n## ")[0]
    listed = set(re.findall(rf"^\| `({KIND})` \|", page, re.MULTILINE))
    written = set().union(*(written_kinds(file) for file in sources()))
    assert {"finding.added", "response.resumed", "restore.intent", "gate.shown"} <= written
    assert listed == written


# --- what must stand nowhere


def tracked() -> list[Path]:
    """The files of the checkout that git tracks or would."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    files = (ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name)
    return sorted({f for f in files if f.is_file() and not f.is_symlink()})


@pytest.mark.parametrize("forbidden", [INDEX_HOSTS, MACHINE_PATHS], ids=["hosts", "paths"])
def test_no_index_host_and_no_machine_path(forbidden: re.Pattern[str]) -> None:
    found = []
    for file in tracked():
        raw = file.read_bytes()
        if b"\0" in raw:
            continue
        for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
            if match := forbidden.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []
