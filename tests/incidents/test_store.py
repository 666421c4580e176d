"""The store: several writers, one open incident per subject, and nothing unseen in the database."""

import multiprocessing
import sqlite3
import time
from pathlib import Path

import pytest

from firebreak.errors import (
    JournalContendedError,
    JournalCorruptError,
    StoreError,
    UnknownIncidentError,
)
from firebreak.incidents import store as store_module
from firebreak.incidents.journal import verify_chain
from firebreak.incidents.store import Store

APART = multiprocessing.get_context("forkserver")  # no connection is carried across a fork
APART.set_forkserver_preload(["firebreak.incidents.store"])
WRITERS, EACH = 8, 50


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'state' / 'firebreak.db'}"


def append_many(address: str, incident: str, writer: int, start: float) -> None:
    """One writer process."""
    store = Store(address)
    time.sleep(max(0.0, start - time.time()))
    for n in range(EACH):
        store.append(incident, f"writer-{writer}", "note", {"n": n})


def open_one(address: str, start: float, results) -> None:
    """One detector process."""
    time.sleep(max(0.0, start - time.time()))
    results.put(Store(address).open_incident("chat", "detector", {}))


def run_together(target, arguments: list[tuple]) -> None:
    processes = [APART.Process(target=target, args=a) for a in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [p.exitcode for p in processes] == [0] * len(processes)


def test_eight_processes_append_and_nothing_is_lost_or_forked(tmp_path):
    """400 entries of eight writers: each there once, in each writer's order, in one chain."""
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    start = time.time() + 1
    run_together(append_many, [(url(tmp_path), incident, w, start) for w in range(WRITERS)])
    entries = list(verify_chain(incident, store.entries(incident)))
    assert len(entries) == 1 + WRITERS * EACH
    for writer in range(WRITERS):
        own = [e.body["n"] for e in entries if e.actor == f"writer-{writer}"]
        assert own == list(range(EACH))


def test_eight_processes_open_exactly_one_incident(tmp_path):
    """Detectors that see the same thing at the same moment, in a store that none has made yet."""
    results = APART.Queue()
    start = time.time() + 1
    run_together(open_one, [(url(tmp_path), start, results)] * WRITERS)
    outcomes = [results.get(timeout=5) for _ in range(WRITERS)]
    assert len({incident for incident, _ in outcomes}) == 1
    assert [opened for _, opened in outcomes].count(True) == 1
    assert len(Store(url(tmp_path)).incidents()) == 1


def test_a_closed_incident_is_followed_by_a_new_one(tmp_path):
    """The subject's next finding is another incident, and the old one stays in the list."""
    store = Store(url(tmp_path))
    first, _ = store.open_incident("chat", "test", {})
    assert store.open_incident("chat", "test", {}) == (first, False)
    store.close_incident(first)
    closed_at = store.incident(first).closed_at
    store.close_incident(first)
    assert store.incident(first).closed_at == closed_at
    second, opened = store.open_incident("chat", "test", {})
    assert opened
    assert {row.id for row in store.incidents()} == {first, second}
    assert store.open_incident_of("chat") == second


def test_subjects_have_incidents_of_their_own(tmp_path):
    """Two models in trouble are two incidents."""
    store = Store(url(tmp_path))
    assert store.open_incident("chat", "t", {})[0] != store.open_incident("fraud", "t", {})[0]


def test_an_entry_goes_only_after_the_one_its_writer_knew(tmp_path):
    """A writer that looked before somebody else wrote is told, and nothing is written."""
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    (last,) = store.entries(incident)
    written = store.append_after(last, incident, "a", "note", [{"n": 1}, {"n": 2}])
    assert [e.seq for e in written or []] == [1, 2]
    assert store.append_after(last, incident, "b", "note", [{"n": 3}, {"n": 4}]) is None
    assert store.append_after(last, incident, "b", "note", []) == []
    assert [e.actor for e in store.entries(incident)] == ["test", "a", "a"]


def test_a_writer_that_never_finds_a_place_says_so(tmp_path, monkeypatch):
    """Endless contention ends in one clear error; what was written stays valid."""
    monkeypatch.setattr(store_module, "APPEND_ATTEMPTS", 3)
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    first = next(store.entries(incident))
    store.append(incident, "test", "note", {})
    monkeypatch.setattr(Store, "last", lambda *_: first)
    with pytest.raises(JournalContendedError, match="no free place after 3 attempts"):
        store.append(incident, "test", "note", {})


@pytest.mark.parametrize("call", ["incident", "entries", "append"])
def test_an_unknown_incident_is_named_with_the_store(tmp_path, call):
    """The error shows where was looked."""
    store = Store(url(tmp_path))
    calls = {
        "incident": lambda: store.incident("INC-0"),
        "entries": lambda: list(store.entries("INC-0")),
        "append": lambda: store.append("INC-0", "a", "b", {}),
    }
    with pytest.raises(UnknownIncidentError, match=r"no incident 'INC-0' in sqlite:.*firebreak.db"):
        calls[call]()


CORRUPTIONS = {
    "another body": """replace(entry, '"n":1', '"n":9')""",
    "no JSON": "'{'",
    "a list": "'[]'",
    "a missing field": "'{\"seq\":2}'",
    "a number no digest covers": """replace(entry, '"n":1', '"n":9007199254740999')""",
    "bytes that are not UTF-8": "cast(x'ff' as text)",
    "a blob": "x'00ff'",
    "deep nesting": "printf('%.*c', 100000, '[')",
    "a lone surrogate": """replace(entry, '"n":1', '"n":"\\ud800"')""",
}


@pytest.mark.parametrize("value", CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_a_corrupted_row_is_found_and_named(tmp_path, value):
    """Whatever stands in the row, the error is the journal's and names incident and entry."""
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    for n in range(3):
        store.append(incident, "test", "note", {"n": n})
    with sqlite3.connect(tmp_path / "state" / "firebreak.db") as db:
        db.execute(f"update entries set entry = {value} where seq = 2")
    with pytest.raises(JournalCorruptError) as caught:
        list(verify_chain(incident, store.entries(incident)))
    assert str(caught.value).startswith(f"journal of {incident}: entry 2: ")


@pytest.mark.parametrize(
    ("statement", "entry"),
    [
        ("delete from entries where seq = 1", 1),
        ("update entries set seq = 7 where seq = 3", 7),
        ("update entries set hash = 'aa' where seq = 1", 1),
        ("update entries set entry = (select entry from entries where seq = 2), "
         "hash = (select hash from entries where seq = 2) where seq = 1", 1),
    ],
)  # fmt: skip
def test_a_moved_or_missing_row_is_found(tmp_path, statement, entry):
    """Rows cannot be dropped or put elsewhere unseen, even with their hash."""
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    for n in range(3):
        store.append(incident, "test", "note", {"n": n})
    with sqlite3.connect(tmp_path / "state" / "firebreak.db") as db:
        db.execute(statement)
    with pytest.raises(JournalCorruptError) as caught:
        list(verify_chain(incident, store.entries(incident)))
    assert caught.value.args[1] == entry


CUTS = [
    ("delete from entries where seq > 1", "entry 2: the journal ends at 1, 4 were written"),
    ("delete from entries", "entry 0: the journal is empty, 4 were written"),
    ("update incidents set head_seq = 1", "entry 4: the journal ends at 3, 2 were written"),
    ("update incidents set head_seq = 'x'", "entry 4: the journal ends at 3, x were written"),
    ("update incidents set head_hash = 7", "entry 3: hashes to .*, written last was 7"),
    ("update incidents set head_hash = 'aa'", "entry 3: hashes to .*, written last was aa"),
]


@pytest.mark.parametrize(("statement", "problem"), CUTS)
def test_a_journal_that_was_cut_or_emptied_is_found_by_readers_and_writers(
    tmp_path, statement, problem
):
    """The newest head is kept apart: a shorter chain, valid in itself, is not the journal."""
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    for n in range(3):
        store.append(incident, "test", "note", {"n": n})
    with sqlite3.connect(tmp_path / "state" / "firebreak.db") as db:
        db.execute(statement)
    for use in (
        lambda: list(store.entries(incident)),
        lambda: store.last(incident),
        lambda: store.append(incident, "test", "note", {}),
    ):
        with pytest.raises(JournalCorruptError, match=problem):
            use()


def test_an_emptied_journal_is_found_though_its_kept_head_was_edited_too(tmp_path):
    """Every incident has at least the entry that opened it."""
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    with sqlite3.connect(tmp_path / "state" / "firebreak.db") as db:
        db.execute("delete from entries")
        db.execute("update incidents set head_seq = -1")
    for use in (lambda: list(store.entries(incident)), lambda: store.last(incident)):
        with pytest.raises(JournalCorruptError, match="entry 0: the journal is empty"):
            use()


def test_a_cut_while_a_writer_holds_the_old_end_is_found(tmp_path):
    """A writer that knows the end from before the cut, or one made up, writes nothing."""
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    (first,) = store.entries(incident)
    store.append(incident, "test", "note", {})
    with sqlite3.connect(tmp_path / "state" / "firebreak.db") as db:
        db.execute("delete from entries where seq = 1")
    with pytest.raises(JournalCorruptError, match="entry 0 is not the head written last"):
        store.append_after(first, incident, "a", "note", [{"n": 1}])
    with sqlite3.connect(tmp_path / "state" / "firebreak.db") as db:
        assert db.execute("select count(*) from entries").fetchone() == (1,)


def test_nothing_is_appended_to_a_corrupted_end(tmp_path):
    """A new entry never vouches for a damaged one."""
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    with sqlite3.connect(tmp_path / "state" / "firebreak.db") as db:
        db.execute("""update entries set entry = replace(entry, 'test', 'tset')""")
    with pytest.raises(JournalCorruptError):
        store.append(incident, "test", "note", {})


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("incidents", "address that is no URL"),
        ("nosuch://host/db", "Can't load plugin"),
        ("sqlite:////proc/nowhere/x.db", "No such file"),
        ("sqlite:////etc/passwd", "file is not a database"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_clear_error(address, problem):
    """Whatever the database library raises, an operator reads the address and the reason."""
    with pytest.raises(StoreError, match=problem):
        Store(address).incidents()


def test_a_password_in_the_address_is_not_shown(tmp_path):
    """Errors land in logs."""
    with pytest.raises(StoreError) as caught:
        Store("nosuch://robot:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


def test_a_password_in_the_place_of_a_port_is_not_shown():
    """What cannot be parsed is not repeated in the parser's words either."""
    with pytest.raises(StoreError, match="address that is no URL") as caught:
        Store("postgresql://robot:hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_store_that_breaks_later_is_one_clear_error(tmp_path):
    """Tables that are gone do not become a traceback, and no statement or value is shown."""
    store = Store(url(tmp_path))
    incident, _ = store.open_incident("chat", "test", {})
    with sqlite3.connect(tmp_path / "state" / "firebreak.db") as db:
        db.execute("drop table entries")
    with pytest.raises(StoreError, match="no such table: entries") as caught:
        store.append(incident, "test", "note", {"secret": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_the_state_folder_is_private(tmp_path):
    """Nobody but the owner can list it."""
    Store(url(tmp_path))
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
