"""The playbook language: what it accepts, and one exact error for everything else."""

import os
import re
from datetime import timedelta
from pathlib import Path

import pytest

from firebreak.errors import SourceError
from firebreak.playbook.schema import FLOWS, Playbook, Step, load_playbook
from playbook_cases import PLAYBOOKS, SMALL, TAMPERED, playbook

INVALID = Path(__file__).parents[1] / "playbooks" / "invalid"
UPDATE = os.environ.get("UPDATE_GOLDENS") == "1"  # rewrites the error texts instead of comparing


@pytest.mark.parametrize("file", sorted(INVALID.glob("*.yaml")), ids=lambda f: f.stem)
def test_an_invalid_playbook_gets_its_one_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names file, line, column and what to write; UPDATE_GOLDENS=1 refreshes it."""
    monkeypatch.chdir(INVALID)
    with pytest.raises(SourceError) as caught:
        load_playbook(Path(file.name))
    found = f"{caught.value}\n"
    golden = file.with_suffix(".txt")
    if UPDATE:
        golden.write_text(found)
    assert found == golden.read_text()
    assert found.startswith(file.name)


def test_every_golden_error_has_its_playbook() -> None:
    """No error text is left over from a playbook that is gone."""
    assert {f.stem for f in INVALID.glob("*.txt")} == {f.stem for f in INVALID.glob("*.yaml")}


def test_almost_every_error_names_line_and_column() -> None:
    """Only a file without any content has no line to name."""
    placed = {
        file.stem
        for file in INVALID.glob("*.txt")
        if re.match(r"\w+\.yaml:\d+:\d+: ", file.read_text())
    }
    everything = {file.stem for file in INVALID.glob("*.yaml")}
    assert everything - placed == {"empty_file", "only_a_comment"}


@pytest.mark.parametrize("file", sorted(PLAYBOOKS.glob("*.yaml")), ids=lambda f: f.stem)
def test_every_shipped_playbook_loads(file: Path) -> None:
    """What we ship is valid, named as its file, and triggered by something."""
    loaded = load_playbook(file)
    assert (loaded.name, bool(loaded.triggers)) == (file.stem, True)


def test_the_tampered_model_playbook_says_what_the_design_says() -> None:
    """Evidence first; a gate before stopping and one before the rollback; silence holds there."""
    book = load_playbook(TAMPERED)
    assert book.steps[0].flow == "triage"
    assert not book.steps[0].after
    assert all("assess" in _ancestors(book, step) for step in book.steps[1:])
    assert book.gates_of(book.step("stop")) == ("stop-approval",)
    assert book.gates_of(book.step("rollback")) == ("rollback-approval",)
    gate = book.step("rollback-approval").gate
    assert gate is not None
    assert (gate.otherwise, gate.timeout) == ("hold", timedelta(hours=4))
    assert book.step("rollback").on_failure == "hold"


def test_comments_and_layout_do_not_change_the_digest(tmp_path: Path) -> None:
    """Two files that say the same have the same digest."""
    spaced = "# why\n" + SMALL.replace("version: 1", "version:   1")
    assert playbook(tmp_path, spaced).digest == playbook(tmp_path).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("quorum: 1", "quorum: 2"),
        ("timeout: 4h", "timeout: 8h"),
        ("otherwise: hold", "otherwise: escalate"),
        ("last-known-good", "other"),
        ("version: 1", "version: 2"),
        ("[ml-oncall, security-lead]", "[ml-oncall]"),
        ("on_failure: hold", "on_failure: stop"),
    ],
)
def test_every_change_of_content_changes_the_digest(tmp_path: Path, old: str, new: str) -> None:
    """A running response can tell that its playbook was edited."""
    assert playbook(tmp_path, SMALL.replace(old, new)).digest != playbook(tmp_path).digest


def test_a_null_counts_as_absent(tmp_path: Path) -> None:
    """`after:` with nothing behind it is no predecessor."""
    book = playbook(
        tmp_path,
        "playbook: p\nversion: 1\ntitle: t\nsteps:\n- {id: a, flow: triage, after: ~, when: }\n",
    )
    assert (book.steps[0].after, book.steps[0].when) == ((), None)


def test_no_flow_takes_code() -> None:
    """A playbook chooses from a fixed list of flows, and each parameter has its reader."""
    assert set(FLOWS) == {"triage", "contain", "investigate", "communicate", "recover"}


def test_descendants_and_gates_of_a_step() -> None:
    """An action needs the gates further up, until another gate; a message only its own."""
    book = _book(
        ("g1", "gate", ()),
        ("a", "contain", ("g1",)),
        ("b", "contain", ("a",)),
        ("tell", "communicate", ("a",)),
        ("g2", "gate", ("b",)),
        ("c", "recover", ("g2",)),
    )
    assert book.descendants("g1") == {"a", "b", "tell", "g2", "c"}
    assert book.descendants("c") == frozenset()
    assert book.gates_of(book.step("b")) == ("g1",)
    assert book.gates_of(book.step("tell")) == ()
    assert book.gates_of(book.step("c")) == ("g2",)


def test_two_thousand_steps_in_reverse_order_are_no_denial_of_service(tmp_path: Path) -> None:
    """The largest playbook, written backwards, is read and walked through at once."""
    lines = [f"- {{id: s{i}, flow: triage, after: [s{i - 1}]}}" for i in range(1999, 0, -1)]
    text = "\n".join(["playbook: p", "version: 1", "title: t", "steps:", *lines])
    book = playbook(tmp_path, f"{text}\n- {{id: s0, flow: triage}}\n")
    assert len(book.descendants("s0")) == 1999


def test_an_unknown_step_is_a_key_error(tmp_path: Path) -> None:
    """Asking a playbook for a step it lacks is a programmer's error."""
    with pytest.raises(KeyError):
        playbook(tmp_path).step("nothing")


def _book(*steps: tuple[str, str, tuple[str, ...]]) -> Playbook:
    gate = load_playbook(TAMPERED).step("rollback-approval").gate
    made = tuple(
        Step(i, None if flow == "gate" else flow, gate if flow == "gate" else None, after)
        for i, flow, after in steps
    )
    return Playbook("p", 1, "t", (), made, "d")


def _ancestors(book: Playbook, step: Step) -> set[str]:
    return {s.id for s in book.steps if step.id in book.descendants(s.id)}
