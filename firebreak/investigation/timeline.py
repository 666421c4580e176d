"""The incident as a sequence of readable events, and the times that are asked for afterwards."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from firebreak.incidents.journal import Entry
from firebreak.records import Json, parse_timestamp, printable, timestamp

MAX_TEXT = 400  # characters of one event


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the timeline.

    Attributes:
        time: RFC 3339, UTC.
        seq: journal entry it comes from.
        kind: the entry's kind; `file.changed` for a file's own modification time.
        actor: who.
        text: one readable line; printable, but not escaped for Markdown or HTML.
    """

    time: str
    seq: int
    kind: str
    actor: str
    text: str


def timeline(entries: Iterable[Entry]) -> list[Event]:
    """Every journal entry as one event, sorted by time, then by place in the journal.

    Modification times of files that a finding names (`modified_at` in its evidence) are events
    too: they lie before the detection. Kinds that are not known are shown as they are.
    """
    events = []
    for entry in entries:
        text = printable(_text(entry))
        cut = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
        events.append(Event(entry.time, entry.seq, entry.kind, printable(entry.actor), cut))
        changed = _modified(entry)
        if changed:
            file = _get(entry.body.get("evidence", {}), "file")
            events.append(
                Event(
                    changed, entry.seq, "file.changed", "file system", f"{file} was last modified"
                )
            )
    return sorted(
        events, key=lambda e: (_moment(e.time) or datetime.max.replace(tzinfo=UTC), e.seq)
    )


def times(entries: Iterable[Entry]) -> Json:
    """When what happened, from the journal alone.

    Returns: RFC 3339 texts, or None where it has not happened or is not known:
        `changed_at` (earliest modification time in a finding), `opened_at`, `detected_at` (first
        finding), `contained_at` (last `isolate` finished; None while a target begun is without its
        end or was seen serving; `stop` counts for a target that was never isolated),
        `restored_at` (last `verify-served`), `closed_at` (closed, or the response completed);
        and the seconds `seconds_to_detect` (changed to detected), `seconds_to_contain` and
        `seconds_to_restore` (both from opened).
    """
    entries = list(entries)
    changed = [m for e in entries if (m := _modified(e))]
    found = [e.body.get("time", e.time) for e in entries if e.kind == "finding.added"]
    result: Json = {
        "changed_at": min(changed, default=None, key=_sortable),
        "opened_at": _first(entries, "incident.opened"),
        "detected_at": min(found, default=None, key=_sortable),
        "contained_at": _contained(entries),
        "restored_at": _last_action(entries, "verify-served"),
        "closed_at": _closed(entries),
    }
    result["detected_at"] = result["detected_at"] or result["opened_at"]
    result["seconds_to_detect"] = between(result["changed_at"], result["detected_at"])
    for name in ("contain", "restore"):
        end = result["contained_at" if name == "contain" else "restored_at"]
        result[f"seconds_to_{name}"] = between(result["opened_at"], end)
    return result


def between(start: str | None, end: str | None) -> float | None:
    """Seconds from one RFC 3339 time to another; None when one is missing or malformed."""
    first, last = _moment(start), _moment(end)
    return None if first is None or last is None else (last - first).total_seconds()


def duration(seconds: float | None) -> str:
    """Seconds as people read them, such as `2 h 05 min`; `not yet known` for None."""
    if seconds is None:
        return "not yet known"
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


@dataclass(frozen=True, slots=True)
class Containment:
    """The targets of an incident, by what its journal shows.

    Attributes:
        begun: every target that somebody began to isolate or stop.
        contained: those where that finished and no later probe saw them serve.
        unproven: those of `contained` whose last probe could not tell.
    """

    begun: frozenset[str]
    contained: frozenset[str]
    unproven: frozenset[str]


def containment(entries: Iterable[Entry]) -> Containment:
    """How far containment has come; what was released for recovery stays counted as contained."""
    begun: set[str] = set()
    done: set[str] = set()
    released: set[str] = set()
    seen: dict[str, str] = {}
    for entry in entries:
        target, action = str(entry.body.get("target")), entry.body.get("action")
        if action in ("isolate", "stop"):
            begun.add(target)
            if entry.kind == "action.finished":
                done.add(target)
        elif action == "release":
            released.add(target)
        elif entry.kind == "containment.probed" and target not in released:
            seen[target] = str(entry.body.get("exposure"))
    contained = {t for t in done if seen.get(t) != "serving"}
    unproven = {t for t in contained if seen.get(t) == "unproven"}
    return Containment(frozenset(begun), frozenset(contained), frozenset(unproven))


def _contained(entries: list[Entry]) -> str | None:
    found = containment(entries)
    if not found.begun or found.begun != found.contained:
        return None
    isolated = {
        e.body.get("target"): e.time
        for e in entries
        if e.kind == "action.finished" and e.body.get("action") == "isolate"
    }
    for entry in entries:
        if entry.kind == "action.finished" and entry.body.get("action") == "stop":
            isolated.setdefault(entry.body.get("target"), entry.time)
    return max(isolated.values(), key=_sortable)


def _first(entries: list[Entry], kind: str) -> str | None:
    return next((e.time for e in entries if e.kind == kind), None)


def _closed(entries: list[Entry]) -> str | None:
    """When it was closed, or when the response completed unless another one began after that."""
    ends = [e for e in entries if e.kind.startswith("response.")]
    completed = ends and ends[-1].kind == "response.ended" and ends[-1].body.get("status")
    return _first(entries, "incident.closed") or (
        ends[-1].time if completed == "completed" else None
    )


def _last_action(entries: list[Entry], action: str) -> str | None:
    ends = [
        e.time for e in entries if e.kind == "action.finished" and e.body.get("action") == action
    ]
    return ends[-1] if ends else None


def _modified(entry: Entry) -> str | None:
    evidence = entry.body.get("evidence")
    if entry.kind != "finding.added" or not isinstance(evidence, dict):
        return None
    moment = _moment(evidence.get("modified_at"))
    return timestamp(moment) if moment else None


def _moment(text: Any) -> datetime | None:
    try:
        return parse_timestamp(text)
    except (ValueError, TypeError):
        return None


def _sortable(text: str) -> datetime:
    return _moment(text) or datetime.max.replace(tzinfo=UTC)


def _get(body: Json, *names: str) -> str:
    """The first of several fields that has a value, as text; `unknown` when none has."""
    for name in names:
        value = body.get(name)
        if value not in (None, "", [], {}):
            return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "unknown"


def _text(entry: Entry) -> str:
    body, kind = entry.body, entry.kind
    if kind in _PLAIN:
        form, *fields = _PLAIN[kind]
        parts = [_get(body, *f.split("/")) for f in fields]
        return "".join(a + b for a, b in zip(form.split("{}"), [*parts, ""], strict=True))
    if kind.startswith("action."):
        return _action(kind, body)
    return f"{kind} {compact(body)}".strip()


# Kind -> the sentence and, for each {}, the body's field (alternatives after a slash).
_PLAIN: dict[str, tuple[str, ...]] = {
    "incident.opened": ("Incident opened for {}", "subject"),
    "incident.closed": ("Incident closed: {}", "reason/note/status"),
    "finding.added": ("Finding ({}): {}: {}", "severity", "type", "message"),
    "evidence.collected": ("Evidence {} {} kept, {} bytes", "class", "name", "size"),
    "evidence.failed": ("Evidence {} could not be captured: {}", "class/name", "error/problem/why"),
    "evidence.waived": ("Evidence {} waived by {} for {}", "classes/class", "by", "target/reason"),
    "response.started": ("Response started with playbook {} by {}", "playbook", "initiator"),
    "response.resumed": ("Response went on with playbook {} by {}", "playbook", "initiator"),
    "response.ended": ("Response ended: {}", "status"),
    "step.started": ("Step {} started", "step"),
    "step.finished": ("Step {} finished", "step"),
    "step.failed": ("Step {} failed: {}", "step", "error"),
    "step.skipped": ("Step {} skipped: {}", "step", "reason"),
    "step.reopened": ("Step {} reopened by {}: {}", "step", "by", "reason"),
    "gate.asked": ("Gate {} asks {}, answer due {}", "step", "people/ask", "due/deadline"),
    "gate.answered": ("Gate {}: {} by {}: {}", "step", "decision", "approver", "reason"),
    "gate.refused": ("Gate {}: answer of {} refused: {}", "step", "approver", "why"),
    "gate.timed_out": ("Gate {}: nobody answered in time", "step"),
    "deadline.missed": ("Step {} missed its deadline", "step"),
    "restore.intent": ("Restore of {} begins", "model"),
    "restore.done": ("Restore of {} done", "model"),
    "restore.void": ("Restore of {} given up: {}", "model", "reason"),
    "containment.before": ("State of {} kept before the first change", "target"),
    "containment.probed": ("Probe of {}: {} ({})", "target", "exposure", "detail"),
    "containment.released": ("{} released from containment", "target"),
    "message.sent": ("Message {} sent over {}: {}", "template", "channel", "subject/id"),
    "message.failed": ("Message {} not sent over {}: {}", "template", "channel", "error"),
    "journal.checkpoint": ("Journal sealed",),
    "note": ("Note: {}", "text"),
}


def _action(kind: str, body: Json) -> str:
    what = f"{_get(body, 'action')} {_get(body, 'target')}"
    end = kind.partition(".")[2]
    if end == "failed":
        return f"Action {what} failed: {_get(body, 'error')}"
    if end == "reconciled":
        return f"Action {what} was begun earlier; its outcome is being found out"
    receipt = body.get("receipt")
    done = receipt.get("done") if isinstance(receipt, dict) else None
    detail = f": {'; '.join(map(str, done))}" if isinstance(done, list) and done else ""
    return f"Action {what} {end}{detail}"


def compact(value: Any, limit: int = 200) -> str:
    """A JSON value in a few words, for what has no sentence of its own."""
    if isinstance(value, dict):
        text = ", ".join(f"{k}={compact(v, 60)}" for k, v in list(value.items())[:12])
    elif isinstance(value, list):
        text = "[" + ", ".join(compact(v, 60) for v in value[:12]) + "]"
    else:
        text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
