"""`firebreak incident list|show|export|verify`."""

import json
import shutil
import sqlite3

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from small_world import tampered


@pytest.fixture
def case(world):
    """An incident about `chat` with a finding and evidence."""
    case = world.incident()
    case.add_findings([tampered()])
    case.add_evidence("logs", "log", b"x" * 100, "/log", "text/plain")
    return case


def test_no_incidents_is_clean(cli):
    """Exit 0; JSON is an empty list."""
    assert (cli("incident", "list").code, cli("incident", "list").out) == (0, "no incidents\n")
    assert cli("incident", "list", "--json").data == []


def test_an_open_incident_is_listed_and_shown(cli, case):
    """Exit 1 while it is not over; a model's id names its open incident."""
    listed = cli("incident", "list", "--json")
    assert (listed.code, listed.data[0]["id"], listed.data[0]["status"]) == (1, case.id, "open")
    assert f"{case.id}\topen\tcritical\tchat\t" in cli("incident", "list").out
    for name in (case.id, "chat"):
        shown = cli("incident", "show", name, "--json")
        assert (shown.code, shown.data["id"]) == (1, case.id)
        assert [e["seq"] for e in shown.data["journal"]] == [0, 1, 2, 3]
    assert "weights differ" in cli("incident", "show", "chat").out


def test_a_closed_incident_is_over(cli, case):
    """Exit 0 again."""
    case.append("incident.closed", {"by": "ana", "reason": "x"})
    case.store.close_incident(case.id)
    assert cli("incident", "list").code == 0
    assert cli("incident", "show", case.id).code == 0


@pytest.mark.parametrize("action", ["show", "export", "verify"])
def test_an_unknown_incident_is_named(cli, world, action):
    """Exit 2 and how to list them."""
    ran = cli("incident", action, "INC-0", "--json")
    assert ran.code == 2
    assert "no incident 'INC-0'" in ran.error["error"]
    assert ran.error["hint"] == "List them with: firebreak incident list"


def test_a_bundle_is_exported_and_verifies_with_nothing_else_there(cli, case, world):
    """Exit 0 with and without the key; without it the signer is said to be unproven."""
    made = cli("incident", "export", case.id, "--to", "i.tar", "--json")
    assert (made.code, made.data["path"]) == (0, "i.tar")
    key = case.inventory.evidence_key.with_suffix(".pub")
    shutil.copy(key, world.root / "evidence.pub")
    shutil.rmtree(world.inventory.home)
    world.file.unlink()
    unproven = cli("incident", "verify", "i.tar")
    assert unproven.code == 0
    assert "signer unproven: the bundle brings its own key" in unproven.out
    assert cli("incident", "verify", "i.tar", "--json").data["signer_proven"] is False
    proven = cli("incident", "verify", "i.tar", "--key", "evidence.pub", "--json")
    assert (proven.code, proven.data["signer_proven"]) == (0, True)
    assert not (world.root / ".firebreak").exists()


def test_a_damaged_bundle_is_refused(cli, case, world):
    """Exit 2, naming the bundle."""
    cli("incident", "export", case.id, "--to", "i.tar")
    raw = (world.root / "i.tar").read_bytes().replace(b"weights differ", b"weights equal!")
    (world.root / "i.tar").write_bytes(raw)
    ran = cli("incident", "verify", "i.tar", "--json")
    assert ran.code == 2
    assert ran.error["error"].startswith("bundle i.tar: journal.jsonl is ")


def test_another_key_is_refused_for_a_bundle_and_for_a_stored_incident(cli, case, world):
    """`--key` is never ignored."""
    other = Ed25519PrivateKey.generate().public_key()
    (world.root / "other.pub").write_bytes(
        other.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    cli("incident", "export", case.id, "--to", "i.tar")
    for name in ("i.tar", case.id):
        ran = cli("incident", "verify", name, "--key", "other.pub")
        assert (ran.code, "key" in ran.err) == (2, True)
    assert cli("incident", "verify", "i.tar", "--key", "absent.pub").code == 2


def test_a_bundle_that_is_not_there_is_said_to_be_missing(cli):
    """A wrong path is not taken for an incident id."""
    ran = cli("incident", "verify", "absent.tar")
    assert (ran.code, "bundle absent.tar: there is no such file" in ran.err) == (2, True)


def test_a_stored_incident_verifies_where_it_is(cli, case):
    """Exit 0 and the head of its chain."""
    ran = cli("incident", "verify", case.id, "--json")
    assert (ran.code, ran.data["head"]) == (0, case.entries()[-1].hash)


def test_an_incident_without_a_sealed_head_is_said_to_be_unsealed(cli, world, case):
    """`sealed by key` is said only where a signature was verified."""
    world.incident("fraud")
    assert "not sealed yet" in cli("incident", "verify", world.incident("fraud").id).out
    ran = cli("incident", "verify", case.id)
    assert ("sealed by key" in ran.out, "not sealed yet" in ran.out) == (True, False)


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_a_journal_that_was_cut_or_emptied_is_an_error(cli, case, world, seq):
    """Exit 2 for every command that reads it; no traceback."""
    with sqlite3.connect(world.inventory.home / "firebreak.db") as db:
        db.execute("delete from entries where seq >= ?", (seq,))
    for action in ("show", "export", "verify"):
        ran = cli("incident", action, case.id, "--json")
        assert ran.code == 2
        assert "4 were written" in ran.error["error"]
    listed = cli("incident", "list", "--json")
    assert (listed.code, json.loads(listed.out)[0]["status"]) == (2, "corrupt")


def test_a_corrupted_journal_is_an_error_that_names_the_entry(cli, case, world):
    """Exit 2 for show, export and verify; nothing is exported."""
    with sqlite3.connect(world.inventory.home / "firebreak.db") as db:
        db.execute("update entries set entry = replace(entry, 'critical', 'low') where seq = 1")
    for action in ("show", "export", "verify"):
        ran = cli("incident", action, case.id, "--json")
        assert ran.code == 2
        assert ran.error["error"].startswith(f"journal of {case.id}: entry 1: ")
    assert list(world.root.glob("*.tar")) == []


def test_a_corrupted_incident_does_not_hide_the_others(cli, case, world):
    """The list shows every incident, this one as corrupt, and exits 2."""
    world.incident("fraud")
    with sqlite3.connect(world.inventory.home / "firebreak.db") as db:
        db.execute("update entries set entry = '{' where incident = ? and seq = 1", (case.id,))
    ran = cli("incident", "list", "--json")
    assert ran.code == 2
    rows = {r["id"]: r["status"] for r in json.loads(ran.out)}
    assert sorted(rows.values()) == ["corrupt", "open"]
    assert rows[case.id] == "corrupt"
    assert "entry 1" in json.loads(ran.err)["error"]


def test_exporting_to_a_place_that_cannot_be_written_is_one_error(cli, case):
    """Exit 2 and the path."""
    ran = cli("incident", "export", case.id, "--to", "/proc/nowhere/i.tar")
    assert (ran.code, "/proc/nowhere" in ran.err, "Traceback" in ran.err) == (2, True, False)
