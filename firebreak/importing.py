"""Importing the JSON configuration of the earlier monitor scripts into an inventory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from firebreak.checks.dependencies import SUBJECT
from firebreak.errors import SourceError
from firebreak.records import Json, printable
from firebreak.settings import hidden
from firebreak.yaml_source import ID_PATTERN, read_source

MAX_BYTES = 4 << 20
KNOWN = (
    "check_interval_seconds",
    "alert_webhook",
    "models",
    "monitored_models",
    "baseline_dependencies",
    "behavior_drift_threshold",
)

_NEW = """\
# Firebreak's inventory: what is watched, where it runs, who is asked. docs/inventory.md has it all.
firebreak: 1
check_interval: 5m
respond: manual            # automatic: the playbook starts by itself when an incident opens
models: []
#  - id: sentiment
#    version: "1.1.0"
#    path: models/sentiment
#    critical: true
#    archive: archive/sentiment          # one folder per signed version, to roll back to
#    targets:
#      - {uri: docker://model=sentiment}
people: []
#  - {id: ana, name: Ana, roles: [incident-commander, ml-oncall]}
#  - {id: ben, name: Ben, roles: [incident-commander, security-lead]}  # who starts cannot approve
channels: []
#  - {id: log, kind: file, path: messages}
"""


def new_inventory() -> str:
    """An inventory to start from, with examples in comments."""
    return _NEW


def import_config(path: Path) -> tuple[str, list[str]]:
    """An inventory from an earlier monitor's `config.json`, and notes about what needs a look.

    Raises:
        SourceError: with the line where the JSON is broken, or the key that cannot be used.
    """
    raw = _read(path)
    notes = [f"key {key!r} is not known and was left out" for key in raw if key not in KNOWN]
    base = path.resolve().parent
    seconds = raw.get("check_interval_seconds", 300)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= 604800:
        raise SourceError(
            str(path),
            f"check_interval_seconds is {seconds!r}",
            "a whole number of seconds, 1 to 604800",
        )
    inventory: Json = {
        "firebreak": 1,
        "check_interval": f"{seconds}s",
        "drift_threshold": _threshold(raw, path),
        "models": _models(raw, base, path),
    }
    if dependencies := raw.get("baseline_dependencies"):
        inventory["dependencies"] = _dependencies(dependencies, path)
    if webhook := raw.get("alert_webhook"):
        if not isinstance(webhook, str) or not re.fullmatch(r"https?://\S+", webhook):
            raise SourceError(str(path), f"alert_webhook is {hidden(webhook)}", "an http(s):// URL")
        inventory["channels"] = [{"id": "alert-webhook", "kind": "webhook", "url": webhook}]
        notes.append("the webhook is not signed; add `secret: env:NAME` to its channel")
    notes.append("add targets, archive and people before a response can contain and roll back")
    header = "# Imported from an earlier monitor's configuration. docs/inventory.md explains it.\n"
    text = yaml.dump(inventory, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return header + text, notes


class _Dumper(yaml.SafeDumper):
    """Quotes every text that starts like a number: our dialect reads more of them as numbers."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if re.match(r"[-+.0-9]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _read(path: Path) -> Json:
    data = read_source(path, MAX_BYTES)
    try:
        raw = json.loads(data)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{path}:{error.lineno}:{error.colno}", f"not JSON: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(str(path), f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise SourceError(str(path), "expected a JSON object")
    _refuse_surrogates(raw, path)
    return raw


def _refuse_surrogates(raw: Json, path: Path) -> None:
    """Refuse text that no file can hold, in keys and values, naming its place in the JSON."""
    waiting: list[tuple[str, Any]] = [("", raw)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}".lstrip("."), item) for key, item in value.items()]
            waiting += [(f"a key of {name or 'the object'}", key) for key in value]
        elif isinstance(value, list):
            waiting += [(f"{name}[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, str) and (found := re.search(r"[\ud800-\udfff]", value)):
            raise SourceError(
                str(path),
                f"{printable(name)}: U+{ord(found[0]):04X} is half a character, not text",
                "write the character itself",
            )


def _list(raw: Json, key: str, path: Path) -> list[Any]:
    found = raw.get(key, [])
    if not isinstance(found, list):
        raise SourceError(str(path), f"{key} is {type(found).__name__}, expected a list")
    return found


def _models(raw: Json, base: Path, path: Path) -> list[Json]:
    """The models of both lists; one that stands in both is watched once."""
    found: dict[str, Json] = {}
    for name, listed in _listed(raw, path):
        model = _model(listed, name, base, path)
        known = found.setdefault(model["id"], model)
        if known["path"] != model["path"]:
            raise SourceError(
                str(path),
                f"{name}: id {model['id']!r} has two paths, {known['path']} and {model['path']}",
                "rename one of the two",
            )
        known["critical"] = known["critical"] or model["critical"]
    return list(found.values())


def _listed(raw: Json, path: Path) -> Iterator[tuple[str, Any]]:
    for key in ("models", "monitored_models"):
        for index, model in enumerate(_list(raw, key, path)):
            yield f"{key}[{index}]", model


def _model(raw: Any, name: str, base: Path, path: Path) -> Json:
    if not isinstance(raw, dict):
        raise SourceError(str(path), f"{name} is {raw!r}, expected an object")
    model_id, place = raw.get("id"), raw.get("path")
    if not isinstance(model_id, str) or not re.fullmatch(ID_PATTERN, model_id):
        raise SourceError(
            str(path),
            f"{name}.id is {model_id!r}",
            "letters, digits, dot, dash and underscore",
        )
    if model_id == SUBJECT:
        raise SourceError(
            str(path),
            f"{name}.id: {SUBJECT!r} is what incidents about packages are called",
            "rename the model",
        )
    if not isinstance(place, str) or not place:
        raise SourceError(str(path), f"{name}.path is {place!r}", "expected a path")
    critical = raw.get("critical", False)
    if not isinstance(critical, bool):
        raise SourceError(str(path), f"{name}.critical is {critical!r}", "true or false")
    return {"id": model_id, "path": str(base / place), "critical": critical}


def _threshold(raw: Json, path: Path) -> float:
    value = raw.get("behavior_drift_threshold", 0.15)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise SourceError(str(path), f"behavior_drift_threshold is {value!r}", "0 to 1 (nats)")
    return float(value)


def _dependencies(raw: Any, path: Path) -> Json:
    if not isinstance(raw, dict) or not all(isinstance(v, str) for v in raw.values()):
        raise SourceError(str(path), "baseline_dependencies must map names to versions")
    return raw
