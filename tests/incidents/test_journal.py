"""The hash chain: any edit, drop, swap or insert of entries is found, at its place."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firebreak.errors import JournalCorruptError
from firebreak.incidents.journal import GENESIS, Entry, next_entry, verify_chain
from firebreak.records import now, timestamp

BODY = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(-99, 99), max_size=3)


def chain(bodies: list[dict]) -> list[Entry]:
    """A journal with one entry per body."""
    entries: list[Entry] = []
    for body in bodies:
        entries.append(next_entry(entries[-1] if entries else None, "ana", "note", body))
    return entries


def verified(entries: list[Entry]) -> list[Entry]:
    return list(verify_chain("INC-1", entries))


@given(st.lists(BODY, max_size=8))
def test_a_journal_that_nobody_touched_verifies(bodies):
    """Every chain that appending makes is accepted, and survives JSON."""
    entries = chain(bodies)
    assert verified([Entry.from_json(e.to_json()) for e in entries]) == entries


EDITS = {
    "seq": lambda e: e.seq + 1,
    "prev": lambda _: "f" * 64,
    "time": lambda _: "1999-01-01T00:00:00.000Z",
    "actor": lambda e: e.actor + "x",
    "kind": lambda e: e.kind + "x",
    "body": lambda e: {**e.body, "edited": True},
}


@settings(max_examples=300)
@given(st.lists(BODY, min_size=2, max_size=8), st.data())
def test_any_edit_drop_swap_or_insert_is_found(bodies, data):
    """Whatever is done to any entry before the last, the chain no longer verifies.

    The last entry's own content is protected by what follows or by a sealed head, not by the chain;
    dropping the tail likewise.
    """
    entries = chain(bodies)
    at = data.draw(st.integers(0, len(entries) - 2), label="at")
    how = data.draw(st.sampled_from(["edit", "drop", "swap", "insert", "repeat"]), label="how")
    if how == "edit":
        field = data.draw(st.sampled_from(sorted(EDITS)))
        entries[at] = dataclasses.replace(entries[at], **{field: EDITS[field](entries[at])})
    elif how == "drop":
        del entries[at]
    elif how == "swap":
        other = data.draw(st.integers(0, len(entries) - 1).filter(lambda i: i != at))
        entries[at], entries[other] = entries[other], entries[at]
    elif how == "insert":
        before = entries[at - 1] if at else None
        entries.insert(at, next_entry(before, "mallory", "note", {"forged": True}))
    else:
        entries.insert(at, entries[at])
    with pytest.raises(JournalCorruptError) as caught:
        verified(entries)
    assert str(caught.value).startswith("journal of INC-1: entry ")


@given(st.lists(BODY, min_size=1, max_size=6))
def test_a_cut_tail_is_a_valid_journal_with_another_head(bodies):
    """What the chain cannot show, the head shows: that is what sealed heads are for."""
    entries = chain(bodies)
    assert verified(entries[:-1]) == entries[:-1]
    assert entries[-1].hash not in {e.hash for e in entries[:-1]}


def test_the_error_names_the_first_entry_that_does_not_fit():
    """A responder is told where the record stops being one."""
    entries = chain([{"n": n} for n in range(5)])
    entries[2] = dataclasses.replace(entries[2], body={"n": 99})
    with pytest.raises(JournalCorruptError, match=r"entry 3: prev is \w{16}, the entry before"):
        verified(entries)
    kept = []
    with pytest.raises(JournalCorruptError):
        kept.extend(verify_chain("INC-1", entries))


def test_the_hash_covers_every_field():
    """No field can be changed without changing the hash."""
    entry = next_entry(None, "ana", "note", {"n": 1}, now())
    hashes = {dataclasses.replace(entry, **{f: edit(entry)}).hash for f, edit in EDITS.items()}
    assert len(hashes | {entry.hash}) == len(EDITS) + 1


def test_the_first_entry_points_at_nothing():
    """A journal begins with seq 0 and 64 zeros."""
    moment = now()
    entry = next_entry(None, "ana", "note", {}, moment)
    assert (entry.seq, entry.prev, entry.time) == (0, GENESIS, timestamp(moment))


def test_text_that_is_not_utf_8_is_escaped_instead_of_stopping_the_record():
    """An argument or a file name with broken bytes can be journaled."""
    entry = next_entry(None, "an\udce9", "note", {"rea\udcff": ["\ud800"]})
    assert (entry.actor, entry.body) == (r"an\xe9", {r"rea\xff": [r"\ud800"]})
    assert entry.hash
