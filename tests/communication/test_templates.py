"""Messages: all fields, nothing missing, nothing dangerous."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from firebreak.communication.context import business_days_after, context
from firebreak.communication.templates import AUDIENCES, render
from firebreak.errors import TemplateError
from firebreak.incidents.case import Case
from firebreak.records import FindingType, parse_timestamp
from incident_cases import HOSTILE, finding


@pytest.mark.parametrize("name", AUDIENCES)
def test_each_template_is_complete_for_a_new_incident(case: Case, name: str) -> None:
    """Nothing is known yet, and the message says so in so many words."""
    message = render(name, context(case))
    assert "not yet known" in message.text or "unknown" in message.text
    assert case.id in message.subject
    assert message.audience == AUDIENCES[name]
    assert f"**To:** {AUDIENCES[name]}" in message.text


def test_the_post_incident_report_has_every_field(case: Case) -> None:
    """What people supply stands where the unknown stood."""
    given = {
        "impact": "I-1", "root_cause": "R-1", "data_exposure": "D-1", "customer_impact": "C-1",
        "predictions_impacted": "P-1", "went_well": ["W-1"], "improve": ["M-1"],
        "action_items": [{"action": "A-1", "owner": "O-1", "due": "2026-02-03"}],
        "preventive_measures": ["V-1"],
    }  # fmt: skip
    text = render("post_incident_report", context(case, **given)).text
    for word in ("I-1", "R-1", "D-1", "C-1", "P-1", "W-1", "M-1", "V-1", "Timeline", "Duration"):
        assert word in text
    assert "| A-1 | O-1 | 2026-02-03 |" in text


def test_confirmed_and_suspected_are_kept_apart(case: Case) -> None:
    """A changed hash is confirmed; changed behaviour is suspected."""
    case.add_findings([finding("weights differ")])
    case.add_findings([finding("answers drifted", FindingType.DRIFT, {"problem": "x"})])
    text = render("initial_alert", context(case)).text
    confirmed, suspected = text.split("Suspected:")
    assert "weights differ" in confirmed.split("Confirmed:")[1]
    assert "answers drifted" in suspected
    assert "answers drifted" not in confirmed


def test_a_missing_field_is_an_error_that_names_template_and_field(case: Case) -> None:
    """A message with a hole in it is not sent."""
    values = context(case)
    del values["commander"]
    with pytest.raises(TemplateError, match=r"initial_alert.*commander"):
        render("initial_alert", values)


def test_values_of_the_attacker_are_escaped(case: Case) -> None:
    """Neither Markdown nor HTML nor a chat mention comes through, and the subject is one line."""
    case.add_findings([finding(HOSTILE + " <!channel> @everyone")])
    message = render("initial_alert", context(case, subject=HOSTILE))
    for raw in ("<script", "<!channel", "[a](", "**b**", "@everyone", "\x1b", "\n# head"):
        assert raw not in message.text
    assert message.subject.isprintable()


@pytest.mark.parametrize(
    "body",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ id.format.__globals__ }}",
        "{{ ('{0.__class__}').format(id) }}",
        "{{ id | attr('__class__') }}",
        "{{ ''['__class__'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ affected_models.append('x') }}",
        "{{ 'a' * 10000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%999999999d' % 1 }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}xxxxxxxx{% endfor %}{% endfor %}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ nothing.there }}",
    ],
)
def test_an_own_template_cannot_leave_the_sandbox(tmp_path: Path, case: Case, body: str) -> None:
    """Each try is a template error, not an outcome."""
    (tmp_path / "initial_alert.j2").write_text(f"Subject: x\n{body}\n")
    with pytest.raises(TemplateError, match="initial_alert"):
        render("initial_alert", context(case), tmp_path)


def test_an_own_template_takes_precedence_and_is_bounded(tmp_path: Path, case: Case) -> None:
    """The operator's wording wins; a file that is too large or has no subject is refused."""
    own = tmp_path / "initial_alert.j2"
    own.write_text("Subject: mine {{ id }}\n{{ severity }}\n")
    assert render("initial_alert", context(case), tmp_path).subject == f"mine {case.id}"
    own.write_text("no subject")
    with pytest.raises(TemplateError, match="Subject"):
        render("initial_alert", context(case), tmp_path)
    own.write_text("x" * (64 << 10) + "y")
    with pytest.raises(TemplateError, match="larger than"):
        render("initial_alert", context(case), tmp_path)


@pytest.mark.parametrize("name", ["nothing", "../secret", "", "a/b"])
def test_an_unknown_template_is_an_error(tmp_path: Path, case: Case, name: str) -> None:
    """A name is a name, never a path."""
    with pytest.raises(TemplateError):
        render(name, context(case), tmp_path)


def test_messages_are_due_by_the_fixed_clocks(case: Case) -> None:
    """One hour, four hours per update, five business days over a weekend."""
    values = context(case, detected_at="2026-01-01T10:00:00Z", ended_at="2026-01-02T10:00:00Z")
    assert render("initial_alert", values).due_at == parse_timestamp("2026-01-01T11:00:00Z")
    values["update_number"] = 2
    assert render("stakeholder_update", values).due_at == parse_timestamp("2026-01-01T18:00:00Z")
    assert render("post_incident_report", values).due_at == parse_timestamp("2026-01-09T10:00:00Z")
    assert business_days_after(datetime(2026, 1, 3, tzinfo=UTC), 1).weekday() == 0
    assert render("post_incident_report", context(case)).due_at is None
