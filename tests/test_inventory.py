"""The inventory: what a correct one gives, and how every wrong one is refused."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from firebreak.errors import SettingError, SourceError, UnknownModelError
from firebreak.inventory import load_inventory
from firebreak.settings import Settings, load_settings, secret

MODEL = "models:\n  - id: chat\n    path: models/chat\n"
FULL = """\
firebreak: 1
home: state
check_interval: 10m
respond: automatic
drift_threshold: 0.2
environment: serving
dependencies: {torch: "2.6.0"}
keys: {cosign: keys/cosign.pub}
models:
  - id: chat
    version: "1.10"
    path: models/chat
    critical: true
    archive: archive/chat
    reference: /srv/reference
    targets:
      - process://run/chat.pid
      - uri: docker://model=chat
        start: [serve, --port, "80"]
        cwd: run
        probe: http://127.0.0.1:80/health
    behavior:
      outputs: logs/outputs.jsonl
      baseline: {yes: 0.5, no: 0.5}
      window: 50
    pipeline_logs: [logs/train.log]
    secrets: [registry token]
    owner: ana
people:
  - {id: ana, name: Ana, roles: [incident-commander]}
  - {id: ben}
channels:
  - {id: log, kind: file, path: messages}
  - {id: hook, kind: webhook, url: "https://hooks.example/x", secret: env:HOOK, timeout: 5s}
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No variable of the developer's own reaches these tests."""
    for name in [n for n in os.environ if n.startswith("FIREBREAK_")]:
        monkeypatch.delenv(name)


def load(folder: Path, text: str, **settings: object):
    """The inventory of a text."""
    (folder / "firebreak.yaml").write_text(text)
    return load_inventory(Settings(folder / "firebreak.yaml", **settings))


def test_everything_that_can_be_said_is_read(tmp_path):
    """Paths become absolute, relative to the file; durations, numbers and lists get their types."""
    inventory = load(tmp_path, FULL)
    (chat,) = inventory.models
    assert (chat.id, chat.version, chat.critical) == ("chat", "1.10", True)
    assert chat.path == tmp_path / "models/chat"
    assert chat.reference == Path("/srv/reference")
    assert chat.where == f"{tmp_path}/firebreak.yaml:12:11"
    assert [t.scheme for t in chat.targets] == ["process", "docker"]
    assert chat.targets[0].rest == f"{tmp_path}/run/chat.pid"
    assert chat.targets[1].start == ("serve", "--port", "80")
    assert chat.behavior.baseline == {"yes": 0.5, "no": 0.5}
    assert (chat.behavior.threshold, chat.behavior.window) == (0.2, 50)
    assert inventory.check_interval == timedelta(minutes=10)
    assert inventory.home == tmp_path / "state"
    assert inventory.database_url == f"sqlite:///{tmp_path}/state/firebreak.db"
    assert inventory.cosign_key == tmp_path / "keys/cosign.pub"
    assert [p.id for p in inventory.people_with(("incident-commander", "ben"))] == ["ana", "ben"]
    assert [c.timeout_s for c in inventory.channels] == [10.0, 5.0]


def test_the_smallest_inventory_has_safe_defaults(tmp_path):
    """Nothing starts by itself, nothing is critical, and everything lies beside the file."""
    inventory = load(tmp_path, "firebreak: 1\n" + MODEL)
    assert inventory.respond == "manual"
    assert inventory.home == tmp_path / ".firebreak"
    assert inventory.models[0].version == "unknown"
    assert not inventory.models[0].critical
    assert inventory.dependencies is None


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("models: []", "1:1", "'firebreak' is missing"),
        ("firebreak: 2\nmodels: []", "1:12", "expected 1 to 1, got 2"),
        ("firebreak: 1", "1:1", "'models' is missing"),
        ("firebreak: 1\nmodels: {}", "2:9", "expected a list, got a mapping"),
        ("firebreak: 1\nmodels:\n  - id: chat", "3:5", "'path' is missing"),
        ("firebreak: 1\nmodels:\n  - {id: a/b, path: x}", "3:10", "expected an id"),
        ("firebreak: 1\nmodels:\n  - {id: .., path: x}", "3:10", "expected an id"),
        ("firebreak: 1\nmodels:\n  - {id: environment, path: x}", "3:10", "about packages"),
        ('firebreak: 1\nmodels:\n  - {id: a, path: "x\\uD800"}', "3:19", "is half a character"),
        ("firebreak: 1\nmodels:\n  - {id: a, path: ''}", "3:19", "expected a path, got ''"),
        ('firebreak: 1\nmodels:\n  - {id: a, path: "x\\0y"}', "3:19", "expected a path"),
        ("firebreak: 1\n" + MODEL + "    version: 1.10", "5:14", "got 1.1; quote it"),
        ("firebreak: 1\n" + MODEL + "    critcal: true", "5:14", "did you mean 'critical'?"),
        ("firebreak: 1\n" + MODEL + "    critical: yes", "5:15", "expected true or false"),
        ("firebreak: 1\n" + MODEL + "  - {id: chat, path: y}", "5:5", "'chat' is listed twice"),
        (
            "firebreak: 1\n" + MODEL + "    targets: [ftp://x]",
            "5:15",
            "unknown target scheme 'ftp'; known: file, process, docker",
        ),
        ("firebreak: 1\n" + MODEL + "    targets: [/run/x]", "5:15", "expected a URI"),
        ("firebreak: 1\n" + MODEL + "    behavior: {outputs: x}", "5:15", "exactly one of"),
        (
            "firebreak: 1\n" + MODEL + "    behavior: {outputs: x, baseline: {a: 0}}",
            "5:38",
            "must add up to more than 0",
        ),
        ("firebreak: 1\nmodels: []\ncheck_interval: 10ms", "3:17", "shorter than 1 s"),
        ("firebreak: 1\nmodels: []\nrespond: auto", "3:10", "expected one of automatic, manual"),
        ("firebreak: 1\nmodels: []\ndependencies: {torch: 2.6}", "3:23", "a version in quotes"),
        ("firebreak: 1\nmodels: []\ndatabase_url: incidents.db", "3:15", "expected a URL"),
        ("firebreak: 1\nmodels: []\ndatabase_url: 'sqlite://'", "3:15", "in memory forgets"),
        ("firebreak: 1\nmodels: []\ndatabase_url: 'sqlite:///:memory:'", "3:15", "in memory"),
        ("firebreak: 1\nmodels: []\nchannels: [{id: x, kind: file}]", "3:12", "needs `path`"),
        ("firebreak: 1\nmodels: []\nchannels: [{id: x, kind: fax}]", "3:26", "one of file, web"),
        (
            "firebreak: 1\nmodels: []\nchannels: [{id: x, kind: webhook, url: ftp://x}]",
            "3:40",
            "an http:// or https:// URL",
        ),
        (
            "firebreak: 1\nmodels: []\nchannels:\n"
            "  - {id: x, kind: webhook, url: http://x, secret: hunter2}",
            "4:51",
            "secret: expected env:NAME or file:/path, never the secret itself",
        ),
        ("firebreak: 1\nmodels: []\npeople: [{id: a}, {id: a}]", "3:19", "'a' is listed twice"),
        ("firebreak: 1\nmodels: []\nmodles: []", "3:9", "did you mean 'models'?"),
    ],
)
def test_a_wrong_inventory_is_refused_at_its_place(tmp_path, text, place, message):
    """File, line and column stand before what is wrong."""
    with pytest.raises(SourceError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/firebreak.yaml:{place}: ")
    assert message in str(caught.value)


def test_a_relative_database_lies_beside_the_inventory_wherever_the_command_is_run(
    tmp_path, monkeypatch
):
    """The daemon and the command line open the same store from different folders."""
    monkeypatch.chdir("/")
    text = "firebreak: 1\nmodels: []\ndatabase_url: sqlite:///state/x.db"
    assert load(tmp_path, text).database_url == f"sqlite:///{tmp_path}/state/x.db"
    absolute = text.replace("state/x.db", "/srv/x.db")
    assert load(tmp_path, absolute).database_url == "sqlite:////srv/x.db"
    server = text.replace("sqlite:///state/x.db", "postgresql://db/x")
    assert load(tmp_path, server).database_url == "postgresql://db/x"


def test_a_secret_written_into_the_inventory_is_not_repeated_in_the_error(tmp_path):
    """Errors land in logs, where a secret would be read by more people than the file."""
    with pytest.raises(SourceError) as caught:
        load(
            tmp_path,
            "firebreak: 1\nmodels: []\nchannels:\n"
            "  - {id: x, kind: webhook, url: http://x, secret: hunter2}",
        )
    assert "hunter2" not in str(caught.value)


def test_the_environment_overrides_home_and_database(tmp_path, monkeypatch):
    """What an operator sets for one process wins over the file."""
    monkeypatch.setenv("FIREBREAK_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("FIREBREAK_DATABASE_URL", "sqlite:////srv/other.db")
    monkeypatch.setenv("FIREBREAK_INVENTORY", str(tmp_path / "firebreak.yaml"))
    (tmp_path / "firebreak.yaml").write_text("firebreak: 1\n" + MODEL)
    inventory = load_inventory()
    assert inventory.home == tmp_path / "elsewhere"
    assert inventory.database_url == "sqlite:////srv/other.db"


def test_a_database_variable_that_is_no_url_is_refused(monkeypatch):
    """The error names the variable and the form that is expected."""
    monkeypatch.setenv("FIREBREAK_DATABASE_URL", "incidents.db")
    with pytest.raises(SettingError, match=r"FIREBREAK_DATABASE_URL='\(not shown\)'") as caught:
        load_settings()
    assert "incidents.db" not in str(caught.value)


def test_an_unknown_model_lists_the_known_ones(tmp_path):
    """A wrong id on the command line shows the right ones."""
    inventory = load(tmp_path, "firebreak: 1\n" + MODEL)
    with pytest.raises(UnknownModelError, match="unknown model 'chatt'; the inventory lists: chat"):
        inventory.model("chatt")


def test_secrets_come_from_the_environment_or_a_file_and_from_nowhere_else(tmp_path, monkeypatch):
    """An absent secret is None; a reference of no known form, or a broken file, is an error."""
    monkeypatch.setenv("HOOK", "s3cret")
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert secret("env:HOOK") == "s3cret"
    assert secret("env:ABSENT_HOOK") is None
    assert secret(f"file:{tmp_path}/key") == "from-file"
    assert secret(f"file:{tmp_path}/absent") is None
    for reference in ("s3cret", "env:", f"file:{tmp_path}", f"file:{tmp_path}/binary"):
        with pytest.raises(SettingError):
            secret(reference)


@pytest.mark.parametrize(
    "line",
    [
        "database_url: robot:hunter2@host/db",
        "database_url: 'post gres://robot:hunter2@host/db'",
        "database_url: 'postgresql://robot:hunter2@host/d b'",
        "channels: [{id: x, kind: webhook, url: 'ftp://u:hunter2@h'}]",
        "channels: [{id: x, kind: webhook, url: 'https://h/hunter2 x'}]",
        "channels: [{id: x, kind: webhook, url: hunter2}]",
    ],
)
def test_an_address_that_cannot_be_used_is_not_repeated_in_the_error(tmp_path, line):
    """It may hold credentials; the place is enough to find it."""
    with pytest.raises(SourceError, match=r"3:\d+: .*\(not shown\)") as caught:
        load(tmp_path, f"firebreak: 1\nmodels: []\n{line}")
    assert "hunter2" not in str(caught.value)


GUARDED = """\
firebreak: 1
{}
models:
  - {{id: chat, path: models/chat, archive: archive, reference: /srv/reference}}
"""


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        ("home: models/chat", "2:7", "home '{}/models/chat' lies inside the path of model 'chat'"),
        ("home: models/chat/a/../state", "2:7", "lies inside the path of"),
        ("home: archive/state", "2:7", "lies inside the archive of"),
        ("home: link/state", "2:7", "lies inside the path of"),
        ("home: /srv/reference", "2:7", "lies inside the reference of"),
        ("database_url: sqlite:///models/chat/x.db", "2:15", "database '{}/models/chat/x.db' lies"),
        ("database_url: sqlite:////srv/reference/x.db?timeout=9", "2:15", "lies inside the refere"),
        ("channels: [{id: log, kind: file, path: archive/log}]", "2:40", "channel 'log' '{}/arch"),
    ],
)
def test_nothing_of_our_own_may_lie_in_a_model(tmp_path, line, place, message):
    """Keys, incidents or messages in a model would change what is watched, and be shipped."""
    (tmp_path / "models" / "chat").mkdir(parents=True)
    (tmp_path / "link").symlink_to("models/chat")
    with pytest.raises(SourceError) as caught:
        load(tmp_path, GUARDED.format(line))
    assert str(caught.value).startswith(f"{tmp_path}/firebreak.yaml:{place}: ")
    assert message.format(tmp_path) in str(caught.value)


def test_a_home_in_a_model_is_refused_wherever_it_comes_from(tmp_path):
    """From the environment, or by default because the model is the inventory's own folder."""
    text = "firebreak: 1\n" + MODEL
    for settings in (
        {"home": tmp_path / "models" / "chat"},
        {"database_url": f"sqlite:///{tmp_path}/models/chat/x.db"},
    ):
        with pytest.raises(SourceError, match=r"yaml:4:11: .* lies inside the path of model"):
            load(tmp_path, text, **settings)
    with pytest.raises(SourceError, match=r"yaml:4:11: home .* lies inside"):
        load(tmp_path, text.replace("models/chat", "."))


def test_a_model_that_is_a_link_is_guarded_where_it_leads(tmp_path):
    """The path as written and the path behind the link are the same model."""
    (tmp_path / "real").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "chat").symlink_to("../real")
    with pytest.raises(SourceError, match="lies inside the path of"):
        load(tmp_path, "firebreak: 1\nhome: real/state\n" + MODEL)


def test_our_places_may_lie_beside_a_model_and_a_model_in_home(tmp_path):
    """A name that only begins alike is another folder."""
    load(tmp_path, "firebreak: 1\nhome: models/chat-state\n" + MODEL)
    load(tmp_path, "firebreak: 1\nhome: models\n" + MODEL)
