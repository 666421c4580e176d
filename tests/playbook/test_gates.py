"""Gates: what binds an answer to its question, and every way in which one is refused."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from firebreak.incidents.case import Case, working_on
from firebreak.inventory import Person
from firebreak.investigation.markdown import escape
from firebreak.playbook import gates
from firebreak.playbook.engine import StepStatus, replay
from firebreak.playbook.gates import Answer, Taken, decision_digest, submit
from firebreak.playbook.question import as_markdown
from firebreak.playbook.schema import Playbook
from firebreak.records import Json, now
from playbook_cases import CANDIDATE, PEOPLE, SMALL, another, bodies, finding, kinds, make_case
from playbook_cases import playbook as read

HOSTILE = "<script>alert(1)</script> \x1b[2J\x00 [a](http://evil.example)\nApproved by: ana"


@pytest.fixture
def book(tmp_path: Path) -> Playbook:
    """Look, ask one of two roles, act."""
    return read(tmp_path)


def begin(case: Case, book: Playbook, initiator: str = "firebreak") -> Json:
    """Start the response up to its gate and put the question."""
    case.append("response.started", {"initiator": initiator, "digest": book.digest})
    case.append("step.finished", {"step": "look", "result": {"candidate": CANDIDATE}})
    return put(case, book)


def put(case: Case, book: Playbook) -> Json:
    """Put the question of the gate `ask`."""
    step = book.step("ask")
    assert step.gate is not None
    return gates.ask(case, replay(book, case.entries()), step, step.gate, [])


def answer(question: Json, by: str = "bob", **changes: str) -> Answer:
    """A good answer, with some fields changed."""
    made = Answer("approve", by, "evidence is safe", question["digest"], f"test:{by}")
    return replace(made, **changes)


def status(case: Case, book: Playbook) -> StepStatus:
    """Where the gate stands."""
    return replay(book, case.entries()).steps["ask"].status


def test_an_answer_of_an_asked_person_opens_the_gate(case: Case, book: Playbook) -> None:
    """And the journal names the person as the actor, and seals the head."""
    taken = submit(case, book, "ask", answer(begin(case, book)))
    assert (taken.accepted, status(case, book)) == (True, StepStatus.APPROVED)
    assert [e.actor for e in case.entries() if e.kind == "gate.answered"] == ["bob"]
    assert kinds(case)[-1] == "journal.checkpoint"
    assert bodies(case, "gate.answered")[0]["proof"] == "unproven"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"approver": "mallory"}, "not a person of the inventory"),
        ({"approver": ""}, "not a person of the inventory"),
        ({"approver": "Bob"}, "not a person of the inventory"),
        ({"approver": "ml-oncall"}, "not a person of the inventory"),
        ({"approver": "ana"}, "ana has incident-commander; asked are ml-oncall, security-lead"),
        ({"approver": "dee"}, "dee has no role"),
        ({"decision": ""}, "expected approve or reject"),
        ({"decision": "yes"}, "expected approve or reject"),
        ({"decision": "APPROVE"}, "expected approve or reject"),
        ({"decision": "approve "}, "expected approve or reject"),
        ({"decision": "approve\x00reject"}, "expected approve or reject"),
        ({"decision": "аpprove"}, "expected approve or reject"),  # noqa: RUF001 - Cyrillic a
        ({"reason": ""}, "a reason of 3 to 2000"),
        ({"reason": "  \t\n  "}, "a reason of 3 to 2000"),
        ({"reason": "ok"}, "a reason of 3 to 2000"),
        ({"reason": "x" * 100_000}, "a reason of 3 to 2000"),
        ({"digest": ""}, "the evidence or the plan changed"),
        ({"digest": "0" * 64}, "the evidence or the plan changed"),
        ({"digest": "\x1b[31m"}, "the evidence or the plan changed"),
    ],
)
def test_a_bad_answer_is_refused_with_its_reason_and_journaled(
    case: Case, book: Playbook, changes: dict[str, str], why: str
) -> None:
    """It never raises, the question stands, and the same good person may answer after it."""
    question = begin(case, book)
    taken = submit(case, book, "ask", answer(question, **changes))
    assert (taken.accepted, why in taken.why) == (False, True), taken.why
    refused = bodies(case, "gate.refused")
    assert [r["why"] for r in refused] == [taken.why]
    assert status(case, book) is StepStatus.ASKED
    assert submit(case, book, "ask", answer(question, via="test:second")).accepted


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_who_started_the_response_cannot_answer(case: Case, book: Playbook, decision: str) -> None:
    """Two people at least stand behind every approved step."""
    taken = submit(case, book, "ask", answer(begin(case, book, "bob"), decision=decision))
    assert taken == Taken(False, "bob started this response and cannot approve it")


def test_hostile_text_is_stored_escaped(case: Case, book: Playbook) -> None:
    """Controls are visible in the journal, markup is dead in every report."""
    submit(case, book, "ask", answer(begin(case, book), reason=HOSTILE))
    stored = bodies(case, "gate.answered")[0]["reason"]
    assert stored.isprintable()
    assert "<script>" not in escape(stored)
    assert "](http" not in escape(stored)


def test_a_secret_in_a_reason_is_not_kept(case: Case, book: Playbook) -> None:
    """Somebody pastes a token; the journal must not hold it for ever."""
    token = "hf_" + "A1b2C3d4" * 4
    submit(case, book, "ask", answer(begin(case, book), reason=f"rotated {token} by hand"))
    assert token not in str(bodies(case, "gate.answered"))


def test_a_refused_hostile_answer_is_stored_small_and_escaped(case: Case, book: Playbook) -> None:
    """Neither its size nor its bytes reach the journal."""
    huge = "\x1b" + "A" * 1_000_000 + "\ud800"
    submit(case, book, "ask", Answer(huge, huge, huge, huge, huge))
    stored = bodies(case, "gate.refused")[0]
    assert all(len(str(v)) <= gates.MAX_REASON for k, v in stored.items() if k != "why")
    assert str(stored).isprintable()


@pytest.mark.parametrize("change", [{}, {"decision": "nonsense"}])
def test_the_same_answer_counts_once(case: Case, book: Playbook, change: dict[str, str]) -> None:
    """Started again, a run reads the stored answer again: it is journaled once, taken or not."""
    question = begin(case, book)
    first = submit(case, book, "ask", answer(question, **change))
    before = len(case.entries())
    again = submit(another(case), book, "ask", answer(question, **change))
    assert (again.accepted, len(case.entries())) == (first.accepted, before)


def test_one_person_is_no_quorum_of_two(case: Case, tmp_path: Path) -> None:
    """A second approval of the same person is refused; a second person opens the gate."""
    book = read(tmp_path, SMALL.replace("quorum: 1", "quorum: 2"))
    question = begin(case, book)
    assert submit(case, book, "ask", answer(question)).accepted
    twice = submit(case, book, "ask", answer(question, via="test:again"))
    assert (twice.accepted, "2 different people" in twice.why) == (False, True)
    assert status(case, book) is StepStatus.ASKED
    assert submit(case, book, "ask", answer(question, "cid")).accepted
    assert status(case, book) is StepStatus.APPROVED


def test_somebody_who_approved_may_change_to_a_no_only_by_another_person(
    case: Case, tmp_path: Path
) -> None:
    """An approval is on record; a second thought is refused with that reason, a denial holds."""
    book = read(tmp_path, SMALL.replace("quorum: 1", "quorum: 2"))
    question = begin(case, book)
    submit(case, book, "ask", answer(question))
    submit(case, book, "ask", answer(question, "cid", decision="reject"))
    assert status(case, book) is StepStatus.DENIED
    late = submit(case, book, "ask", answer(question, "cid", via="test:later"))
    assert late.why == "no question stands at 'ask'; it is denied"


def test_two_answers_at_the_same_moment_are_both_kept(case: Case, book: Playbook) -> None:
    """The first one decides; the second is refused, not lost."""
    question = begin(case, book)
    assert submit(case, book, "ask", answer(question)).accepted
    late = submit(another(case), book, "ask", answer(question, "cid", decision="reject"))
    assert (late.accepted, status(case, book)) == (False, StepStatus.APPROVED)
    assert len(bodies(case, "gate.refused")) == 1


@pytest.mark.parametrize("step", ["look", "act", "nothing", "\x1b[2J"])
def test_an_answer_to_no_question_is_refused(case: Case, book: Playbook, step: str) -> None:
    """A step that is no gate, a gate not yet asked, a step the playbook does not have."""
    question = begin(case, book)
    taken = submit(case, book, step, answer(question))
    assert (taken.accepted, status(case, book)) == (False, StepStatus.ASKED)
    assert len(bodies(case, "gate.refused")) == 1


def test_an_answer_before_the_question_is_refused(case: Case, book: Playbook) -> None:
    """Nobody approves in advance."""
    digest = decision_digest(book, book.step("ask"), case.entries())
    taken = submit(case, book, "ask", answer({"digest": digest}))
    assert taken.why == "no question stands at 'ask'; it is pending"


def test_a_late_answer_is_refused_where_silence_holds(case: Case, book: Playbook) -> None:
    """To the second: at the deadline it counts, after it it does not."""
    question = begin(case, book)
    due = next(e for e in case.entries() if e.kind == "gate.asked")
    asked_at = replay(book, case.entries()).steps["ask"].asked_at
    assert due.time == asked_at
    late = now() + timedelta(hours=4, seconds=1)
    taken = submit(case, book, "ask", answer(question), late)
    assert (taken.accepted, "too late" in taken.why) == (False, True)
    assert submit(case, book, "ask", answer(question, via="test:in-time")).accepted


def test_a_late_answer_counts_where_silence_escalates(case: Case, tmp_path: Path) -> None:
    """That gate keeps asking."""
    book = read(tmp_path, SMALL.replace("otherwise: hold", "otherwise: escalate"))
    question = begin(case, book)
    assert submit(case, book, "ask", answer(question), now() + timedelta(days=3)).accepted


def test_an_overdue_question_is_journaled_once(case: Case, book: Playbook) -> None:
    """Held once, however many clocks run; a later answer finds no question."""
    question = begin(case, book)
    late = now() + timedelta(hours=5)
    assert gates.expire(case, book, now()) == []
    assert gates.expire(case, book, late) == ["ask"]
    assert gates.expire(case, book, late) == []
    assert "it is timed_out" in submit(case, book, "ask", answer(question)).why


def test_each_round_of_an_escalating_question_times_out_once(case: Case, tmp_path: Path) -> None:
    """Asked anew, it may be overdue anew."""
    book = read(tmp_path, SMALL.replace("otherwise: hold", "otherwise: escalate"))
    begin(case, book)
    late = now() + timedelta(hours=5)
    assert gates.expire(case, book, late) == ["ask"]
    case.add_findings([finding("config.json")])
    put(case, book)
    assert gates.expire(case, book, late) == ["ask"]
    assert gates.expire(case, book, late) == []


def test_a_standing_question_is_not_put_twice(case: Case, book: Playbook) -> None:
    """A restart finds it again, word for word."""
    question = begin(case, book)
    assert put(another(case), book) == question
    assert kinds(case).count("gate.asked") == 1


def test_a_question_is_put_anew_when_the_evidence_changed(case: Case, book: Playbook) -> None:
    """The answer to the first is refused: it was given for other facts."""
    first = begin(case, book)
    case.add_findings([finding("config.json")])
    early = submit(case, book, "ask", answer(first, via="test:before-asked-anew"))
    second = put(case, book)
    assert (first["digest"] != second["digest"], second["superseded"]) == (True, True)
    late = submit(case, book, "ask", answer(first))
    assert [early.accepted, late.accepted] == [False, False]
    assert submit(case, book, "ask", answer(second, via="test:new")).accepted


def test_the_digest_covers_what_is_decided(case: Case, tmp_path: Path) -> None:
    """A finding, evidence, an edit, another candidate, another parameter: each another digest."""
    book = read(tmp_path)
    seen = {decision_digest(book, book.step("ask"), case.entries())}

    def is_new(book: Playbook = book) -> bool:
        found = decision_digest(book, book.step("ask"), case.entries())
        return found not in seen and not seen.add(found)

    case.add_findings([finding("config.json")])
    assert is_new()
    case.add_evidence("logs", "server.log", b"x", "host")
    assert is_new()
    case.append("step.finished", {"step": "look", "result": {"candidate": CANDIDATE}})
    assert is_new()
    other = {**CANDIDATE, "manifest_sha256": "cd" * 32}
    case.append("step.finished", {"step": "look", "result": {"candidate": other}})
    assert is_new()
    assert is_new(read(tmp_path, SMALL.replace("Cut, ask, act", "Another title")))
    same_playbook_digest = replace(
        book,
        steps=tuple(replace(s, inputs={"to": "1.0"}) if s.id == "act" else s for s in book.steps),
    )
    assert is_new(same_playbook_digest)


def test_the_digest_ignores_what_the_steps_behind_the_gate_collect(
    case: Case, book: Playbook
) -> None:
    """Else no approved step that keeps evidence could be brought to its end."""
    before = decision_digest(book, book.step("ask"), case.entries())
    with working_on("act"):
        case.add_evidence("memory", "dump", b"x", "docker")
        case.add_findings([finding("other.bin")])
        case.append("step.finished", {"step": "act", "result": {"candidate": "forged"}})
    case.append("message.sent", {"channel": "ops"})
    assert decision_digest(book, book.step("ask"), case.entries()) == before


def test_a_question_that_nobody_can_answer_says_so(tmp_path: Path) -> None:
    """No person holds the role: the list is empty, and people read why nothing goes on."""
    case = make_case(tmp_path / "w", people=(PEOPLE[0],))
    question = begin(case, read(tmp_path))
    assert question["people"] == []
    assert "nobody in the inventory" in as_markdown(case, question)


def test_a_person_can_be_asked_by_name(case: Case, tmp_path: Path) -> None:
    """An id in `ask` stands for that person, without any role."""
    book = read(tmp_path, SMALL.replace("[ml-oncall, security-lead]", "[dee]"))
    question = begin(case, book)
    assert question["people"] == ["dee"]
    assert not submit(case, book, "ask", answer(question)).accepted
    assert submit(case, book, "ask", answer(question, "dee")).accepted


def test_a_role_taken_away_counts_at_once(case: Case, book: Playbook) -> None:
    """Who may answer is looked up when the answer comes, not when the question was put."""
    question = begin(case, book)
    people = (Person("bob", "Bob", frozenset({"intern"})),)
    later = replace(case, inventory=replace(case.inventory, people=people))
    assert not submit(later, book, "ask", answer(question)).accepted


def test_an_approval_is_void_when_the_facts_changed_since(case: Case, book: Playbook) -> None:
    """The digest is worked out again when the step would run."""
    submit(case, book, "ask", answer(begin(case, book)))
    state = replay(book, case.entries())
    assert gates.still_approved(state, book.step("act"), case.entries()) == ""
    case.add_findings([finding("config.json")])
    state = replay(book, case.entries())
    assert "ask approved" in gates.still_approved(state, book.step("act"), case.entries())


def test_an_approval_does_not_outlive_an_edited_playbook(case: Case, tmp_path: Path) -> None:
    """Also when the edit keeps every step's name."""
    book = read(tmp_path)
    submit(case, book, "ask", answer(begin(case, book)))
    edited = read(tmp_path, SMALL.replace("last-known-good", "evil"))
    assert gates.still_approved(replay(edited, case.entries()), edited.step("act"), case.entries())
    assert not submit(case, edited, "ask", answer({"digest": "d"}, "cid")).accepted
