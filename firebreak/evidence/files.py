"""A model's files and its signature as evidence."""

import os
from collections.abc import Iterator
from pathlib import Path

from firebreak.checks.hashing import Progress, scan
from firebreak.evidence.plain_file import read_plain
from firebreak.incidents.case import Case
from firebreak.records import Json, now, printable, timestamp

MAX_SIGNATURE_BYTES = 16 << 20
MAX_SIGNATURE_FILES = 100


def file_list(path: Path, progress: Progress | None = None) -> Json:
    """Every file of a model with its sha256, and everything under it that could not be hashed.

    Raises:
        OSError: the model itself is missing or cannot be listed.
    """
    tree = scan(path, progress=progress)
    return {
        "taken_at": timestamp(now()),
        "path": printable(str(path)),
        "size": tree.size,
        "files": [
            {"path": f.path, "size": f.size, "sha256": f.sha256}
            | ({"link": f.link} if f.link is not None else {})
            for f in tree.files
        ],
        "problems": [{"path": p.path, "problem": p.problem} for p in tree.problems],
    }


def collect_signature(case: Case, path: Path) -> list[str]:
    """Store a model's signature files; a model without any is journaled as `evidence.warning`.

    Looked for: `.signatures/*`, `model.sig` and `*.oms.sig` in the model's directory; beside a
    single-file model also `<file>.sig`.

    Returns: sha256 of the blobs stored.
    """
    digests = []
    for file in signature_files(path):
        name = printable(os.path.relpath(file, path if path.is_dir() else path.parent))
        try:
            data, _ = read_plain(file, MAX_SIGNATURE_BYTES)
        except OSError as error:
            body = {
                "class": "signature",
                "name": name,
                "error": f"cannot be read: {error.strerror}",
            }
            case.append("evidence.failed", body)
            continue
        media = "application/json" if file.suffix == ".json" else "application/octet-stream"
        source = printable(str(file))
        digests.append(case.add_evidence("signature", name, data, source, media))
    if not digests:
        warning = "the model carries no readable signature"
        case.append("evidence.warning", {"class": "signature", "problem": warning})
    return digests


def signature_files(path: Path) -> list[Path]:
    """The signature files of a model, at most 100, sorted by path."""
    return sorted(_signature_files(path))[:MAX_SIGNATURE_FILES]


def _signature_files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        folder, names = path, {"model.sig"}
    else:
        folder, names = path.parent, {f"{path.name}.sig", f"{path.name}.oms.sig"}
    for file in _entries(folder):
        if file.name in names or (path.is_dir() and file.name.endswith(".oms.sig")):
            yield file
    signatures = folder / ".signatures"
    if path.is_dir() and not signatures.is_symlink():
        yield from _entries(signatures)


def _entries(folder: Path) -> list[Path]:
    return [f for f in folder.iterdir() if not f.is_dir()] if folder.is_dir() else []
