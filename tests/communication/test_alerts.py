"""Alerts about new critical findings: few, once, and never in anybody's way."""

import sqlite3
from pathlib import Path

import pytest

from firebreak.communication import alerts
from firebreak.communication.alerts import MAX_ALERTS, alert_new
from firebreak.detection import Recorded
from firebreak.errors import ChannelError, FirebreakError
from firebreak.incidents.case import Case
from firebreak.inventory import Channel
from firebreak.records import Finding
from incident_cases import finding, make_case

HOOKS = tuple(Channel(name, "webhook", url=f"http://{name}.invalid/") for name in ("dead", "live"))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """An incident in an installation with two webhooks and a folder."""
    return make_case(tmp_path, (*HOOKS, Channel("folder", "file", path=tmp_path / "out")))


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What each webhook was sent; `dead` fails each time."""
    sent: list[tuple[str, str]] = []

    def take(channel: Channel, text: str) -> None:
        sent.append((channel.id, text))
        if channel.id == "dead":
            raise ChannelError("dead", "did not answer")

    monkeypatch.setattr(alerts, "alert", lambda channel, found: take(channel, found.message))
    monkeypatch.setattr(
        alerts, "announce", lambda channel, _severity, _subject, text, _id: take(channel, text)
    )
    return sent


def many(count: int) -> tuple[Finding, ...]:
    """Different critical findings."""
    return tuple(finding(f"file {n}", evidence={"file": f"{n}"}) for n in range(count))


def test_a_storm_is_a_few_alerts_and_a_count(case: Case, posted: list[tuple[str, str]]) -> None:
    """Five are told; the rest is one sentence with the incident."""
    alert_new(case.inventory, [Recorded(case.id, "fraud", True, many(40))])
    live = [text for channel, text in posted if channel == "live"]
    assert live[:-1] == [f"file {n}" for n in range(MAX_ALERTS)]
    assert live[-1] == f"[CRITICAL] … and 35 more critical findings in {case.id}"


def test_a_channel_that_failed_is_left_out_and_journaled_once(
    case: Case, posted: list[tuple[str, str]]
) -> None:
    """Its timeout is paid once; the other channel gets everything, the folder no alerts."""
    alert_new(case.inventory, [Recorded(case.id, "fraud", True, many(3))])
    assert [channel for channel, _ in posted] == ["dead", "live", "live", "live"]
    failed = [e.body for e in case.entries() if e.kind == "message.failed"]
    assert [(b["channel"], b["template"]) for b in failed] == [("dead", "alert")]
    assert not (case.inventory.home.parent / "out").exists()


def test_known_findings_are_not_sent_again(case: Case, posted: list[tuple[str, str]]) -> None:
    """Nothing new, nothing said."""
    alert_new(case.inventory, [Recorded(case.id, "fraud", False, ())])
    assert posted == []


def test_unrecorded_findings_are_alerted_and_their_failures_raised(
    case: Case, posted: list[tuple[str, str]]
) -> None:
    """There is no journal for them, so the failure is not kept quiet."""
    with pytest.raises(ChannelError, match="dead"):
        alert_new(case.inventory, [], many(7))
    assert posted[-1] == (
        "live",
        "[CRITICAL] … and 2 more critical findings in fraud (not recorded)",
    )


def test_a_failure_that_cannot_be_journaled_stops_no_other_channel(
    case: Case, posted: list[tuple[str, str]]
) -> None:
    """The store is gone: both failures are told at the end."""
    with sqlite3.connect(case.inventory.home.parent / "incidents.db") as db:
        db.execute("drop table entries")
    with pytest.raises(FirebreakError, match="dead") as caught:
        alert_new(case.inventory, [Recorded(case.id, "fraud", True, many(1))])
    assert posted[-1] == ("live", "file 0")
    assert len(caught.value.__notes__) == 1
