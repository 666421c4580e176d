"""One file that holds a whole incident and proves itself: no server, no database needed.

A bundle is an uncompressed tar: `journal.jsonl`, `evidence/<sha256>`, the reports, the statement
`bundle.dsse.json` (every file with its digest, and the journal's head, sealed), `evidence.pub`.
A bundle is foreign data when it is verified: read member by member, never extracted.
"""

import hashlib
import io
import json
import os
import re
import secrets
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from firebreak.errors import BundleError, FirebreakError, JournalCorruptError
from firebreak.incidents.case import Case
from firebreak.incidents.journal import Entry, verify_chain
from firebreak.records import Json, digest_of, now, timestamp
from firebreak.sealing import Sealer, sealer_from_pem

STATEMENT, PUBLIC_KEY, JOURNAL = "bundle.dsse.json", "evidence.pub", "journal.jsonl"
MAX_SMALL = 256 << 20
_NAME = re.compile(
    r"journal\.jsonl|bundle\.dsse\.json|evidence\.pub|report\.(?:md|html)"
    r"|evidence/[0-9a-f]{64}"
)
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class BundleReport:
    """What verifying a bundle (or a stored incident) proved.

    Attributes:
        incident: its id.
        entries: number of journal entries, chain intact.
        head: hash of the last one.
        evidence: number of evidence blobs, all with their digests.
        checkpoints: sealed heads inside the journal that fit the chain.
        key_id: key that sealed it.
        signer_proven: of a bundle: the key was given by the caller; else only the bundle vouches
            for itself. Of a stored incident: its journal holds a head sealed by the key.
    """

    incident: str
    entries: int
    head: str
    evidence: int
    checkpoints: int
    key_id: str
    signer_proven: bool

    def to_json(self) -> Json:
        """The report as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def export_bundle(case: Case, place: Path) -> BundleReport:
    """Write an incident's bundle; an existing file is replaced only when the new one is complete.

    Raises:
        JournalCorruptError, EvidenceError: what is stored does not verify; nothing is written.
        OSError: the place cannot be written.
    """
    case.checkpoint()
    report = verify_stored(case)
    entries = case.entries()
    part = place.with_name(f".{place.name}.{secrets.token_hex(8)}.part")
    try:
        with (
            open(part, "xb", opener=_private) as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            files = [_add(tar, name, content) for name, content in _members(case, entries)]
            statement = {
                "incident": case.id,
                "exported": timestamp(now()),
                "entries": len(entries),
                "head": entries[-1].hash,
                "files": files,
            }
            sealer = case.sealer()
            sealed = json.dumps(sealer.seal("bundle", statement)).encode()
            _add(tar, STATEMENT, io.BytesIO(sealed))
            _add(tar, PUBLIC_KEY, io.BytesIO(sealer.public_pem.encode()))
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return report


def verify_bundle(path: Path, key: Sealer | None = None) -> BundleReport:
    """Verify a bundle offline.

    Args:
        path: the file.
        key: who must have sealed it; without it the bundle's own key is used, and the outcome says
            that the signer is unproven.

    Raises:
        BundleError: the first thing that does not fit, with its place.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            small, digests = _read(tar, str(path))
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise BundleError(str(path), f"cannot be read: {error}") from error
    for name in (STATEMENT, PUBLIC_KEY, JOURNAL):
        if name not in small:
            raise BundleError(str(path), f"{name} is missing")
    try:
        sealer = key or sealer_from_pem(small[PUBLIC_KEY], PUBLIC_KEY)
        statement = sealer.open("bundle", json.loads(small[STATEMENT]), STATEMENT)
        _check_files(statement, digests, str(path))
        lines = small[JOURNAL].decode().removesuffix("\n").split("\n")
        entries = list(
            verify_chain(
                statement["incident"], (Entry.from_json(json.loads(line)) for line in lines)
            )
        )
        checkpoints = _checkpoints(statement["incident"], entries, sealer)
        collected = _collected(entries)
    except BundleError:
        raise
    except FirebreakError as error:
        raise BundleError(str(path), str(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(str(path), f"malformed: {error!r}") from error
    if small[PUBLIC_KEY] != sealer.public_pem.encode():
        raise BundleError(str(path), f"{PUBLIC_KEY} is not the key that sealed it")
    if not entries or entries[-1].hash != statement["head"]:
        raise BundleError(str(path), "the journal does not end at the sealed head")
    blobs = {name.removeprefix("evidence/") for name in digests if name.startswith("evidence/")}
    if missing := collected - blobs:
        raise BundleError(
            str(path), f"evidence {min(missing)} is in the journal, not in the bundle"
        )
    return BundleReport(
        statement["incident"],
        len(entries),
        entries[-1].hash,
        len(blobs),
        checkpoints,
        sealer.key_id,
        key is not None,
    )


def verify_stored(case: Case) -> BundleReport:
    """Verify an incident where it is stored: chain, sealed heads, and every evidence blob.

    Raises:
        JournalCorruptError, SealError, EvidenceError: what does not fit.
    """
    entries = case.entries()
    for entry in entries:
        if digest_of(entry.to_json()) != entry.hash:
            raise JournalCorruptError(case.id, entry.seq, "is not stored in canonical form")
    sealer = case.sealer()
    checkpoints = _checkpoints(case.id, entries, sealer)
    digests = _collected(entries)
    for digest in sorted(digests):
        for _chunk in case.blobs.read(digest):
            pass
    return BundleReport(
        case.id,
        len(entries),
        entries[-1].hash,
        len(digests),
        checkpoints,
        sealer.key_id,
        checkpoints > 0,
    )


def _members(case: Case, entries: list[Entry]) -> Iterator[tuple[str, IO[bytes]]]:
    lines = "".join(json.dumps(e.to_json(), ensure_ascii=False) + "\n" for e in entries)
    yield JOURNAL, io.BytesIO(lines.encode())
    for digest in sorted(_collected(entries)):
        with case.blobs.path(digest).open("rb") as stream:
            yield f"evidence/{digest}", stream
    for name in ("report.md", "report.html"):
        if (case.folder / name).is_file():
            with (case.folder / name).open("rb") as stream:
                yield name, stream


def _add(tar: tarfile.TarFile, name: str, stream: IO[bytes]) -> Json:
    """Add one member with neutral metadata; returns its line for the statement."""
    sha = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    info = tarfile.TarInfo(name)
    info.size, info.mode = stream.seek(0, io.SEEK_END), 0o444
    stream.seek(0)
    tar.addfile(info, stream)
    return {"name": name, "size": info.size, "sha256": sha}


def _read(tar: tarfile.TarFile, where: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """The small members' bytes and every member's sha256; refuses anything unexpected."""
    small: dict[str, bytes] = {}
    digests: dict[str, str] = {}
    end = 0
    for member in tar:
        plain = member.type == tarfile.REGTYPE and not member.issparse()
        if not _NAME.fullmatch(member.name) or not plain or member.name in digests:
            raise BundleError(where, f"unexpected member {member.name!r}")
        stream = tar.extractfile(member)
        assert stream is not None  # noqa: S101 - regular files have a stream
        keep = member.name in (STATEMENT, PUBLIC_KEY, JOURNAL)
        if keep and member.size > MAX_SMALL:
            raise BundleError(where, f"{member.name} is larger than {MAX_SMALL} bytes")
        sha, kept = hashlib.sha256(), bytearray()
        while chunk := stream.read(CHUNK):
            sha.update(chunk)
            kept += chunk if keep else b""
        digests[member.name] = sha.hexdigest()
        if keep:
            small[member.name] = bytes(kept)
        name = member.name.removeprefix("evidence/")
        if name != member.name and name != sha.hexdigest():
            raise BundleError(where, f"evidence {name} hashes to {sha.hexdigest()}")
        end = member.offset_data + member.size
    _refuse_trailing(tar, end, where)
    return small, digests


def _refuse_trailing(tar: tarfile.TarFile, end: int, where: str) -> None:
    """After the last member there are zeros only: nothing hides where a reader stops."""
    assert tar.fileobj is not None  # noqa: S101 - open for reading
    tar.fileobj.seek(end)
    while chunk := tar.fileobj.read(CHUNK):
        if chunk.strip(b"\0"):
            raise BundleError(where, "something that is no member follows the last one")


def _private(path: str, flags: int) -> int:
    """A bundle holds evidence: only its owner may read it."""
    return os.open(path, flags, 0o600)


def _check_files(statement: Json, digests: dict[str, str], where: str) -> None:
    sealed = {f["name"]: f["sha256"] for f in statement["files"]}
    found = {k: v for k, v in digests.items() if k not in (STATEMENT, PUBLIC_KEY)}
    for name in sorted(sealed.keys() | found.keys()):
        if sealed.get(name) != found.get(name):
            raise BundleError(
                where,
                f"{name} is {found.get(name, 'missing')}, sealed was {sealed.get(name, 'nothing')}",
            )


def _collected(entries: Iterable[Entry]) -> set[str]:
    return {e.body["sha256"] for e in entries if e.kind == "evidence.collected"}


def _checkpoints(incident: str, entries: list[Entry], sealer: Sealer) -> int:
    """Number of sealed heads; each must open with the key and be the hash of its entry here."""
    count = 0
    for entry in entries:
        if entry.kind != "journal.checkpoint":
            continue
        where = f"checkpoint at entry {entry.seq}"
        record = sealer.open("checkpoint", entry.body, where)
        seq = record["seq"]
        if record["incident"] != incident:
            raise BundleError(where, f"seals the journal of {record['incident']}, not {incident}")
        if not 0 <= seq < entry.seq or entries[seq].hash != record["head"]:
            raise BundleError(where, f"seals another journal: entry {seq} does not hash to it")
        count += 1
    return count
