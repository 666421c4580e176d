"""The incident as people see it follows from its journal."""

import pytest

from firebreak.incidents.view import view
from firebreak.records import IncidentStatus, Severity
from small_world import tampered

STARTED = {"playbook": "tampered-model", "initiator": "ana", "run": "r-1"}


def test_a_new_incident_is_open_with_its_worst_severity(world):
    """Findings, severity and techniques are folded from the entries."""
    case = world.incident()
    case.add_findings([tampered()])
    seen = view(case.entries())
    assert (seen.status, seen.severity, seen.findings) == (
        IncidentStatus.OPEN,
        Severity.CRITICAL,
        1,
    )
    assert seen.subject == "chat"
    assert seen.opened_at == case.entries()[0].time
    assert seen.techniques == tampered().techniques


def test_the_status_follows_the_response(world):
    """Responding, waiting with its question, held with its reason, recovered, closed."""
    case = world.incident()

    def after(kind: str, body: dict):
        case.append(kind, body)
        return view(case.entries())

    assert after("response.started", STARTED).status is IncidentStatus.RESPONDING
    asked = after("gate.asked", {"step": "stop-approval", "people": ["ana"]})
    assert (asked.status, asked.question["step"]) == (IncidentStatus.WAITING, "stop-approval")
    assert after("gate.refused", {"step": "stop-approval"}).question is not None
    assert after("step.started", {"step": "stop"}).question is None
    held = after("response.ended", {"status": "held", "reasons": {"stop": "no driver"}})
    assert (held.status, held.reason) == (IncidentStatus.HELD, "stop: no driver")
    resumed = after("response.resumed", {**STARTED, "run": "r-2"})
    assert (resumed.status, resumed.reason, resumed.run) == (IncidentStatus.RESPONDING, "", "r-2")
    done = after("response.ended", {"status": "completed", "reasons": {"x": "skipped"}})
    assert (done.status, done.reason) == (IncidentStatus.RECOVERED, "")
    assert done.ended_at == case.entries()[-1].time
    assert after("incident.closed", {}).status is IncidentStatus.CLOSED


def test_a_view_is_json(world):
    """Everything a command prints with --json comes from here."""
    case = world.incident()
    case.add_findings([tampered()])
    raw = view(case.entries()).to_json()
    assert (raw["status"], raw["severity"], raw["evidence"]) == ("open", "critical", 0)


@pytest.mark.parametrize(
    ("ended", "status"),
    [("completed", "recovered"), ("held", "held"), ("failed", "failed"), ("closed", "closed")],
)
def test_the_end_of_a_response_is_named_as_it_was(world, ended, status):
    """A failed response is not held: nobody's answer would move it on."""
    case = world.incident()
    case.append("response.started", STARTED)
    case.append("response.ended", {"status": ended, "reasons": {"stop": "no driver"}})
    seen = view(case.entries())
    assert seen.status.value == status
    assert seen.reason == ("" if ended == "completed" else "stop: no driver")
