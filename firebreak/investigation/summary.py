"""One incident's journal gathered for people: what the report and every message draw from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from firebreak.errors import UnknownModelError
from firebreak.incidents.case import Case
from firebreak.incidents.journal import Entry
from firebreak.inventory import Model
from firebreak.investigation.timeline import Event, containment, timeline, times
from firebreak.records import Finding, Json, Severity

MAX_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer to a gate. `proven` is False while nothing shows that it was this person."""

    step: str
    decision: str
    approver: str
    time: str
    reason: str
    proof: str
    proven: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """What an incident's journal says.

    Attributes:
        id: incident id.
        subject: model id, or `environment`.
        model: the affected model; None for `environment` or one no longer in the inventory.
        severity: the worst of the findings; None without any.
        status: open, partly contained, contained (or not proven), restored or closed.
        times: as `timeline.times` returns them.
        findings: worst first.
        events: the timeline.
        decisions: answers to gates, in order.
        evidence: `name`, `class`, `sha256`, `size` and `source` of each piece.
        unproven: what could not be proven, one sentence each.
        candidates: rollback candidates, judged.
        actions: finished actions, one sentence each, in order.
        head: hash of the journal's last entry.
        entries: number of journal entries.
    """

    id: str
    subject: str
    model: Model | None
    severity: Severity | None
    status: str
    times: Json
    findings: tuple[Finding, ...]
    events: tuple[Event, ...]
    decisions: tuple[Decision, ...]
    evidence: tuple[Json, ...]
    unproven: tuple[str, ...]
    candidates: tuple[Json, ...]
    actions: tuple[str, ...]
    head: str
    entries: int


def summarise(case: Case) -> Summary:
    """Gather an incident's journal. Raises: JournalCorruptError when its chain does not verify."""
    entries = case.entries()
    moments = times(entries)
    events = timeline(entries)
    findings = sorted(_findings(entries), key=lambda f: (-f.severity.rank, f.time))
    try:
        model = case.model
    except UnknownModelError:
        model = None
    decisions = tuple(_decision(e) for e in entries if e.kind == "gate.answered")
    return Summary(
        id=case.id,
        subject=case.subject,
        model=model,
        severity=Severity.highest([f.severity for f in findings]) if findings else None,
        status=_status(entries, moments),
        times=moments,
        findings=tuple(findings),
        events=tuple(events),
        decisions=decisions,
        evidence=tuple(_evidence(e.body) for e in entries if e.kind == "evidence.collected"),
        unproven=tuple(dict.fromkeys(_unproven(entries, decisions))),
        candidates=tuple(_candidates(entries)),
        actions=tuple(e.text for e in events if e.kind == "action.finished"),
        head=entries[-1].hash if entries else "",
        entries=len(entries),
    )


def _findings(entries: list[Entry]) -> Iterator[Finding]:
    for entry in entries:
        if entry.kind == "finding.added":
            try:
                yield Finding.from_json(entry.body)
            except (KeyError, ValueError, TypeError):
                continue  # of a newer release: the timeline still shows it


def _evidence(body: Json) -> Json:
    return {k: body.get(k, "unknown") for k in ("name", "class", "sha256", "size", "source")}


def _status(entries: list[Entry], moments: Json) -> str:
    if moments["closed_at"]:
        return "closed"
    if moments["restored_at"]:
        return "restored"
    found = containment(entries)
    if moments["contained_at"]:
        return "contained, not proven" if found.unproven else "contained"
    if found.begun:
        return f"partly contained ({len(found.contained)} of {len(found.begun)} targets)"
    return "open, not contained"


def _decision(entry: Entry) -> Decision:
    body = entry.body
    proof = body.get("proof")
    shown = proof if isinstance(proof, str) and proof else "none"
    if isinstance(proof, dict):
        shown = str(proof.get("kind") or "none")
    return Decision(
        step=str(body.get("step", "unknown")),
        decision=str(body.get("decision", "unknown")),
        approver=str(body.get("approver", entry.actor)),
        time=entry.time,
        reason=str(body.get("reason", "")),
        proof=shown,
        proven=shown.lower() not in ("none", "unproven", "unknown"),
    )


def _unproven(entries: list[Entry], decisions: tuple[Decision, ...]) -> Iterator[str]:
    for event in timeline(e for e in entries if e.kind in ("evidence.failed", "evidence.waived")):
        yield event.text
    for finding in _findings(entries):
        if finding.message.startswith("unproven: "):
            yield finding.message.removeprefix("unproven: ")
    for entry in entries:
        if entry.kind == "evidence.collected" and entry.body.get("note"):
            yield f"Evidence {entry.body.get('name')}: {entry.body['note']}"
        for probe in _probes(entry.body):
            target, detail = probe.get("target", "a target"), probe.get("detail", "no detail")
            yield f"Probe of {target} could not tell whether it serves: {detail}"
    for decision in decisions:
        if not decision.proven:
            yield f"Identity of {decision.approver}, who answered {decision.step}, is unproven"


def _probes(value: Any, depth: int = 0) -> Iterator[Json]:
    """Every probe result in a body that says `unproven`, however deep it lies."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        if value.get("exposure") == "unproven":
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _probes(item, depth + 1)


def _candidates(entries: list[Entry]) -> list[Json]:
    """The last step's judged rollback candidates, in the form {version, accepted, reasons}."""
    for entry in reversed(entries):
        result = entry.body.get("result") if entry.kind == "step.finished" else None
        listed = result.get("candidates") if isinstance(result, dict) else None
        if isinstance(listed, list) and listed:
            return [_candidate(c) for c in listed if isinstance(c, dict)]
    return []


def _candidate(raw: Json) -> Json:
    verification = raw.get("verification")
    verdict = raw.get("verdict")
    if verdict is None and isinstance(verification, dict):
        verdict = verification.get("verdict")
    reasons = raw.get("reasons")
    return {
        "version": str(raw.get("version", "unknown")),
        "verdict": str(verdict or "not verified"),
        "accepted": raw.get("accepted") is True,
        "reasons": [str(r) for r in reasons] if isinstance(reasons, list) else [],
    }
