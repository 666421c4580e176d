"""The JSON configuration of the earlier monitor scripts becomes an inventory that loads."""

import json
import os

import pytest

from firebreak.errors import SourceError
from firebreak.importing import import_config, new_inventory
from firebreak.inventory import Inventory, load_inventory, parse_inventory
from firebreak.settings import Settings
from firebreak.yaml_source import parse_yaml

OLD = {
    "check_interval_seconds": 300,
    "alert_webhook": "https://hooks.example/T/B",
    "models": [
        {"id": "sentiment", "path": "/models/sentiment", "critical": True},
        {"id": "fraud-v2", "path": "models/fraud", "critical": False},
    ],
    "monitored_models": [
        {"id": "sentiment", "path": "/models/sentiment"},
        {"id": "ranker", "path": "/models/ranker"},
    ],
    "baseline_dependencies": {"torch": "2.6.0", "numpy": "1.10", "odd": "1.5e3", "PyYAML": "6"},
    "behavior_drift_threshold": 0.2,
}


def imported(folder, config) -> tuple[Inventory, list[str]]:
    """The inventory that an imported configuration loads as, and the notes."""
    source = folder / "config.json"
    source.write_text(config if isinstance(config, str) else json.dumps(config))
    text, notes = import_config(source)
    (folder / "firebreak.yaml").write_text(text)
    return load_inventory(Settings(folder / "firebreak.yaml")), notes


def test_every_key_of_the_earlier_configuration_arrives(tmp_path):
    """Interval, webhook, both model lists, packages and threshold mean what they meant."""
    inventory, notes = imported(tmp_path, OLD)
    assert inventory.check_interval.total_seconds() == 300
    assert inventory.drift_threshold == 0.2
    assert inventory.dependencies == OLD["baseline_dependencies"]
    assert [(c.kind, c.url) for c in inventory.channels] == [("webhook", OLD["alert_webhook"])]
    assert [(m.id, m.critical) for m in inventory.models] == [
        ("sentiment", True),
        ("fraud-v2", False),
        ("ranker", False),
    ]
    assert inventory.model("fraud-v2").path == tmp_path / "models/fraud"
    assert any("not signed" in note for note in notes)


def test_a_model_critical_in_either_list_is_critical(tmp_path):
    """The two lists of some configurations describe one model; nothing of either is lost."""
    lists = {
        "models": [{"id": "a", "path": "x"}],
        "monitored_models": [{"id": "a", "path": "x", "critical": True}],
    }
    assert imported(tmp_path, lists)[0].model("a").critical


def test_a_model_with_two_paths_is_refused(tmp_path):
    """Which of the two is watched is not for a program to guess."""
    lists = {"models": [{"id": "a", "path": "x"}], "monitored_models": [{"id": "a", "path": "y"}]}
    with pytest.raises(SourceError, match=r"monitored_models\[0\]: id 'a' has two paths"):
        imported(tmp_path, lists)


def test_an_empty_configuration_has_the_old_defaults(tmp_path):
    """Five minutes and 0.15 were the scripts' own."""
    inventory, _ = imported(tmp_path, {})
    assert (inventory.check_interval.total_seconds(), inventory.drift_threshold) == (300, 0.15)


def test_an_unknown_key_is_noted_and_left_out(tmp_path):
    """Nothing disappears silently."""
    _, notes = imported(tmp_path, {"slack_channel": "#ml"})
    assert "key 'slack_channel' is not known and was left out" in notes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"models": [\n  {"id": "a",}\n]}', "config.json:2:14: not JSON"),
        ("", "config.json:1:1: not JSON"),
        ("[]", "expected a JSON object"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        ('{"models": {}}', "models is dict, expected a list"),
        ('{"models": ["a"]}', r"models\[0\] is 'a', expected an object"),
        ('{"models": [{"path": "x"}]}', r"models\[0\].id is None"),
        ('{"models": [{"id": "a/b", "path": "x"}]}', r"models\[0\].id is 'a/b'"),
        ('{"monitored_models": [{"id": "a"}]}', r"monitored_models\[0\].path is None"),
        ('{"models": [{"id": "a", "path": "x", "critical": "yes"}]}', "critical is 'yes'"),
        ('{"check_interval_seconds": 0}', "check_interval_seconds is 0"),
        ('{"check_interval_seconds": true}', "check_interval_seconds is True"),
        ('{"check_interval_seconds": "300"}', "check_interval_seconds is '300'"),
        ('{"behavior_drift_threshold": NaN}', "behavior_drift_threshold is nan"),
        ('{"behavior_drift_threshold": 2}', "behavior_drift_threshold is 2"),
        ('{"baseline_dependencies": ["torch"]}', "must map names to versions"),
        ('{"baseline_dependencies": {"torch": 2}}', "must map names to versions"),
        ('{"alert_webhook": 5}', r"alert_webhook is \(not shown\)"),
        ('{"alert_webhook": "hooks.example"}', r"alert_webhook is \(not shown\)"),
        ('{"models": [{"id": "environment", "path": "x"}]}', "incidents about packages"),
        ('{"models": [{"id": "a", "path": "x\\ud800"}]}', r"models\[0\].path: U\+D800 is half"),
        ('{"x\\ud800": 1}', r"a key of the object: U\+D800 is half a character"),
    ],
)
def test_a_broken_configuration_is_refused_with_its_place(tmp_path, config, message):
    """Broken JSON has line and column; a wrong value has the key and the value."""
    with pytest.raises(SourceError, match=message) as caught:
        imported(tmp_path, config)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


def test_bytes_that_are_not_utf_8_are_refused(tmp_path):
    """One clear error instead of a traceback."""
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(SourceError, match=r"config.json: not JSON: .*utf-8"):
        import_config(tmp_path / "config.json")


def test_a_fifo_as_configuration_does_not_hang(tmp_path):
    """A FIFO that nobody writes is refused at once."""
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(SourceError, match="is not a plain file"):
        import_config(tmp_path / "config.json")


def test_the_inventory_to_start_from_loads(tmp_path):
    """What `firebreak init` writes is correct, examples included once they are uncommented."""
    file = tmp_path / "firebreak.yaml"
    settings = Settings(file)
    fresh = parse_inventory(parse_yaml(new_inventory().encode(), "f"), file, settings)
    assert fresh.models == ()
    examples = new_inventory().replace(": []", ":").replace("\n#  ", "\n  ")
    full = parse_inventory(parse_yaml(examples.encode(), "f"), file, settings)
    assert (full.models[0].version, full.people[0].id, full.channels[0].kind) == (
        "1.1.0",
        "ana",
        "file",
    )


@pytest.mark.parametrize("webhook", ["ftp://u:hunter2@h/x", "https://h/hunter2 x", "hunter2"])
def test_a_webhook_that_cannot_be_used_is_not_repeated_in_the_error(tmp_path, webhook):
    """Its path or user part may be the secret."""
    with pytest.raises(SourceError, match="alert_webhook is") as caught:
        imported(tmp_path, {"alert_webhook": webhook})
    assert "hunter2" not in str(caught.value)
