"""Evidence blobs in a local folder, named by their sha256. Written once, never changed."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from firebreak.errors import EvidenceError

CHUNK = 1 << 20


class Blobs:
    """A content-addressed store: `<root>/ab/abcdef…`. Safe with several writers."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, chunks: bytes | Iterable[bytes]) -> tuple[str, int]:
        """Store bytes or a stream of them, in constant memory.

        Returns: sha256 (64 hex digits) and size in bytes. On return the blob is on disk (fsync).
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self.root / f".part-{secrets.token_hex(8)}"
        sha, size = hashlib.sha256(), 0
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as out:
                for chunk in [chunks] if isinstance(chunks, bytes) else chunks:
                    out.write(chunk)
                    sha.update(chunk)
                    size += len(chunk)
                out.flush()
                os.fsync(out.fileno())
            place = self.path(sha.hexdigest())
            if not place.parent.is_dir():
                place.parent.mkdir(exist_ok=True, mode=0o700)
                _sync_folder(self.root)
            part.replace(place)
            _sync_folder(place.parent)
        finally:
            part.unlink(missing_ok=True)
        return sha.hexdigest(), size

    def read(self, digest: str) -> Iterator[bytes]:
        """Stream a blob in chunks of 1 MiB; the digest is checked while reading.

        Raises:
            EvidenceError: missing; or, after the last chunk, bytes that are not those stored.
        """
        sha = hashlib.sha256()
        try:
            with self.path(digest).open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    sha.update(chunk)
                    yield chunk
        except FileNotFoundError as error:
            raise EvidenceError(digest, "is not in the store") from error
        if sha.hexdigest() != digest:
            raise EvidenceError(digest, f"now hashes to {sha.hexdigest()}")

    def get(self, digest: str, limit: int = 64 << 20) -> bytes:
        """A whole blob of at most `limit` bytes. Raises: EvidenceError."""
        data = bytearray()
        for chunk in self.read(digest):
            data += chunk
            if len(data) > limit:
                raise EvidenceError(digest, f"is larger than {limit} bytes")
        return bytes(data)

    def path(self, digest: str) -> Path:
        """Where a blob of that digest lies or would lie."""
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise EvidenceError(digest, "is not a sha256")
        return self.root / digest[:2] / digest


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
