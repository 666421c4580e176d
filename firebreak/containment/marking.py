"""The mark on a model: a record beside our own data, never a file in the model's directory.

Other tools read `<home>/marks/<model>.json` before they deploy, copy or serve a model.
"""

import json
import os

from firebreak.incidents.case import Case
from firebreak.records import Json, now, timestamp

COMPROMISED, RESTORED = "compromised", "restored"


def mark(case: Case, as_: str, version: str | None = None) -> Json:
    """Mark the incident's model, once per step, journaled.

    Args:
        case: the incident.
        as_: `COMPROMISED` or `RESTORED`.
        version: the version that was restored.

    Returns: the record: model, path, mark, incident, since, and the files seen changed.
    """
    model = case.model
    record: Json = {
        "model": model.id,
        "version": version or model.version,
        "path": str(model.path),
        "mark": as_,
        "incident": case.id,
        "since": timestamp(now()),
        "files": _changed(case) if as_ == COMPROMISED else [],
    }

    def act() -> Json:
        place = case.inventory.home / "marks" / f"{model.id}.json"
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        with part.open("w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=1, ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(place)
        return {"path": str(place), **record}

    return case.perform("mark", f"{model.id}:{as_}", act)


def _changed(case: Case) -> list[Json]:
    """The files that integrity findings name, with the digest seen."""
    found = [e.body["evidence"] for e in case.entries() if e.kind == "finding.added"]
    return [
        {"file": f["file"], "sha256": f.get("actual_sha256")}
        for f in found
        if "file" in f and "baseline" in f
    ]
