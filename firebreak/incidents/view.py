"""An incident as people see it: status, severity and times, folded from its journal."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from firebreak.incidents.journal import Entry
from firebreak.records import IncidentStatus, Json, Severity

ENDS = {  # how a response ended -> how the incident then stands
    "completed": IncidentStatus.RECOVERED,
    "failed": IncidentStatus.FAILED,
    "held": IncidentStatus.HELD,
    "closed": IncidentStatus.CLOSED,
}


@dataclass(frozen=True, slots=True)
class IncidentView:
    """What the journal says about an incident so far. Times are RFC 3339 or None.

    Attributes:
        question: body of the gate question that stands, None when nobody is asked.
        playbook: name of the started playbook, None before the response.
        run: Prefect flow run id of the last start, None outside Prefect.
        reason: why it is held or failed, empty when it is neither.
        approvers: who has approved the standing question so far.
    """

    subject: str = ""
    severity: Severity = Severity.LOW
    status: IncidentStatus = IncidentStatus.OPEN
    opened_at: str | None = None
    ended_at: str | None = None
    findings: int = 0
    evidence: int = 0
    question: Json | None = None
    playbook: str | None = None
    run: str | None = None
    reason: str = ""
    techniques: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()

    def to_json(self) -> Json:
        """The view as JSON."""
        return {
            "subject": self.subject,
            "severity": self.severity.value,
            "status": self.status.value,
            "opened_at": self.opened_at,
            "ended_at": self.ended_at,
            "findings": self.findings,
            "evidence": self.evidence,
            "question": self.question,
            "playbook": self.playbook,
            "run": self.run,
            "reason": self.reason,
            "techniques": list(self.techniques),
            "approvers": list(self.approvers),
        }


def view(entries: Iterable[Entry]) -> IncidentView:
    """The incident that a journal describes."""
    seen = IncidentView()
    for entry in entries:
        seen = _facts(_response(seen, entry), entry)
    return seen


def _facts(seen: IncidentView, entry: Entry) -> IncidentView:
    body = entry.body
    match entry.kind:
        case "incident.opened":
            return replace(seen, subject=body["subject"], opened_at=entry.time)
        case "finding.added":
            worst = Severity.highest([seen.severity, Severity(body["severity"])])
            techniques = tuple(dict.fromkeys((*seen.techniques, *body["techniques"])))
            return replace(seen, findings=seen.findings + 1, severity=worst, techniques=techniques)
        case "evidence.collected":
            return replace(seen, evidence=seen.evidence + 1)
        case "incident.closed":
            return replace(seen, status=IncidentStatus.CLOSED, ended_at=entry.time, question=None)
    return seen


def _response(seen: IncidentView, entry: Entry) -> IncidentView:
    body = entry.body
    match entry.kind:
        case "response.started" | "response.resumed":
            return replace(
                seen,
                status=IncidentStatus.WAITING if seen.question else IncidentStatus.RESPONDING,
                playbook=body["playbook"],
                run=body.get("run"),
                reason="",
                ended_at=None,
            )
        case "gate.asked":
            return replace(seen, status=IncidentStatus.WAITING, question=body, approvers=())
        case "gate.answered":
            return _answered(seen, entry)
        case "step.started" | "step.skipped" | "step.reopened":
            return replace(seen, status=IncidentStatus.RESPONDING, question=None)
        case "response.ended":
            done = body["status"] == "completed"
            reason = "; ".join(f"{k}: {v}" for k, v in body["reasons"].items())
            return replace(
                seen,
                question=None,
                ended_at=entry.time,
                reason="" if done else reason,
                status=ENDS.get(body["status"], IncidentStatus.HELD),
            )
    return seen


def _answered(seen: IncidentView, entry: Entry) -> IncidentView:
    """A decided question stands no longer; one that needs more people still does."""
    question, body = seen.question, entry.body
    if question is None or (question["step"], question["digest"]) != (body["step"], body["digest"]):
        return seen
    approvers = tuple(dict.fromkeys((*seen.approvers, body["approver"])))
    if body["decision"] == "approve" and len(approvers) < question["quorum"]:
        return replace(seen, approvers=approvers)
    return replace(seen, status=IncidentStatus.RESPONDING, question=None, approvers=())
