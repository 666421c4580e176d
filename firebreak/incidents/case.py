"""A case: one incident with everything a step needs to act on it and to leave a trace.

Only the incident's id crosses a process boundary; each step opens the case again.
"""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from firebreak.errors import KeyFileError
from firebreak.evidence.redaction import redact
from firebreak.incidents.blobs import Blobs
from firebreak.incidents.journal import Entry, verify_chain
from firebreak.incidents.store import Store, holds_seals
from firebreak.inventory import Inventory, Model, load_inventory
from firebreak.records import Finding, Json, canonical, printable
from firebreak.sealing import Sealer, create_key, load_sealer

CHECKPOINT_EVERY = 50

_current_step: ContextVar[str] = ContextVar("firebreak_step", default="")


@dataclass(frozen=True, slots=True)
class Case:
    """One incident, opened for work.

    Attributes:
        id: incident id.
        inventory: the inventory it is handled with.
        store: where its journal lies.
        blobs: where its evidence lies.
        actor: who acts, written into each entry.
    """

    id: str
    inventory: Inventory
    store: Store
    blobs: Blobs
    actor: str = "firebreak"

    @property
    def subject(self) -> str:
        """The model id the incident is about, or `environment`."""
        return self.store.incident(self.id).subject

    @property
    def model(self) -> Model:
        """The model the incident is about. Raises: UnknownModelError for `environment`."""
        return self.inventory.model(self.subject)

    @property
    def folder(self) -> Path:
        """The incident's own folder (reports, quarantine); made when first asked for."""
        place = self.inventory.home / "incidents" / self.id
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return place

    def append(self, kind: str, body: Json, actor: str | None = None) -> Entry:
        """Append to the journal; every `CHECKPOINT_EVERY` entries the head is sealed as well."""
        entry = self.store.append(self.id, actor or self.actor, kind, body)
        self._checkpoint_when_due(entry)
        return entry

    def checkpoint(self) -> Entry:
        """Seal the journal's head with the installation's key, inside the journal."""
        last = self.store.last(self.id)
        record = {"incident": self.id, "seq": last.seq, "head": last.hash}
        sealed = self.sealer().seal("checkpoint", record)
        return self.store.append(self.id, "firebreak", "journal.checkpoint", sealed)

    def _checkpoint_when_due(self, entry: Entry) -> None:
        if entry.seq and entry.seq % CHECKPOINT_EVERY == 0:
            self.checkpoint()

    def entries(self) -> list[Entry]:
        """The whole journal, its chain verified. Raises: JournalCorruptError."""
        return list(verify_chain(self.id, self.store.entries(self.id)))

    def sealer(self) -> Sealer:
        """The installation's sealing key, created on first use."""
        return open_sealer(self.inventory)

    def add_findings(self, findings: Iterable[Finding]) -> list[Finding]:
        """Journal the findings that the incident does not hold yet, and return those.

        Two detectors that see the same thing at the same time journal it once. The head is sealed
        after them, and with it the entry that opened the incident.
        """
        entries = self.entries()
        known, last = _finding_keys(entries), entries[-1]
        unique = {finding.key: finding for finding in reversed(list(findings))}
        while True:
            new = {key: f for key, f in reversed(unique.items()) if key not in known}
            bodies = [
                {"key": key, **finding.to_json(), "step": _current_step.get()}
                for key, finding in new.items()
            ]
            added = self.store.append_after(last, self.id, self.actor, "finding.added", bodies)
            if added is not None:
                break
            fresh = list(self.store.entries(self.id, after=last.seq))
            known, last = known | _finding_keys(fresh), fresh[-1]
        # What opened the incident and what was found is sealed before anybody acts on it.
        if added or not any(entry.kind == "journal.checkpoint" for entry in entries):
            self.checkpoint()
        return list(new.values())

    def add_evidence(
        self,
        kind: str,
        name: str,
        data: bytes | Iterable[bytes] | Json | list[Json],
        source: str,
        media_type: str = "application/json",
        note: str = "",
    ) -> str:
        """Store evidence content-addressed and journal who, what, where and when.

        Args:
            kind: the class it preserves: `files`, `signature`, `packages`, `processes`, `sockets`,
                `memory`, `filesystem`, `logs`, `report`.
            name: readable name, such as `processes.json`.
            data: bytes, a stream of bytes, or JSON (stored in canonical form).
            source: where it was taken from.
            media_type: of the stored bytes.
            note: what a reader should know, such as a partial capture and why.

        Returns: sha256 of the stored blob.
        """
        if isinstance(data, dict) or (isinstance(data, list) and not _is_bytes(data)):
            data = canonical(data)
        digest, size = self.blobs.put(data)  # type: ignore[arg-type]
        self.append(
            "evidence.collected",
            {
                "class": kind,
                "name": name,
                "sha256": digest,
                "size": size,
                "source": source,
                "media_type": media_type,
                "note": note,
                "step": _current_step.get(),
            },
        )
        return digest

    def perform(
        self, action: str, target: str, act: Callable[[], Json], plan: Json | None = None
    ) -> Json:
        """Do an action once: journal it before and after, and never repeat a finished one.

        An action is identified by the step it belongs to, its name and its target. When it was
        started but not finished (a crash between), `act` runs again and must therefore find out
        what is already done: every driver's methods do. Reopening the step starts anew.

        Returns: the receipt that `act` returned, now or in the earlier run.
        """
        identity = {"step": _current_step.get(), "action": action, "target": target}
        started = False
        for entry in since_reopened(self.entries(), identity["step"]):
            if {k: entry.body.get(k) for k in identity} == identity:
                if entry.kind == "action.finished":
                    receipt: Json = entry.body["receipt"]
                    return receipt
                started = started or entry.kind == "action.started"
        if started:
            self.append("action.reconciled", identity)
        else:
            self.append("action.started", {**identity, "plan": plan or {}})
        try:
            receipt = act()
        except Exception as error:
            problem = redact(printable(f"{type(error).__name__}: {error}"))
            self.append("action.failed", {**identity, "error": problem})
            raise
        self.append("action.finished", {**identity, "receipt": receipt})
        return receipt


def since_reopened(entries: list[Entry], step: str) -> list[Entry]:
    """The entries since a step was last reopened; all when it never was."""
    places = [
        i for i, e in enumerate(entries) if e.kind == "step.reopened" and e.body["step"] == step
    ]
    return entries[places[-1] + 1 :] if places else entries


def current_step() -> str:
    """The playbook step this work belongs to; empty outside `working_on`."""
    return _current_step.get()


def open_case(incident: str, inventory: Inventory | None = None, actor: str = "firebreak") -> Case:
    """Open an incident for work.

    Raises:
        UnknownIncidentError: no such incident.
        SourceError: the inventory cannot be used.
    """
    inventory = inventory or load_inventory()
    store = Store(inventory.database_url)
    store.incident(incident)
    return Case(incident, inventory, store, Blobs(inventory.home / "evidence"), actor)


def open_sealer(inventory: Inventory) -> Sealer:
    """The installation's sealing key, created on first use.

    Raises:
        KeyFileError: it cannot be used, or it is gone while something that it sealed is there.
    """
    key = inventory.evidence_key
    # Asked again after the traces: whoever made the first trace had made the key before.
    if not key.exists() and (trace := _trace_of_key(inventory)) and not key.exists():
        raise KeyFileError(
            str(key),
            f"the evidence key is gone; restore it from a backup to this place ({trace} is there; "
            "`keys:` does not name this key)",
        )
    create_key(key)
    return load_sealer(key)


def _trace_of_key(inventory: Inventory) -> str:
    """What shows that this installation had an evidence key already; empty when nothing does."""
    public = inventory.evidence_key.with_suffix(".pub")
    if public.exists():
        return str(public)
    baselines = inventory.home / "baselines"
    if baselines.is_dir() and (kept := next(baselines.glob("*.dsse.json"), None)):
        return str(kept)
    return "a sealed incident" if holds_seals(inventory.database_url) else ""


class working_on:  # noqa: N801 - reads as a sentence: with working_on("isolate"):
    """Names the playbook step that the journal entries written inside belong to."""

    def __init__(self, step: str) -> None:
        self.step = step

    def __enter__(self) -> None:
        self._token = _current_step.set(self.step)

    def __exit__(self, *_exc: object) -> None:
        _current_step.reset(self._token)


def _finding_keys(entries: Iterable[Entry]) -> set[str]:
    return {e.body["key"] for e in entries if e.kind == "finding.added"}


def _is_bytes(data: list[Json] | list[bytes]) -> bool:
    return bool(data) and isinstance(data[0], bytes)
