"""`firebreak baseline create|verify`."""

import json
import os
import shutil
from pathlib import Path

import pytest

from firebreak.checks.manifest import baseline_path

CREATE = ("baseline", "create", "chat", "--by", "ana", "--reason", "release 1.0")


def test_create_seals_and_verify_is_clean(cli):
    """Exit 0 for both; the JSON says what was sealed, by whom and where."""
    made = cli(*CREATE, "--json")
    assert (made.code, made.data["files"]) == (0, 3)
    assert Path(made.data["path"]).is_file()
    verified = cli("baseline", "verify", "chat", "--json")
    assert (verified.code, verified.data["findings"], verified.data["by"]) == (0, [], "ana")
    assert cli("baseline", "verify", "chat").out == "clean: nothing differs\n"


def test_verify_shows_what_differs_and_opens_nothing(cli, world):
    """Exit 1, one line per finding, no incident."""
    cli(*CREATE)
    (world.chat / "payload.py").write_text("x")
    ran = cli("baseline", "verify", "chat")
    assert ran.code == 1
    assert ran.out == "high\tunexpected_model_file\tchat: payload.py is not in the baseline\n"
    assert cli("incident", "list", "--json").data == []


def test_a_vanished_model_is_findings(cli, world):
    """Exit 1: the same answer that detection gives."""
    cli(*CREATE)
    shutil.rmtree(world.chat)
    ran = cli("baseline", "verify", "chat", "--json")
    assert ran.code == 1
    assert {f["type"] for f in ran.data["findings"]} == {"model_file_missing"}


def test_an_edited_baseline_is_an_error(cli, world):
    """Exit 2: there is nothing to compare with."""
    cli(*CREATE)
    place = baseline_path(world.inventory, "chat")
    sealed = json.loads(place.read_text())
    sealed["payload"] = "e30="
    place.write_text(json.dumps(sealed))
    ran = cli("baseline", "verify", "chat", "--json")
    assert ran.code == 2
    assert "no valid signature" in ran.error["error"]


def test_a_second_create_needs_replace(cli):
    """Exit 2 and the option to use; with it exit 0."""
    cli(*CREATE)
    ran = cli(*CREATE)
    assert (ran.code, "pass --replace" in ran.err) == (2, True)
    assert cli(*CREATE, "--replace").code == 0


def test_a_blank_reason_is_refused(cli, world):
    """Trust is given by somebody, for a reason."""
    assert cli("baseline", "create", "chat", "--by", "ana", "--reason", " ").code == 2
    assert not baseline_path(world.inventory, "chat").exists()


def test_a_model_with_a_fifo_in_it_is_refused(cli, world):
    """Exit 2, the file is named, nothing hangs and nothing is sealed."""
    os.mkfifo(world.chat / "pipe")
    ran = cli(*CREATE)
    assert (ran.code, "'pipe': is a FIFO" in ran.err) == (2, True)
    assert not baseline_path(world.inventory, "chat").exists()


def test_verify_without_a_baseline_says_how_to_make_one(cli):
    """Exit 2 with the next move."""
    ran = cli("baseline", "verify", "chat", "--json")
    assert ran.code == 2
    assert ran.error["error"] == "baseline of 'chat': there is none"
    assert "firebreak baseline create" in ran.error["hint"]


def test_an_unknown_model_lists_the_known_ones(cli):
    """For every command that takes a model."""
    for command in [(*CREATE[:2], "nosuch", *CREATE[3:]), ("baseline", "verify", "nosuch")]:
        ran = cli(*command)
        assert ran.code == 2
        assert "unknown model 'nosuch'; the inventory lists: chat, fraud" in ran.err


def test_a_stranger_cannot_give_trust(cli, world):
    """Exit 2 with the people of the inventory; without any listed, any name is taken."""
    by = ("baseline", "create", "chat", "--by", "stranger", "--reason", "release")
    ran = cli(*by)
    assert (ran.code, "unknown person 'stranger'" in ran.err, "ana" in ran.err) == (2, True, True)
    assert not baseline_path(world.inventory, "chat").exists()
    world.file.write_text(world.file.read_text().partition("people:")[0])
    assert cli(*by).code == 0


@pytest.mark.parametrize("how", ["changed", "missing", "unexpected", "unreadable"])
def test_tampered_weights_are_not_made_trusted_while_their_incident_is_open(cli, world, how):
    """Exit 2, naming the incident; also when the old baseline was removed. Closing allows it."""
    cli(*CREATE)
    weights = world.chat / "weights.safetensors"
    if how == "unexpected":
        (world.chat / "payload.py").write_text("x")
    else:
        weights.unlink()
    if how == "changed":
        weights.write_bytes(b"x")
    elif how == "unreadable":
        os.mkfifo(weights)
    assert cli("detect").code == 1
    incident = world.incident().id
    before = baseline_path(world.inventory, "chat").read_bytes()
    ran = cli(*CREATE, "--replace")
    assert (ran.code, incident in ran.err) == (2, True)
    assert f"firebreak incident close {incident}" in ran.err
    assert baseline_path(world.inventory, "chat").read_bytes() == before
    baseline_path(world.inventory, "chat").unlink()
    assert cli(*CREATE).code == 2
    assert cli("incident", "close", incident, "--by", "ana", "--reason", "a release").code == 0
    if how == "unreadable":
        weights.unlink()
    assert cli(*CREATE).code == 0


def test_an_incident_about_a_missing_baseline_does_not_refuse_it(cli, world):
    """Making one is how that incident ends."""
    assert cli("detect").code == 1
    assert cli(*CREATE).code == 0
