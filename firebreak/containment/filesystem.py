"""`file://<model path>`: a verified quarantine copy; the model itself is never touched.

What a file target can prove: a file serves nobody by itself, and nothing on this host keeps a
process elsewhere (a shared disk, weights already in memory) from using it. So a probe never says
CONTAINED. It says GONE, SERVING while a process here holds a file of the model, UNPROVEN otherwise.
The isolation of a file target is its receipt: the copy, whose digests were read back.
"""

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import ClassVar

from firebreak.checks.hashing import tree_size
from firebreak.containment.driver import Exposure, Mode, Plan, Probe, Receipt
from firebreak.containment.quarantine import CopyError, TreeCopy
from firebreak.errors import ContainmentError
from firebreak.evidence.processes import holders, is_stopped
from firebreak.incidents.case import Case
from firebreak.inventory import Target
from firebreak.records import Json, canonical, now, printable, timestamp


class FileDriver:
    """Keeps a verified, read-only copy of a model as it was found."""

    scheme: ClassVar[str] = "file"

    def plan(self, target: Target, mode: Mode, case: Case) -> Plan:
        """How many files and bytes would be copied. Raises: ContainmentError."""
        model, place = _paths(target, case)
        if not os.path.lexists(model):
            actions: tuple[str, ...] = ("do nothing: the model is missing",)
        elif _kept(place, model) is not None:
            actions = (f"do nothing: {place} is a verified copy",)
        else:
            count, size = _count(model), tree_size(model)
            actions = (f"copy {count} files, {size} bytes, to {place} and read them back",)
        if mode is Mode.DESTRUCTIVE:
            actions += ("destroy nothing: a model is never deleted",)
        return Plan(target.uri, mode, actions, affects=(str(model),))

    def isolate(self, target: Target, mode: Mode, case: Case) -> Receipt:
        """Copy the model into the incident's quarantine, once; both modes do the same.

        The copy lies in `<incident>/quarantine/<name>-<digest>` (files 0400, folders 0500), its
        record in `<name>-<digest>.json`: every file with its sha256, links as text, and what could
        not be copied (`problems`). The record is written last: without it a copy is made anew.

        Raises:
            ContainmentError: the disk is too small (nothing was written), the quarantine would lie
                inside the model, or the copy does not read back as what was copied.
        """
        model, place = _paths(target, case)
        if not os.path.lexists(model):
            return Receipt(target.uri, mode, {"note": "the model is missing: nothing was copied"})
        kept = _kept(place, model)
        if kept is not None:
            return Receipt(target.uri, mode, _undo(place, kept))
        _refuse_impossible(target, model, place)
        try:
            _discard(place)
            record = _copy(model, place)
            _write(_record_path(place), canonical(record))
        except (OSError, CopyError) as error:
            problem = f"cannot be copied to quarantine: {printable(str(error))}"
            raise ContainmentError(target.uri, problem) from error
        left_out = f", {len(record['problems'])} left out" if record["problems"] else ""
        text = f"copied {len(record['files'])} files, {record['size']} bytes, to {place}{left_out}"
        return Receipt(target.uri, mode, _undo(place, record), (text,))

    def release(self, target: Target, receipts: list[Receipt], case: Case) -> Receipt:
        """Nothing: the model was not touched, and the copy is kept as evidence."""
        return Receipt(target.uri, Mode.REVERSIBLE)

    def probe(self, target: Target) -> Probe:
        """GONE, SERVING (a running process holds a file of it), else UNPROVEN; not CONTAINED."""
        model = Path(target.rest)
        if not os.path.lexists(model):
            return Probe(target.uri, Exposure.GONE, "the model is missing")
        pids = holders(model)
        if running := [pid for pid in pids if not is_stopped(pid)]:
            text = f"processes hold files of it: {', '.join(map(str, running[:20]))}"
            return Probe(target.uri, Exposure.SERVING, text)
        text = (
            "no running process holds a file of it; others may have it in memory or read it later"
        )
        return Probe(target.uri, Exposure.UNPROVEN, text)


def quarantine_path(target: Target, case: Case) -> Path:
    """Where the quarantine copy of a `file://` target lies or would lie."""
    return _paths(target, case)[1]


def _paths(target: Target, case: Case) -> tuple[Path, Path]:
    model = Path(os.path.normpath(target.rest))
    if not model.is_absolute():
        raise ContainmentError(target.uri, "expected file:///absolute/path")
    digest = hashlib.sha256(os.fsencode(model)).hexdigest()[:12]
    return model, case.folder / "quarantine" / f"{model.name}-{digest}"


def _record_path(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _count(model: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(model)) if model.is_dir() else 1


def _refuse_impossible(target: Target, model: Path, place: Path) -> None:
    kind = os.lstat(model).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        problem = "is a link or a special file, not a model: write the place it really lies"
        raise ContainmentError(target.uri, problem)
    inside = os.path.realpath(place.parent).startswith(os.path.realpath(model) + os.sep)
    if model.is_dir() and inside:
        problem = f"the quarantine {place.parent} lies inside the model: move `home` elsewhere"
        raise ContainmentError(target.uri, problem)
    needed, free = tree_size(model), shutil.disk_usage(place.parent.parent).free
    if free < needed:
        problem = f"needs {needed} bytes for the quarantine copy, {free} are free at {place.parent}"
        raise ContainmentError(target.uri, problem)


def _copy(model: Path, place: Path) -> Json:
    place.parent.mkdir(exist_ok=True, mode=0o700)
    copy = TreeCopy()
    copy.run(model, place)
    copy.verify(place)
    return {
        "source": printable(str(model)),
        "time": timestamp(now()),
        "size": sum(f["size"] for f in copy.files),
        "files": copy.files,
        "links": copy.links,
        "problems": copy.problems,
    }


def _kept(place: Path, model: Path) -> Json | None:
    """The record of a complete copy that is still there in its full size."""
    try:
        record: Json = json.loads(_record_path(place).read_bytes())
        for file in record["files"]:
            part = place / file["path"] if place.is_dir() else place
            if os.lstat(part).st_size != file["size"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no record, or a damaged one: the copy is made anew
    return record if record["source"] == printable(str(model)) and place.exists() else None


def _undo(place: Path, record: Json) -> Json:
    return {
        "quarantine": str(place),
        "record": str(_record_path(place)),
        "record_sha256": hashlib.sha256(canonical(record)).hexdigest(),
        "files": len(record["files"]),
        "bytes": record["size"],
        "problems": len(record["problems"]),
    }


def _discard(place: Path) -> None:
    """Remove a half-made copy of ours; its folders are read-only."""
    _record_path(place).unlink(missing_ok=True)
    if place.is_dir() and not place.is_symlink():
        for folder, _, _ in os.walk(place):
            Path(folder).chmod(0o700)
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and onto the disk."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
