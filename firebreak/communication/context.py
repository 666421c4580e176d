"""What a message can say about an incident: every field of every template, filled or `unknown`."""

from datetime import datetime, timedelta
from typing import Any

from firebreak.incidents.case import Case
from firebreak.investigation.recommend import recommend
from firebreak.investigation.summary import Summary, summarise
from firebreak.investigation.timeline import Containment, Event, between, containment, duration
from firebreak.records import Finding, FindingType, Json, now, parse_timestamp, timestamp

UNKNOWN = "unknown"
NOT_YET = "not yet known"
MAX_LISTED = 20
MAX_TIMELINE = 100
# What a comparison of bytes or signatures shows is confirmed; everything else points somewhere.
CONFIRMED = frozenset(
    {
        *(FindingType.TAMPERED, FindingType.MISSING, FindingType.UNEXPECTED),
        *(FindingType.DEPENDENCY_CHANGED, FindingType.DEPENDENCY_MISSING),
        *(FindingType.SIGNATURE_INVALID, FindingType.BASELINE_INVALID),
        *(FindingType.UNSIGNED, FindingType.REFERENCE_DIFFERS),
    }
)
_TOLD = frozenset({"finding.added", "action.finished", "action.failed", "gate.answered"}) | {
    *("incident.opened", "incident.closed", "step.failed", "gate.timed_out", "file.changed"),
    *("response.started", "response.ended", "evidence.failed", "note"),
}


def context(case: Case, **overrides: Any) -> Json:
    """The values of all templates for an incident, as its journal stands now.

    What the journal cannot know (customer impact, root cause, ...) is `unknown` or `not yet known`
    in so many words, until somebody supplies it. Confirmed and suspected are kept apart.

    Args:
        case: the incident.
        **overrides: values that people supplied; they win, also for names not listed here.

    Returns: name -> text, number, list of text, or list of records. Times are RFC 3339.
    """
    summary = summarise(case)
    moments, at = summary.times, now()
    entries = case.entries()
    found = containment(entries)
    told = [e for e in summary.events if _worth_telling(e)]
    end = moments["closed_at"] or moments["restored_at"]
    sent = {e.body.get("id") for e in entries if e.kind == "message.sent"}
    updates = {
        e.body.get("id")
        for e in entries
        if e.kind == "message.sent" and e.body.get("template") == "stakeholder_update"
    }
    values: Json = {
        "id": summary.id,
        "subject": summary.subject,
        "severity": summary.severity.value if summary.severity else UNKNOWN,
        "status": summary.status,
        "detection_time": moments["detected_at"] or UNKNOWN,
        "detection_method": ", ".join(dict.fromkeys(f.source for f in summary.findings)) or UNKNOWN,
        "affected_models": [_model_name(summary)],
        "description": _description(summary),
        "confirmed": _listed([f.message for f in summary.findings if _is_confirmed(f)]),
        "suspected": _listed([f.message for f in summary.findings if not _is_confirmed(f)]),
        "containment_status": _containment(found),
        "service_impact": _service_impact(summary, found),
        "actions_taken": _listed(list(summary.actions)),
        "update_frequency": "every 4 hours while the incident is active",
        "commander": _commander(case),
        "update_number": len(updates) + 1,
        "messages_sent": len(sent),
        "elapsed_time": duration(between(moments["opened_at"], end or timestamp(at))),
        "progress": _listed([f"{e.time} {e.text}" for e in told if e.kind != "finding.added"]),
        "predictions_impacted": UNKNOWN,
        "exposure_window": _window(moments),
        "remaining_actions": _remaining(moments),
        "eta": NOT_YET if end is None else "done",
        "start": moments["changed_at"] or moments["detected_at"] or UNKNOWN,
        "end": end or NOT_YET,
        "duration": duration(between(moments["changed_at"] or moments["opened_at"], end)),
        "impact": NOT_YET,
        "timeline": [{"time": e.time, "text": e.text} for e in told[-MAX_TIMELINE:]],
        "root_cause": NOT_YET,
        "data_exposure": UNKNOWN,
        "customer_impact": UNKNOWN,
        "went_well": [NOT_YET],
        "improve": [NOT_YET],
        "action_items": _items(summary),
        "preventive_measures": [r.text for r in recommend(summary.findings, summary.model)[:2]],
        "detected_at": moments["detected_at"],
        "ended_at": end,
    }
    return {**values, **overrides}


def due_at(template: str, values: Json) -> datetime | None:
    """When a message must have gone out; None for templates without such a rule.

    Alert: 1 h after the detection. Update: 4 h after the last one, counted from the detection.
    Post-incident report: five business days (Monday to Friday, UTC) after the resolution.
    """
    start = values.get("ended_at" if template == "post_incident_report" else "detected_at")
    try:
        moment = parse_timestamp(start) if isinstance(start, str) else None
    except ValueError:
        moment = None
    if moment is None:
        return None
    if template == "initial_alert":
        return moment + timedelta(hours=1)
    if template == "stakeholder_update":
        number = values.get("update_number")
        return moment + timedelta(hours=4) * (number if isinstance(number, int) else 1)
    return business_days_after(moment, 5) if template == "post_incident_report" else None


def business_days_after(moment: datetime, days: int) -> datetime:
    """The same time of day, that many Mondays to Fridays later; holidays are not known."""
    while days > 0:
        moment += timedelta(days=1)
        days -= moment.weekday() < 5
    return moment


def _worth_telling(event: Event) -> bool:
    own = event.kind.startswith("action.") and event.text.startswith("Action send ")
    return event.kind in _TOLD and not own


def _is_confirmed(finding: Finding) -> bool:
    """Whether bytes or signatures show it; a signature nobody could verify shows nothing."""
    return finding.type in CONFIRMED and finding.evidence.get("verdict") != "unverifiable"


def _listed(texts: list[str]) -> list[str]:
    left = len(texts) - MAX_LISTED
    return texts[:MAX_LISTED] + ([f"and {left} more, see the report"] if left > 0 else [])


def _model_name(summary: Summary) -> str:
    return f"{summary.model.id}@{summary.model.version}" if summary.model else summary.subject


def _description(summary: Summary) -> str:
    if not summary.findings:
        return "What was seen is not yet known."
    count = len(summary.findings)
    first = summary.findings[0].message
    return first if count == 1 else f"{count} findings; the worst: {first}"


def _containment(found: Containment) -> str:
    if not found.begun:
        return "not contained"
    text = f"{len(found.contained)} of {len(found.begun)} targets contained"
    unproven = ", ".join(sorted(found.unproven))
    return f"{text}; not proven for {unproven}" if unproven else text


def _service_impact(summary: Summary, found: Containment) -> str:
    if summary.times["restored_at"]:
        return "a verified version serves again"
    cut = ", ".join(sorted(found.contained))
    return f"cut off: {cut}" if cut else UNKNOWN


def _commander(case: Case) -> str:
    found = case.inventory.people_with(("incident-commander",))
    return ", ".join(p.name for p in found) or UNKNOWN


def _window(moments: Json) -> str:
    start = moments["changed_at"] or f"unknown, not after {moments['detected_at']}"
    return f"from {start} to {moments['contained_at'] or 'now: not contained'}"


def _remaining(moments: Json) -> list[str]:
    steps = (
        ("contained_at", "contain every target"),
        ("restored_at", "restore a verified version and verify what is served"),
        ("closed_at", "close the incident and write the post-incident report"),
    )
    return [text for name, text in steps if not moments[name]]


def _items(summary: Summary) -> list[Json]:
    owner = summary.model.owner if summary.model and summary.model.owner else UNKNOWN
    advice = recommend(summary.findings, summary.model)
    return [{"action": r.text, "owner": owner, "due": NOT_YET} for r in advice]
