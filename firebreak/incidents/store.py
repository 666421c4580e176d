"""The incident store: incidents and their journals in one SQL database.

Appending is optimistic: `(incident, seq)` is unique, so of two writers at the same place one is
told and tries the next place; the chain cannot fork. One incident per subject can be open at a
time, by a unique index: two detectors that see the same thing open one incident. The newest head
is kept in the incident's row, in the transaction that appends: a journal that was cut ends early.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    and_,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from firebreak.errors import (
    JournalContendedError,
    JournalCorruptError,
    StoreError,
    UnknownIncidentError,
)
from firebreak.incidents.journal import Entry, next_entry
from firebreak.records import Json, canonical, now, timestamp
from firebreak.settings import database_file

APPEND_ATTEMPTS = 64
BUSY_TIMEOUT_S = 30.0
_CHECKPOINT = '%"kind":"journal.checkpoint"%'  # as canonical JSON has it

_metadata = MetaData()
_incidents = Table(
    "incidents",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("subject", String(160), nullable=False),
    Column("opened_at", String(32), nullable=False),
    Column("closed_at", String(32)),
    Column("head_seq", Integer, nullable=False),
    Column("head_hash", String(64), nullable=False),
)
Index(
    "one_open_incident_per_subject",
    _incidents.c.subject,
    unique=True,
    sqlite_where=_incidents.c.closed_at.is_(None),
    postgresql_where=_incidents.c.closed_at.is_(None),
)
_entries = Table(
    "entries",
    _metadata,
    Column("incident", String(32), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("entry", Text, nullable=False),
)


_listed = (_incidents.c.id, _incidents.c.subject, _incidents.c.opened_at, _incidents.c.closed_at)
_stored = (
    _incidents.c.head_seq,
    _incidents.c.head_hash,
    _entries.c.seq,
    _entries.c.hash,
    _entries.c.entry,
)


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """An incident as the store lists it; everything else about it is in its journal."""

    id: str
    subject: str
    opened_at: str
    closed_at: str | None


class Store:
    """One incident store, by SQLAlchemy URL. Cheap to make; safe to use from several processes.

    Every method raises StoreError when the database cannot be read or written.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            make_url(url)
        except (SQLAlchemyError, ValueError):  # its words repeat a password that stands for a port
            raise StoreError(_shown(url), "expected one such as sqlite:///path.db") from None
        try:
            self._engine = _connect(url)
        except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
            raise StoreError(_shown(url), _reason(error)) from error

    def open_incident(self, subject: str, actor: str, body: Json) -> tuple[str, bool]:
        """The open incident of a subject, opened now when there is none.

        Returns: its id (`INC-20260102-0a1b2c`) and whether this call opened it.
        """
        for _ in range(APPEND_ATTEMPTS):
            found = self.open_incident_of(subject)
            if found is not None:
                return found, False
            moment = now()
            incident = f"INC-{moment:%Y%m%d}-{random.SystemRandom().randrange(1 << 24):06x}"
            first = next_entry(None, actor, "incident.opened", {"subject": subject, **body}, moment)
            try:
                with self._database() as db:
                    db.execute(
                        insert(_incidents).values(
                            id=incident,
                            subject=subject,
                            opened_at=timestamp(moment),
                            head_seq=first.seq,
                            head_hash=first.hash,
                        )
                    )
                    db.execute(insert(_entries).values(_row(incident, first)))
            except IntegrityError:
                continue  # somebody else opened one for this subject first
            return incident, True
        raise JournalContendedError(subject, APPEND_ATTEMPTS)

    def open_incident_of(self, subject: str) -> str | None:
        """The id of the subject's open incident, or None."""
        query = select(_incidents.c.id).where(
            _incidents.c.subject == subject, _incidents.c.closed_at.is_(None)
        )
        with self._database() as db:
            return db.execute(query).scalar_one_or_none()

    def close_incident(self, incident: str) -> None:
        """Mark an incident closed; the next finding of its subject opens another one."""
        with self._database() as db:
            db.execute(
                update(_incidents)
                .where(_incidents.c.id == incident, _incidents.c.closed_at.is_(None))
                .values(closed_at=timestamp(now()))
            )

    def incidents(self) -> list[IncidentRow]:
        """All incidents, newest first."""
        query = select(*_listed).order_by(_incidents.c.opened_at.desc(), _incidents.c.id)
        with self._database() as db:
            return [IncidentRow(*row) for row in db.execute(query)]

    def incident(self, incident: str) -> IncidentRow:
        """One incident. Raises: UnknownIncidentError."""
        with self._database() as db:
            row = db.execute(select(*_listed).where(_incidents.c.id == incident)).one_or_none()
        if row is None:
            raise UnknownIncidentError(incident, self.place)
        return IncidentRow(*row)

    def append(
        self, incident: str, actor: str, kind: str, body: Json, time_: datetime | None = None
    ) -> Entry:
        """Append an entry and return it once it is durable.

        Raises:
            UnknownIncidentError: no such incident.
            JournalContendedError: other writers took every place tried.
            JournalCorruptError: the journal was cut, or its end does not verify.
        """
        for attempt in range(APPEND_ATTEMPTS):
            entry = next_entry(self.last(incident), actor, kind, body, time_)
            if self._insert(incident, [entry]):
                return entry
            time.sleep(random.uniform(0, 0.002 * min(attempt + 1, 20)))  # noqa: S311 - jitter
        raise JournalContendedError(incident, APPEND_ATTEMPTS)

    def append_after(
        self, last: Entry, incident: str, actor: str, kind: str, bodies: Sequence[Json]
    ) -> list[Entry] | None:
        """Append entries of one kind right after `last`, all or none, in one transaction.

        For writers whose entries depend on everything before them.

        Returns: the entries; None when somebody else's stands there already.

        Raises:
            JournalCorruptError: `last` is not the head that was written last.
        """
        entries: list[Entry] = []
        for body in bodies:
            entries.append(next_entry(entries[-1] if entries else last, actor, kind, body))
        return entries if self._insert(incident, entries) else None

    def _insert(self, incident: str, entries: Sequence[Entry]) -> bool:
        if not entries:
            return True
        first, last = entries[0], entries[-1]
        advance = (
            update(_incidents)
            .where(
                _incidents.c.id == incident,
                _incidents.c.head_seq == first.seq - 1,
                _incidents.c.head_hash == first.prev,
            )
            .values(head_seq=last.seq, head_hash=last.hash)
        )
        try:
            with self._database() as db:
                db.execute(insert(_entries), [_row(incident, entry) for entry in entries])
                if db.execute(advance).rowcount != 1:  # the place was free, yet was written before
                    raise JournalCorruptError(
                        incident, first.seq, f"entry {first.seq - 1} is not the head written last"
                    )
        except IntegrityError:
            return False
        return True

    def entries(self, incident: str, after: int = -1) -> Iterator[Entry]:
        """The incident's entries with seq > after, in order, each read back and checked.

        Raises:
            UnknownIncidentError: no such incident.
            JournalCorruptError: a stored entry is not JSON, or not what its hash column says; or,
                after the last entry, the journal ends elsewhere than where writing ended.
        """
        rows = self._rows(incident, _entries.c.seq > after)
        head_seq, head_hash = rows[0][:2]
        end, digest = after, None
        for _, _, seq, stored, raw in rows:
            if seq is not None:
                yield _parse(incident, seq, stored, raw)
                end, digest = seq, stored
        _check_end(incident, end, digest, head_seq, head_hash)

    def sealed_heads(self) -> bool:
        """Whether any journal holds a head that the installation's key sealed."""
        query = select(_entries.c.seq).where(_entries.c.entry.like(_CHECKPOINT)).limit(1)
        with self._database() as db:
            return db.execute(query).first() is not None

    @property
    def place(self) -> str:
        """The store's address without a password, for messages."""
        return _shown(self.url)

    @contextmanager
    def _database(self) -> Iterator[Connection]:
        """One transaction; what the database says against it becomes a StoreError."""
        try:
            with self._engine.begin() as db:
                yield db
        except IntegrityError:
            raise  # a place in the journal is taken: the caller tries the next one
        except SQLAlchemyError as error:
            raise StoreError(self.place, _reason(error)) from error

    def last(self, incident: str) -> Entry:
        """The newest entry. Raises: UnknownIncidentError, JournalCorruptError."""
        ((head_seq, head_hash, seq, stored, raw),) = self._rows(incident, newest=True)
        if seq is None:
            _check_end(incident, -1, None, head_seq, head_hash)
        entry = _parse(incident, seq, stored, raw)
        _check_end(incident, seq, stored, head_seq, head_hash)
        return entry

    def _rows(
        self, incident: str, *conditions: ColumnElement[bool], newest: bool = False
    ) -> Sequence[Row[tuple[int, str, int | None, str, str]]]:
        """The head and the entries of one moment, by one statement; one row when none fits."""
        joined = _incidents.outerjoin(
            _entries, and_(_entries.c.incident == _incidents.c.id, *conditions)
        )
        query = select(*_stored).select_from(joined).where(_incidents.c.id == incident)
        query = (
            query.order_by(_entries.c.seq.desc()).limit(1)
            if newest
            else query.order_by(_entries.c.seq)
        )
        with self._database() as db:
            rows = db.execute(query).all()
        if not rows:
            raise UnknownIncidentError(incident, self.place)
        return rows


def holds_seals(url: str) -> bool:
    """Whether a store, which is not made by asking, holds a sealed head. Raises: StoreError."""
    file = database_file(url)
    return (file is None or file.exists()) and Store(url).sealed_heads()


def _check_end(
    incident: str, end: int, digest: str | None, head_seq: object, head_hash: object
) -> None:
    """Refuse an empty journal, and one that does not end at the head that was written last."""
    if end < 0 or end != head_seq:  # SQLite keeps any value in any column
        problem = f"ends at {end}" if end >= 0 else "is empty"
        written = str(head_seq + 1 if isinstance(head_seq, int) else head_seq)[:16]
        raise JournalCorruptError(
            incident, end + 1, f"the journal {problem}, {written} were written"
        )
    if digest is not None and digest != head_hash:
        raise JournalCorruptError(
            incident, end, f"hashes to {digest[:16]}, written last was {str(head_hash)[:16]}"
        )


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return "with an address that is no URL"


def _reason(error: Exception) -> str:
    """The database's own words, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _row(incident: str, entry: Entry) -> Json:
    return {
        "incident": incident,
        "seq": entry.seq,
        "hash": entry.hash,
        "entry": canonical(entry.to_json()).decode(),
    }


def _parse(incident: str, seq: int, digest: str, raw: str) -> Entry:
    try:
        entry = Entry.from_stored(raw)
        found = entry.hash
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalCorruptError(incident, seq, f"is not a journal entry: {error}") from error
    if entry.seq != seq:
        raise JournalCorruptError(incident, seq, f"stands at {seq} and says {entry.seq}")
    if found != digest:
        raise JournalCorruptError(incident, seq, f"hashes to {found[:16]}, stored {digest[:16]}")
    return entry


def _connect(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(parsed, pool_pre_ping=True)
        _metadata.create_all(engine)
        return engine
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _configure_sqlite)
    for attempt in range(10):
        try:
            _metadata.create_all(engine)
            break
        except OperationalError:  # another process creates the same tables right now
            if attempt == 9:
                raise
            time.sleep(0.05 * (attempt + 1))
    return engine


def _configure_sqlite(connection: object, _record: object) -> None:
    """WAL lets readers go on while one writes; FULL keeps acknowledged entries over a power cut."""
    # Bytes that are no longer UTF-8 must reach the hash check, which names the entry.
    connection.text_factory = _text  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
