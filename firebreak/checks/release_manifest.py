"""The publisher's manifest of a release: `.signatures/manifest.json` inside the model directory.

We write `{"model", "version", "created", "files": [{"path", "size", "sha256"}, ...]}`. Two older
forms are read as well: `{"files": {path: sha256 | {"sha256", "size"}}}` and a flat `{path: sha256}`
map, which names no model. A manifest comes from outside: it is parsed strictly, because every
leniency (a key given twice, a path that climbs out, two names one file system cannot tell apart)
lets the signed list and the files on disk mean different things.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from firebreak.checks.hashing import FileDigest, Tree
from firebreak.errors import ManifestError
from firebreak.records import canonical, parse_timestamp, printable

SIGNATURES = ".signatures"
MAX_MANIFEST_BYTES = 64 << 20
MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
MAX_TEXT = 200  # characters of a model id or version
MAX_SIZE = 1 << 53  # bytes; integers beyond are not safe in JSON (RFC 8259, section 6)

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a release.

    Attributes:
        path: relative, `/` between parts, safe to join to a directory.
        sha256: of the content, 64 lower-case hex digits.
        size: bytes; None when the manifest does not say.
    """

    path: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ReleaseManifest:
    """A parsed manifest.

    Attributes:
        files: what the release consists of, sorted by path, never empty.
        sha256: of the manifest's bytes.
        model: model id; None when the manifest names none.
        version: version; None when the manifest names none.
        created: RFC 3339 time as written; None when absent. A claim of the publisher.
    """

    files: tuple[ManifestFile, ...]
    sha256: str
    model: str | None = None
    version: str | None = None
    created: str | None = None

    def by_path(self) -> dict[str, ManifestFile]:
        """The files by their path."""
        return {f.path: f for f in self.files}

    @property
    def content_sha256(self) -> str:
        """Digest of names and contents, equal to `content_digest` of a tree that holds them."""
        return _content((f.path, f.sha256) for f in self.files)


def content_digest(files: Iterable[FileDigest]) -> str:
    """Digest of files on disk: names and contents, whatever a manifest beside them claims.

    Two releases have the same digest exactly when they hold the same files. `.signatures`, modes,
    times and empty folders take no part; a link never equals a file.
    """
    return _content(
        (f.path, f.sha256 if f.link is None else f"link:{f.sha256}")
        for f in files
        if not f.path.startswith(f"{SIGNATURES}/")
    )


def render_manifest(model: str, version: str, created: str, tree: Tree) -> bytes:
    """The manifest of a tree in our form, canonical JSON (RFC 8785) and a newline.

    Raises:
        ManifestError: the tree is empty, or holds a path that no manifest may name.
    """
    files = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in tree.files]
    raw = {"model": model, "version": version, "created": created, "files": files}
    data = canonical(raw) + b"\n"
    parse_manifest(data, f"manifest of {printable(model)}")
    return data


def parse_manifest(data: bytes, where: str) -> ReleaseManifest:
    """The manifest in `data`, any of the three forms.

    Args:
        data: the bytes whose signature was verified.
        where: the file, for messages.

    Raises:
        ManifestError: `where` with the line when the JSON itself is broken, and the problem with
            the values in it.
    """
    raw = _decode(data, where)
    if not isinstance(raw, dict):
        raise ManifestError(where, f"expected a JSON object, got {_show(raw)}")
    listed = raw.get("files")
    if isinstance(listed, list):
        files = [_listed(entry, index, where) for index, entry in enumerate(listed)]
    elif isinstance(listed, dict):
        files = [_mapped(path, value, where) for path, value in listed.items()]
    else:
        files = [_file(path, digest, None, where) for path, digest in raw.items()]
        raw = {}
    _check_together(files, where)
    return ReleaseManifest(
        files=tuple(sorted(files, key=lambda f: f.path)),
        sha256=hashlib.sha256(data).hexdigest(),
        model=_text(raw, "model", where),
        version=_text(raw, "version", where),
        created=_created(raw, where),
    )


def _decode(data: bytes, where: str) -> Any:
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(where, f"is {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are read")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}:{error.lineno}", f"is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ManifestError(where, "is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ManifestError(where, f"is not UTF-8 at byte {error.start}") from error
    except ValueError as error:  # of the two hooks, or an integer of thousands of digits
        raise ManifestError(where, str(error)) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {_show(key)} is given twice")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _listed(entry: Any, index: int, where: str) -> ManifestFile:
    if not isinstance(entry, dict) or not {"path", "size", "sha256"} <= entry.keys():
        raise ManifestError(
            where, f"files[{index}] is {_show(entry)}, expected path, size and sha256"
        )
    return _file(entry["path"], entry["sha256"], _size(entry["size"], where), where)


def _mapped(path: str, value: Any, where: str) -> ManifestFile:
    if not isinstance(value, dict):
        return _file(path, value, None, where)
    size = _size(value["size"], where) if "size" in value else None
    return _file(path, value.get("sha256"), size, where)


def _file(path: Any, digest: Any, size: int | None, where: str) -> ManifestFile:
    problem = _path_problem(path)
    if problem:
        raise ManifestError(where, f"path {_show(path)} {problem}")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ManifestError(
            where, f"sha256 of {_show(path)} is {_show(digest)}, expected 64 lower-case hex digits"
        )
    return ManifestFile(path, digest, size)


def _size(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_SIZE:
        raise ManifestError(where, f"size {_show(value)} is not a number of bytes")
    return value


def _path_problem(path: Any) -> str:
    """What is wrong with a path; empty when it may be joined to a directory."""
    if not isinstance(path, str) or not path:
        return "is not a file name"
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in path):
        return "holds control characters"
    if path.startswith("/"):
        return "is absolute"
    if "\\" in path:
        return "holds a backslash"
    parts = path.split("/")
    if ".." in parts:
        return "leaves the release"
    if "" in parts or "." in parts:
        return "is not in normal form"
    if _twin(parts[0]) == SIGNATURES:
        return f"lies in {SIGNATURES}, which cannot list itself"
    if len(path.encode()) > MAX_PATH_BYTES or any(len(p.encode()) > MAX_NAME_BYTES for p in parts):
        return "is too long"
    return ""


def _check_together(files: Sequence[ManifestFile], where: str) -> None:
    """No files at all, names a file system may take for one, a file that is also a folder."""
    if not files:
        raise ManifestError(where, "lists no files")
    seen: dict[str, str] = {}
    for file in files:
        twin = _twin(file.path)
        if twin in seen:
            raise ManifestError(
                where, f"paths {_show(seen[twin])} and {_show(file.path)} name the same file"
            )
        seen[twin] = file.path
    for twin, path in seen.items():
        for folder in _folders(twin):
            if folder in seen:
                raise ManifestError(where, f"{_show(seen[folder])} is also a folder of {path!r}")


def _folders(path: str) -> Iterator[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _twin(path: str) -> str:
    """What names have in common that a file system without case or normal forms mixes up."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _text(raw: Mapping[str, Any], key: str, where: str) -> str | None:
    if key not in raw:
        return None
    value = raw[key]
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise ManifestError(where, f"{key} is {_show(value)}, expected 1 to {MAX_TEXT} characters")
    return value


def _created(raw: Mapping[str, Any], where: str) -> str | None:
    text = _text(raw, "created", where)
    try:
        if text is not None:
            parse_timestamp(text)
    except ValueError as error:
        raise ManifestError(where, f"created: {printable(str(error))}") from error
    return text


def _content(files: Iterable[tuple[str, str]]) -> str:
    sha = hashlib.sha256()
    for path, digest in sorted(files):
        sha.update(f"{path}\0{digest}\0".encode())
    return sha.hexdigest()


def _show(value: Any) -> str:
    text = repr(value)
    return printable(text if len(text) <= 120 else f"{text[:117]}...")
