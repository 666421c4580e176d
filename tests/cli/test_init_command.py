"""`firebreak init`: an inventory to start from, never over one that is there."""

import json

import pytest

from firebreak.inventory import load_inventory
from firebreak.settings import Settings

OLD = {
    "check_interval_seconds": 60,
    "alert_webhook": "https://hooks.example/x",
    "models": [{"id": "chat", "path": "models/chat", "critical": True}],
    "monitored_models": [{"id": "chat", "path": "models/chat"}],
    "baseline_dependencies": {"rfc8785": "0.1.4"},
    "behavior_drift_threshold": 0.3,
}


def test_a_new_inventory_is_written_with_a_key(cli, world):
    """What was written loads, the sealing key is there, and the next step is said."""
    world.file.unlink()
    ran = cli("init")
    assert (ran.code, ran.err) == (0, "")
    assert "next: firebreak baseline create" in ran.out
    assert load_inventory(Settings(world.file)).evidence_key.is_file()


def test_an_earlier_configuration_is_imported(cli, world):
    """All of its keys arrive, in JSON output too, and the next command works with it."""
    world.file.unlink()
    (world.root / "config.json").write_text(json.dumps(OLD))
    ran = cli("init", "--from", "config.json", "--json")
    assert ran.code == 0
    assert ran.data["models"] == ["chat"]
    assert ran.data["inventory"] == str(world.file)
    assert cli("baseline", "create", "chat", "--by", "ana", "--reason", "import").code == 0


@pytest.mark.parametrize("existing", ["firebreak: 1\nmodels: []\n", "", "not yaml: ["])
def test_an_inventory_that_exists_is_never_overwritten(cli, world, existing):
    """Exit 2, and the file is byte for byte what it was."""
    world.file.write_text(existing)
    ran = cli("init", "--json")
    assert ran.code == 2
    assert "exists already and is never overwritten" in ran.error["error"]
    assert world.file.read_text() == existing


def test_a_dangling_link_is_not_written_through(cli, world):
    """The link's target does not appear."""
    world.file.unlink()
    world.file.symlink_to("elsewhere.yaml")
    assert cli("init").code == 2
    assert not (world.root / "elsewhere.yaml").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"models": [\n {"id": }\n]}', "config.json:2:9: not JSON"),
        ('{"alert_webhook": "nowhere"}', "alert_webhook is (not shown)"),
        (
            '{"models": [{"id": "a", "path": "x"}, {"id": "a", "path": "y"}]}',
            "has two paths",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_leaves_nothing_behind(cli, world, config, message):
    """One error with its place, exit 2, and neither inventory nor key appears."""
    world.file.unlink()
    (world.root / "config.json").write_text(config)
    ran = cli("init", "--from", "config.json")
    assert ran.code == 2
    assert message in ran.err
    assert not world.file.exists()
    assert not (world.root / ".firebreak").exists()
    (world.root / "config.json").write_text("{}")
    assert cli("init", "--from", "config.json").code == 0


def test_an_inventory_whose_key_cannot_be_made_is_taken_back(cli, world):
    """Exit 2, and once the cause is gone the same command works."""
    world.file.unlink()
    home = world.root / ".firebreak"
    home.mkdir()
    (home / "keys").write_text("in the way")
    ran = cli("init")
    assert (ran.code, "Traceback" in ran.err) == (2, False)
    assert not world.file.exists()
    (home / "keys").unlink()
    assert cli("init").code == 0


def test_a_missing_configuration_is_named(cli, world):
    """The path and the reason, exit 2."""
    ran = cli("init", "--from", "absent.json", "--inventory", "new.yaml")
    assert ran.code == 2
    assert "error: absent.json: cannot be read: No such file or directory" in ran.err
