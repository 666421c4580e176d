"""The inventory, `firebreak.yaml`: models, targets, people, channels, keys.

Parsed once at the edge; everything behind it trusts the records below. Relative paths are relative
to the inventory file. docs/inventory.md shows every key.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from firebreak.checks.dependencies import SUBJECT
from firebreak.errors import SourceError, UnknownModelError
from firebreak.own_places import keep_out_of_models
from firebreak.settings import Settings, load_settings
from firebreak.yaml_source import ID_EXPECTED, ID_PATTERN, Node, read_yaml

SCHEMES = ("file", "process", "docker")
CHANNEL_KINDS = ("file", "webhook")
MIN_CHECK_INTERVAL = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Target:
    """One place a model runs or lies.

    Attributes:
        uri: `file:///models/x`, `process:///run/x.pid` (a pid file), `docker://model=x` (a label).
        start: argument list that starts the service again (never a shell); empty when none.
        cwd: working directory of `start`.
        probe: URL that answers 200 when the service serves; None when there is none.
        where: `file:line:column` in the inventory.
    """

    uri: str
    start: tuple[str, ...] = ()
    cwd: Path | None = None
    probe: str | None = None
    where: str = ""

    @property
    def scheme(self) -> str:
        """The part before `://`: which driver handles it."""
        return self.uri.partition("://")[0]

    @property
    def rest(self) -> str:
        """The part after `://`."""
        return self.uri.partition("://")[2]


@dataclass(frozen=True, slots=True)
class Behavior:
    """How a model's behaviour is compared.

    Attributes:
        outputs: JSON Lines file of recent outputs, each with `predicted_class` or `label`.
        baseline: class -> probability; None when `baseline_file` holds it.
        baseline_file: JSON object of class -> count or probability.
        threshold: alarm when the Jensen-Shannon divergence (nats, 0 to ln 2) exceeds it.
        window: how many of the newest outputs are compared.
    """

    outputs: Path
    baseline: Mapping[str, float] | None
    baseline_file: Path | None
    threshold: float = 0.15
    window: int = 1000


@dataclass(frozen=True, slots=True)
class Model:
    """A model under watch. Paths are absolute; `where` is its place in the inventory."""

    id: str
    path: Path
    where: str
    version: str = "unknown"
    critical: bool = False
    targets: tuple[Target, ...] = ()
    archive: Path | None = None
    reference: Path | None = None
    behavior: Behavior | None = None
    pipeline_logs: tuple[Path, ...] = ()
    secrets: tuple[str, ...] = ()
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may be asked."""

    id: str
    name: str
    roles: frozenset[str]
    where: str = ""


@dataclass(frozen=True, slots=True)
class Channel:
    """Where messages go: `file` (a folder) or `webhook` (JSON POST, HMAC-signed)."""

    id: str
    kind: str
    path: Path | None = None
    url: str | None = None
    secret: str | None = None
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything `firebreak.yaml` says.

    Attributes:
        file: the inventory file itself.
        home: where the incident store, evidence, quarantine, baselines and reports live.
        database_url: SQLAlchemy URL of the incident store.
        respond: `automatic` starts the playbook when an incident opens, `manual` waits for people.
        environment: a Python environment's root or site-packages folder; None is this process's.
        dependencies: package name -> expected version; empty means packages are not compared.
        drift_threshold: default threshold of models that name none (nats).
        cosign_key: public key that must have signed a release's manifest; None when not set.
    """

    file: Path
    home: Path
    database_url: str
    models: tuple[Model, ...]
    people: tuple[Person, ...] = ()
    channels: tuple[Channel, ...] = ()
    check_interval: timedelta = timedelta(seconds=300)
    respond: str = "manual"
    environment: Path | None = None
    dependencies: Mapping[str, str] | None = None
    drift_threshold: float = 0.15
    cosign_key: Path | None = None

    def model(self, model_id: str) -> Model:
        """The model of that id.

        Raises:
            UnknownModelError: not listed.
        """
        for model in self.models:
            if model.id == model_id:
                return model
        raise UnknownModelError(model_id, ", ".join(m.id for m in self.models) or "none")

    def people_with(self, roles: tuple[str, ...]) -> tuple[Person, ...]:
        """The people who hold one of the roles, or whose id is named instead of a role."""
        wanted = set(roles)
        return tuple(p for p in self.people if p.id in wanted or p.roles & wanted)

    @property
    def evidence_key(self) -> Path:
        """Private key (Ed25519 PEM) that seals baselines, checkpoints and bundles."""
        return self.home / "keys" / "evidence.pem"


Item = TypeVar("Item", Model, Person, Channel)


def load_inventory(settings: Settings | None = None) -> Inventory:
    """The inventory of this process.

    Raises:
        SourceError: with file, line and column of what cannot be used.
    """
    settings = settings or load_settings()
    file = Path(os.path.abspath(settings.inventory))
    return parse_inventory(read_yaml(file), file, settings)


def parse_inventory(root: Node, file: Path, settings: Settings) -> Inventory:
    """The inventory that a parsed file describes; `file` is where it lies or will lie.

    Raises: SourceError.
    """
    fields = root.fields()
    fields.need("firebreak").integer(1, 1)
    base = file.parent
    home = settings.home or fields.get("home", lambda n: _path(n, base), base / ".firebreak")
    home = Path(os.path.abspath(home))
    database = fields.get(
        "database_url", lambda n: _database(n, base), f"sqlite:///{home / 'firebreak.db'}"
    )
    threshold = fields.get("drift_threshold", lambda n: n.number(0.0, 1.0), 0.15)
    inventory = Inventory(
        file=file,
        home=home,
        database_url=settings.database_url or database,
        models=_unique(fields.need("models"), lambda n: _model(n, base, threshold)),
        drift_threshold=threshold,
        people=fields.get("people", lambda n: _unique(n, _person), ()),
        channels=fields.get("channels", lambda n: _unique(n, lambda c: _channel(c, base)), ()),
        check_interval=fields.get("check_interval", _interval, timedelta(seconds=300)),
        respond=fields.get("respond", lambda n: n.choice(("automatic", "manual")), "manual"),
        environment=fields.get("environment", lambda n: _path(n, base), None),
        dependencies=fields.get("dependencies", _dependencies, None),
        cosign_key=fields.get("keys", lambda n: _keys(n, base), None),
    )
    fields.done()
    keep_out_of_models(inventory, fields, settings)
    return inventory


def _model_id(node: Node) -> str:
    model_id = node.text(pattern=ID_PATTERN, expected=ID_EXPECTED)
    if model_id == SUBJECT:
        node.fail(f"{SUBJECT!r} is what incidents about packages are called", "rename the model")
    return model_id


def _model(node: Node, base: Path, threshold: float) -> Model:
    fields = node.fields()
    model = Model(
        id=_model_id(fields.need("id")),
        path=_path(fields.need("path"), base),
        where=fields.need("path").where,
        version=fields.get(
            "version", lambda n: n.text(pattern=ID_PATTERN, expected=ID_EXPECTED), "unknown"
        ),
        critical=fields.get("critical", Node.boolean, False),
        targets=fields.get("targets", lambda n: tuple(_target(t, base) for t in n.items()), ()),
        archive=fields.get("archive", lambda n: _path(n, base), None),
        reference=fields.get("reference", lambda n: _path(n, base), None),
        behavior=fields.get("behavior", lambda n: _behavior(n, base, threshold), None),
        pipeline_logs=fields.get("pipeline_logs", lambda n: _paths(n, base), ()),
        secrets=fields.get("secrets", Node.texts, ()),
        owner=fields.get("owner", lambda n: n.text(), None),
    )
    fields.done()
    return model


def _target(node: Node, base: Path) -> Target:
    if isinstance(node.value, str):
        return Target(_uri(node, base), where=node.where)
    fields = node.fields()
    target = Target(
        uri=_uri(fields.need("uri"), base),
        start=fields.get("start", Node.texts, ()),
        cwd=fields.get("cwd", lambda n: _path(n, base), None),
        probe=fields.get("probe", _url, None),
        where=node.where,
    )
    fields.done()
    return target


def _uri(node: Node, base: Path) -> str:
    uri = node.text(pattern=r"[a-z]+://\S+", expected="a URI such as process:///run/model.pid")
    scheme, _, rest = uri.partition("://")
    if scheme not in SCHEMES:
        node.fail(f"unknown target scheme {scheme!r}", f"known: {', '.join(SCHEMES)}")
    if scheme in ("file", "process"):
        return f"{scheme}://{base / rest}"
    return uri


def _behavior(node: Node, base: Path, threshold: float) -> Behavior:
    fields = node.fields()
    behavior = Behavior(
        outputs=_path(fields.need("outputs"), base),
        baseline=fields.get("baseline", _distribution, None),
        baseline_file=fields.get("baseline_file", lambda n: _path(n, base), None),
        threshold=fields.get("threshold", lambda n: n.number(0.0, 1.0), threshold),
        window=fields.get("window", lambda n: n.integer(1, 10_000_000), 1000),
    )
    fields.done()
    if (behavior.baseline is None) == (behavior.baseline_file is None):
        node.fail("needs exactly one of `baseline` and `baseline_file`")
    return behavior


def _distribution(node: Node) -> Mapping[str, float]:
    shares = {name: share.number(0.0, 1e12) for name, share in node.pairs()}
    if sum(shares.values()) <= 0:
        node.fail("the shares must add up to more than 0")
    return shares


def _person(node: Node) -> Person:
    fields = node.fields()
    person_id = fields.need("id").text(pattern=ID_PATTERN, expected=ID_EXPECTED)
    person = Person(
        id=person_id,
        name=fields.get("name", lambda n: n.text(), person_id),
        roles=frozenset(fields.get("roles", lambda n: n.texts(pattern=ID_PATTERN), ())),
        where=node.where,
    )
    fields.done()
    return person


def _channel(node: Node, base: Path) -> Channel:
    fields = node.fields()
    kind = fields.need("kind").choice(CHANNEL_KINDS)
    channel = Channel(
        id=fields.need("id").text(pattern=ID_PATTERN, expected=ID_EXPECTED),
        kind=kind,
        path=fields.get("path", lambda n: _path(n, base), None),
        url=fields.get("url", _url, None),
        secret=fields.get("secret", _secret, None),
        timeout_s=fields.get("timeout", lambda n: n.duration().total_seconds(), 10.0),
    )
    fields.done()
    needed = "path" if kind == "file" else "url"
    if getattr(channel, needed) is None:
        node.fail(f"a {kind} channel needs `{needed}`")
    return channel


def _secret(node: Node) -> str:
    if not isinstance(node.value, str) or not re.fullmatch(r"(env|file):\S+", node.value):
        node.fail("expected env:NAME or file:/path, never the secret itself")
    return node.value


def _keys(node: Node, base: Path) -> Path | None:
    fields = node.fields()
    key = fields.get("cosign", lambda n: _path(n, base), None)
    fields.done()
    return key


def _dependencies(node: Node) -> Mapping[str, str]:
    return {name: version.text(expected="a version in quotes") for name, version in node.pairs()}


def _interval(node: Node) -> timedelta:
    interval = node.duration()
    if interval < MIN_CHECK_INTERVAL:
        node.fail(f"shorter than {MIN_CHECK_INTERVAL.total_seconds():g} s")
    return interval


def _database(node: Node, base: Path) -> str:
    """An SQLAlchemy URL; the path of an SQLite file is relative to the inventory, as all are."""
    url = node.text(
        pattern=r"[a-z0-9+]+://\S*", expected="a URL such as sqlite:///path.db", secret=True
    )
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] != "sqlite":
        return url
    path = rest.removeprefix("/")
    if not path or path.startswith((":", "?")):
        node.fail("a database in memory forgets", "name a file: sqlite:///path.db")
    return f"{scheme}:///{base / path}"


def _url(node: Node) -> str:
    return node.text(pattern=r"https?://[^\s]+", expected="an http:// or https:// URL", secret=True)


def _path(node: Node, base: Path) -> Path:
    text = node.text(expected="a path")
    if not text or "\0" in text:
        node.fail(f"expected a path, got {text!r}")
    return Path(os.path.normpath(base / text))


def _paths(node: Node, base: Path) -> tuple[Path, ...]:
    return tuple(_path(item, base) for item in node.items())


def _unique(node: Node, read: Callable[[Node], Item]) -> tuple[Item, ...]:
    found: dict[str, Item] = {}
    for item in node.items():
        record = read(item)
        if record.id in found:
            raise SourceError(
                item.where,
                f"{node.name}: id {record.id!r} is listed twice",
                "rename one of the two",
            )
        found[record.id] = record
    return tuple(found.values())
