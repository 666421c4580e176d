"""The clocks: what runs out is told once, also after a crash between journal and message."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from firebreak.communication import clocks
from firebreak.communication.clocks import UPDATE_EVERY, tick_incident
from firebreak.incidents import journal
from firebreak.incidents.case import Case
from firebreak.incidents.view import view
from firebreak.inventory import Channel
from firebreak.playbook import gates
from firebreak.playbook.engine import Status, replay
from firebreak.records import IncidentStatus, now
from playbook_cases import (
    SMALL,
    TAMPERED,
    Response,
    bodies,
    finding,
    kinds,
    make_case,
    playbook,
    saying,
)

HOUR = timedelta(hours=1)


class Clock:
    """The time everywhere in the journal; moves only when told."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.moment = now()
        for module in (journal, gates, clocks):
            patch.setattr(module, "now", lambda: self.moment)

    def move(self, by: timedelta) -> datetime:
        """Later."""
        self.moment += by
        return self.moment


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that tests move."""
    return Clock(monkeypatch)


@pytest.fixture
def told(tmp_path: Path) -> Callable[[], int]:
    """How many messages lie in the file channel."""
    return lambda: len(list((tmp_path / "channel").glob("*.md")))


@pytest.fixture
def waiting(tmp_path: Path, clock: Clock) -> Response:
    """A response that waits at its gate `ask`, whose silence holds after 4 h."""
    return _waiting(tmp_path, SMALL)


def _waiting(tmp_path: Path, text: str) -> Response:
    channel = Channel("ops", "file", path=tmp_path / "channel")
    case = make_case(tmp_path / "case", channels=(channel,))
    response = Response(case, playbook(tmp_path, text))
    assert response.walk().status is Status.WAITING
    return response


def tick(response: Response, clock: Clock) -> list[tuple[str, str]]:
    """What ran out, without the incident's id."""
    folder = Path(response.book.steps[0].where.split(":")[0]).parent
    return [(h["what"], h["step"]) for h in tick_incident(response.case, folder, clock.moment)]


def test_nothing_runs_out_before_its_time(waiting: Response, clock: Clock) -> None:
    """A tick may come at any second and leaves no trace then."""
    before = len(waiting.case.entries())
    clock.move(4 * HOUR)
    assert (tick(waiting, clock), len(waiting.case.entries())) == ([], before)


def test_an_overdue_gate_that_holds_is_held_once(
    waiting: Response, clock: Clock, told: Callable[[], int]
) -> None:
    """Held, told, ended, in one tick; the next one says nothing about it."""
    clock.move(4 * HOUR + timedelta(seconds=1))
    assert tick(waiting, clock) == [("held", "ask")]
    assert (view(waiting.case.entries()).status, told()) == (IncidentStatus.HELD, 1)
    assert "nobody answered in time" in view(waiting.case.entries()).reason
    assert tick(waiting, clock) == []
    assert kinds(waiting.case).count("gate.timed_out") == 1
    assert kinds(waiting.case).count("response.ended") == 1
    waiting.answers = saying()
    assert (waiting.walk().status, waiting.effects) == (Status.HELD, ["look"])


@pytest.mark.parametrize("lost", ["send", "response.ended", "gate.overdue_told"])
def test_killed_between_the_journal_and_the_message_people_are_still_told(
    waiting: Response,
    clock: Clock,
    told: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """The next tick finishes what the first began; nobody is told twice."""
    clock.move(5 * HOUR)
    real = Case.append

    def append(self: Case, kind: str, *rest: object) -> object:
        if kind == lost:
            raise KeyboardInterrupt
        return real(self, kind, *rest)  # type: ignore[arg-type]

    def dead(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Case, "append", append)
        if lost == "send":
            patch.setattr(clocks, "send", dead)
        with pytest.raises(KeyboardInterrupt):
            tick(waiting, clock)
    assert tick(waiting, clock) == [("held", "ask")]
    assert (told(), tick(waiting, clock)) == (1, [])
    assert view(waiting.case.entries()).status is IncidentStatus.HELD
    assert kinds(waiting.case).count("response.ended") == 1


def test_a_timeout_that_the_walk_found_is_told_by_the_clock(
    waiting: Response, clock: Clock, told: Callable[[], int]
) -> None:
    """Whoever journals it first, people hear of it once."""
    clock.move(5 * HOUR)
    assert waiting.walk().status is Status.HELD
    assert (tick(waiting, clock), told()) == ([("held", "ask")], 1)
    assert tick(waiting, clock) == []


def test_an_overdue_gate_that_escalates_is_told_once_for_each_question(
    tmp_path: Path, clock: Clock, told: Callable[[], int]
) -> None:
    """The question stands; asked anew it is told anew; an answer still counts."""
    response = _waiting(tmp_path, SMALL.replace("otherwise: hold", "otherwise: escalate"))
    clock.move(4 * HOUR + timedelta(seconds=1))
    assert tick(response, clock) == [("escalated", "ask")]
    assert (tick(response, clock), told()) == ([], 1)
    assert replay(response.book, response.case.entries()).status is Status.WAITING
    response.case.add_findings([finding("config.json")])
    clock.move(timedelta(seconds=1))
    response.walk()
    clock.move(4 * HOUR)
    assert tick(response, clock)[0] == ("update", "")
    clock.move(timedelta(seconds=1))
    assert (tick(response, clock), told()) == ([("escalated", "ask")], 3)
    response.answers = saying()
    assert response.walk().status is Status.COMPLETED


def test_a_missed_deadline_is_journaled_once(tmp_path: Path, clock: Clock) -> None:
    """For a step that is not over; what is done in time misses nothing."""
    text = SMALL.replace("flow: investigate", "flow: investigate, deadline: 1h")
    response = _waiting(tmp_path, text.replace("after: [ask],", "after: [ask], deadline: 2h,"))
    clock.move(2 * HOUR)
    assert tick(response, clock) == []
    clock.move(timedelta(minutes=1))
    assert tick(response, clock) == [("deadline", "act")]
    assert tick(response, clock) == []
    assert bodies(response.case, "deadline.missed") == [{"step": "act"}]


def test_people_hear_every_four_hours_while_it_goes_on(
    tmp_path: Path, clock: Clock, told: Callable[[], int]
) -> None:
    """And not in between, however often the clock ticks."""
    response = _waiting(tmp_path, SMALL.replace("timeout: 4h", "timeout: 30d"))
    for number in range(1, 4):
        clock.move(UPDATE_EVERY)
        assert tick(response, clock) == []
        clock.move(timedelta(seconds=1))
        assert tick(response, clock) == [("update", "")]
        assert tick(response, clock) == []
        assert told() == number


def test_a_held_response_is_not_forgotten(waiting: Response, clock: Clock) -> None:
    """People who must decide are reminded."""
    clock.move(5 * HOUR)
    tick(waiting, clock)
    clock.move(UPDATE_EVERY + timedelta(seconds=1))
    assert tick(waiting, clock) == [("update", "")]


def test_after_recovery_the_clocks_are_silent(
    waiting: Response, clock: Clock, told: Callable[[], int]
) -> None:
    """No update, no deadline, no gate."""
    waiting.answers = saying()
    assert waiting.walk().status is Status.COMPLETED
    clock.move(timedelta(days=30))
    assert (tick(waiting, clock), told()) == ([], 0)


def test_an_incident_nobody_responds_to_has_no_clock(tmp_path: Path, clock: Clock) -> None:
    """There is no playbook that could run late."""
    case = make_case(tmp_path)
    clock.move(timedelta(days=30))
    assert tick_incident(case, TAMPERED.parent, clock.moment) == []


def test_without_channels_the_clocks_still_run(tmp_path: Path, clock: Clock) -> None:
    """That nobody could be told is journaled, and the gate is held all the same."""
    case = make_case(tmp_path / "case")
    response = Response(case, playbook(tmp_path))
    response.walk()
    clock.move(5 * HOUR)
    assert tick(response, clock) == [("held", "ask")]
    assert "nobody was told" in bodies(case, "message.failed")[0]["error"]


def test_a_channel_that_fails_does_not_stop_the_clocks(tmp_path: Path, clock: Clock) -> None:
    """A file where the channel's folder should be."""
    response = _waiting(tmp_path, SMALL)
    (tmp_path / "channel").write_text("in the way")
    clock.move(5 * HOUR)
    assert tick(response, clock) == [("held", "ask")]
    assert bodies(response.case, "message.failed")
    assert replace(response.case).id == response.case.id
