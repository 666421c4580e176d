"""Evidence blobs: content-addressed, durable, never silently wrong."""

import hashlib
import threading

import pytest

from firebreak.errors import EvidenceError
from firebreak.incidents.blobs import Blobs


def test_what_is_put_is_got_under_its_sha256(tmp_path):
    """Bytes and streams of the same bytes are one blob, private and read-only."""
    blobs = Blobs(tmp_path / "evidence")
    digest, size = blobs.put(b"abc")
    assert (digest, size) == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert blobs.put(iter([b"a", b"", b"bc"])) == (digest, size)
    assert blobs.get(digest) == b"abc"
    assert blobs.path(digest).stat().st_mode & 0o777 == 0o400
    assert [p.name for p in (tmp_path / "evidence").rglob("*") if p.is_file()] == [digest]


def test_an_empty_blob_is_a_blob(tmp_path):
    """No output at all can be evidence."""
    digest, size = Blobs(tmp_path).put(b"")
    assert (size, Blobs(tmp_path).get(digest)) == (0, b"")


def test_many_writers_of_the_same_blob_agree(tmp_path):
    """Two steps that capture the same bytes at once both succeed."""
    blobs, found = Blobs(tmp_path), []
    threads = [
        threading.Thread(target=lambda: found.append(blobs.put([b"x" * 999] * 99)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert list(tmp_path.glob(".part-*")) == []


def test_a_stream_that_breaks_leaves_nothing_behind(tmp_path):
    """Half a capture is not evidence."""

    def broken():
        yield b"half"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        Blobs(tmp_path).put(broken())
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_changed_evidence_is_found_on_reading(tmp_path):
    """The digest is checked each time, to the last byte."""
    blobs = Blobs(tmp_path)
    digest, _ = blobs.put(b"abc" * 1000)
    blobs.path(digest).chmod(0o600)
    with blobs.path(digest).open("r+b") as stream:
        stream.seek(2999)
        stream.write(b"x")
    with pytest.raises(EvidenceError, match=f"evidence {digest}: now hashes to"):
        blobs.get(digest)


def test_missing_evidence_is_named(tmp_path):
    """The error has the digest that the journal has."""
    with pytest.raises(EvidenceError, match=f"{'a' * 64}: is not in the store"):
        Blobs(tmp_path).get("a" * 64)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "A" * 64, "a" * 63, "", "٣" * 64])
def test_what_is_no_digest_never_becomes_a_path(tmp_path, digest):
    """A digest from a journal or a bundle cannot lead out of the folder."""
    with pytest.raises(EvidenceError, match="is not a sha256"):
        Blobs(tmp_path).path(digest)


def test_a_blob_over_the_limit_is_not_read_into_memory(tmp_path):
    """Callers say how much they can take."""
    digest, _ = Blobs(tmp_path).put(b"x" * 100)
    with pytest.raises(EvidenceError, match="is larger than 10 bytes"):
        Blobs(tmp_path).get(digest, limit=10)
