"""The incident store: incidents and their journals in one SQL database.

Appending is optimistic: `(incident, seq)` is unique, so of two writers at the same place one is
told and tries the next place; the chain cannot fork. One incident per subject can be open at a
time, by a unique index: two detectors that see the same thing open one incident.
"""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import (
    Column,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError

from firebreak.errors import JournalContendedError, JournalCorruptError, UnknownIncidentError
from firebreak.incidents.journal import Entry, next_entry
from firebreak.records import Json, canonical, now, timestamp

APPEND_ATTEMPTS = 64
BUSY_TIMEOUT_S = 30.0

_metadata = MetaData()
_incidents = Table(
    "incidents",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("subject", String(160), nullable=False),
    Column("opened_at", String(32), nullable=False),
    Column("closed_at", String(32)),
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


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """An incident as the store lists it; everything else about it is in its journal."""

    id: str
    subject: str
    opened_at: str
    closed_at: str | None


class Store:
    """One incident store, by SQLAlchemy URL. Cheap to make; safe to use from several processes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _connect(url)

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
                with self._engine.begin() as db:
                    db.execute(
                        insert(_incidents).values(
                            id=incident, subject=subject, opened_at=timestamp(moment)
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
        with self._engine.connect() as db:
            return db.execute(query).scalar_one_or_none()

    def close_incident(self, incident: str) -> None:
        """Mark an incident closed; the next finding of its subject opens another one."""
        with self._engine.begin() as db:
            db.execute(
                update(_incidents)
                .where(_incidents.c.id == incident, _incidents.c.closed_at.is_(None))
                .values(closed_at=timestamp(now()))
            )

    def incidents(self) -> list[IncidentRow]:
        """All incidents, newest first."""
        query = select(_incidents).order_by(_incidents.c.opened_at.desc(), _incidents.c.id)
        with self._engine.connect() as db:
            return [IncidentRow(*row) for row in db.execute(query)]

    def incident(self, incident: str) -> IncidentRow:
        """One incident. Raises: UnknownIncidentError."""
        with self._engine.connect() as db:
            row = db.execute(select(_incidents).where(_incidents.c.id == incident)).one_or_none()
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
        """
        for attempt in range(APPEND_ATTEMPTS):
            last = self._last(incident)
            entry = next_entry(last, actor, kind, body, time_)
            try:
                with self._engine.begin() as db:
                    db.execute(insert(_entries).values(_row(incident, entry)))
            except IntegrityError:
                time.sleep(random.uniform(0, 0.002 * min(attempt + 1, 20)))  # noqa: S311 - jitter
                continue
            return entry
        raise JournalContendedError(incident, APPEND_ATTEMPTS)

    def entries(self, incident: str, after: int = -1) -> Iterator[Entry]:
        """The incident's entries with seq > after, in order, each read back and checked.

        Raises:
            UnknownIncidentError: no such incident.
            JournalCorruptError: a stored entry is not JSON, or not what its hash column says.
        """
        self.incident(incident)
        query = (
            select(_entries.c.seq, _entries.c.hash, _entries.c.entry)
            .where(_entries.c.incident == incident, _entries.c.seq > after)
            .order_by(_entries.c.seq)
        )
        with self._engine.connect() as db:
            rows = db.execute(query).all()
        for seq, digest, raw in rows:
            yield _parse(incident, seq, digest, raw)

    @property
    def place(self) -> str:
        """The store's address without a password, for messages."""
        return make_url(self.url).render_as_string(hide_password=True)

    def _last(self, incident: str) -> Entry:
        query = (
            select(_entries.c.seq, _entries.c.hash, _entries.c.entry)
            .where(_entries.c.incident == incident)
            .order_by(_entries.c.seq.desc())
            .limit(1)
        )
        with self._engine.connect() as db:
            row = db.execute(query).one_or_none()
        if row is None:
            raise UnknownIncidentError(incident, self.place)
        return _parse(incident, *row)


def _row(incident: str, entry: Entry) -> Json:
    return {
        "incident": incident,
        "seq": entry.seq,
        "hash": entry.hash,
        "entry": canonical(entry.to_json()).decode(),
    }


def _parse(incident: str, seq: int, digest: str, raw: str) -> Entry:
    try:
        entry = Entry.from_json(json.loads(raw))
        found = entry.hash
    except (ValueError, KeyError, TypeError) as error:
        raise JournalCorruptError(incident, seq, f"is not a journal entry: {error}") from error
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
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
