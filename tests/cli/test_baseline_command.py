"""`firebreak baseline create|verify`."""

import json
import os
import shutil
from pathlib import Path

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
