"""The journal's hash chain: pure functions over entries, no storage.

An entry is `{seq, prev, time, actor, kind, body}`. Its hash is sha256 over the canonical JSON
(RFC 8785) of the entry; `prev` is the hash of the entry before it. Editing, dropping, inserting or
swapping entries breaks the chain at that place. Cutting the tail off does not: the head that the
store keeps apart, signed checkpoints inside the chain and exported bundles are for that.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from firebreak.errors import JournalCorruptError
from firebreak.records import Json, digest_of, encodable, now, timestamp

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal entry.

    Attributes:
        seq: 0, 1, 2 ... without gaps.
        prev: hash of the entry before; 64 zeros for the first.
        time: RFC 3339, UTC, milliseconds.
        actor: who: `firebreak`, a person's id, or a detector.
        kind: such as `finding.added`, `step.started`, `action.finished`; see docs/journal.md.
        body: JSON.
    """

    seq: int
    prev: str
    time: str
    actor: str
    kind: str
    body: Json
    _hash: str = field(default="", init=False, compare=False, repr=False)

    def to_json(self) -> Json:
        """The entry as it is hashed and stored."""
        return {
            "seq": self.seq,
            "prev": self.prev,
            "time": self.time,
            "actor": self.actor,
            "kind": self.kind,
            "body": self.body,
        }

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON, 64 hex digits."""
        return self._hash or digest_of(self.to_json())

    @classmethod
    def from_stored(cls, raw: str) -> "Entry":
        """The entry whose canonical JSON is `raw`; its hash is that of these very bytes.

        Twenty times faster than writing the canonical form again. Whoever must know that `raw` is
        canonical compares the hash with `digest_of(entry.to_json())`.

        Raises:
            KeyError, ValueError: not an entry.
        """
        entry = cls.from_json(json.loads(raw))
        object.__setattr__(entry, "_hash", hashlib.sha256(raw.encode()).hexdigest())
        return entry

    @classmethod
    def from_json(cls, raw: Json) -> "Entry":
        """The entry that `to_json` wrote. Raises: KeyError when a field is missing."""
        return cls(raw["seq"], raw["prev"], raw["time"], raw["actor"], raw["kind"], raw["body"])


def next_entry(
    last: Entry | None, actor: str, kind: str, body: Json, time: datetime | None = None
) -> Entry:
    """The entry that follows `last` (None starts a journal).

    Text that is not UTF-8 (an argument or file name) is escaped: it must not stop the record.
    """
    seq, prev = (0, GENESIS) if last is None else (last.seq + 1, last.hash)
    return Entry(seq, prev, timestamp(time or now()), encodable(actor), kind, encodable(body))


def verify_chain(incident: str, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries, each checked against the one before it.

    Raises:
        JournalCorruptError: at the first entry that does not fit.
    """
    prev, seq = GENESIS, 0
    for entry in entries:
        if entry.seq != seq:
            raise JournalCorruptError(incident, seq, f"expected seq {seq}, found {entry.seq}")
        if entry.prev != prev:
            raise JournalCorruptError(
                incident, seq, f"prev is {entry.prev[:16]}, the entry before hashes to {prev[:16]}"
            )
        yield entry
        prev, seq = entry.hash, seq + 1
