"""Operating responses: what is due, which playbook, reopening, answers from the command line."""

from dataclasses import replace
from pathlib import Path

import pytest

from firebreak.errors import (
    ApprovalError,
    IncidentClosedError,
    SourceError,
    UnknownIncidentError,
    UnknownPersonError,
)
from firebreak.incidents.case import Case, working_on
from firebreak.incidents.view import view
from firebreak.playbook.engine import Status, StepStatus, replay
from firebreak.playbook.gates import Answer, submit
from firebreak.playbook.schema import load_playbook
from firebreak.records import Finding, FindingType, Severity
from firebreak.response import (
    answer_gate,
    check_initiator,
    choose_playbook,
    close,
    due_responses,
    find_case,
    question_is_stale,
    reopen,
    standing_question,
)
from playbook_cases import PLAYBOOKS, SMALL, TAMPERED, Response, bodies, finding, make_case, saying
from playbook_cases import playbook as read


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """An incident about `fraud`."""
    return make_case(tmp_path / "case")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the playbook `small`."""
    place = tmp_path / "playbooks"
    place.mkdir()
    read(place, SMALL)
    return place


@pytest.fixture
def waiting(case: Case, folder: Path) -> Response:
    """A response that waits at its gate `ask`."""
    response = Response(case, load_playbook(folder / "playbook.yaml"))
    assert response.walk().status is Status.WAITING
    return response


def give(response: Response, folder: Path, by: str = "bob", **changes: str | None) -> bool:
    """One answer from the command line."""
    form = {"decision": "approve", "reason": "looked at it", "digest": None, **changes}
    question = standing_question(response.case)
    return answer_gate(response.case, question, by=by, playbooks=folder, **form).accepted  # type: ignore[arg-type]


def test_only_an_automatic_inventory_has_responses_due(case: Case) -> None:
    """`manual` waits for people, whatever was found."""
    automatic = replace(case.inventory, respond="automatic")
    assert list(due_responses(case.inventory, PLAYBOOKS)) == []
    assert [(d.incident, d.playbook) for d in due_responses(automatic, PLAYBOOKS)] == [
        (case.id, "tampered-model")
    ]


def test_an_incident_is_due_once(case: Case) -> None:
    """Not while it is responded to, held, or closed, and not when no playbook fits."""
    automatic = replace(case.inventory, respond="automatic")
    drift = Finding(FindingType.DRIFT, Severity.MEDIUM, "drift", "d", {}, "other")
    other, _ = case.store.open_incident("other", "test", {})
    replace(case, id=other).add_findings([drift])
    assert [d.incident for d in due_responses(automatic, PLAYBOOKS)] == [case.id]
    response = Response(case, load_playbook(TAMPERED))
    response.walk()
    assert list(due_responses(automatic, PLAYBOOKS)) == []
    response.answers = saying()
    response.walk()
    assert list(due_responses(automatic, PLAYBOOKS)) == []


def test_a_case_is_found_by_its_id_or_by_its_model(case: Case) -> None:
    """The open incident of the model; a closed one only by its id."""
    assert find_case(case.inventory, case.id).id == case.id
    assert find_case(case.inventory, "fraud").id == case.id
    case.store.close_incident(case.id)
    assert find_case(case.inventory, case.id).id == case.id
    with pytest.raises(UnknownIncidentError):
        find_case(case.inventory, "fraud")


def test_the_playbook_is_the_named_the_started_or_the_fitting_one(case: Case, folder: Path) -> None:
    """In this order."""
    assert choose_playbook(case, None, PLAYBOOKS).name == "tampered-model"
    Response(case, load_playbook(folder / "playbook.yaml")).walk()
    assert choose_playbook(case, None, folder).name == "small"
    with pytest.raises(SourceError, match=r"no playbook is named 'small'"):
        choose_playbook(case, None, PLAYBOOKS)
    assert choose_playbook(case, "tampered-model", PLAYBOOKS).name == "tampered-model"


def test_findings_that_trigger_nothing_say_what_to_do(case: Case, tmp_path: Path) -> None:
    """The error names the types and the option."""
    with pytest.raises(SourceError, match=r"no playbook is triggered by model_file_tampered.*--pl"):
        choose_playbook(case, None, tmp_path)


def test_an_answer_from_the_command_line_counts(waiting: Response, folder: Path) -> None:
    """With the whole digest, a prefix that names it, or the standing question's."""
    digest = standing_question(waiting.case)["digest"]
    assert give(waiting, folder, digest=digest[:12])
    assert waiting.walk().status is Status.COMPLETED
    with pytest.raises(ApprovalError, match="no question stands"):
        standing_question(waiting.case)


@pytest.mark.parametrize("length", [1, 11])
def test_too_short_a_digest_names_nothing(waiting: Response, folder: Path, length: int) -> None:
    """A few digits could be guessed or collide."""
    digest = standing_question(waiting.case)["digest"][:length]
    with pytest.raises(ApprovalError, match="the evidence or the plan changed"):
        give(waiting, folder, digest=digest)


@pytest.mark.parametrize(
    ("by", "changes", "why"),
    [
        ("mallory", {}, "not a person"),
        ("ana", {}, "asked are ml-oncall"),
        ("bob", {"reason": ""}, "a reason of"),
        ("bob", {"decision": "yes"}, "expected approve or reject"),
        ("bob", {"digest": "f" * 64}, "the plan changed"),
    ],
)
def test_a_refused_answer_raises_and_is_journaled(
    waiting: Response, folder: Path, by: str, changes: dict[str, str], why: str
) -> None:
    """The person at the keyboard sees why; the record keeps it; the question stands."""
    with pytest.raises(ApprovalError, match=why):
        give(waiting, folder, by, **changes)
    assert why in bodies(waiting.case, "gate.refused")[0]["why"]
    assert standing_question(waiting.case)["step"] == "ask"


def test_an_answer_to_a_question_read_before_the_facts_changed_is_refused(
    waiting: Response, folder: Path
) -> None:
    """Though nobody has asked anew yet."""
    waiting.case.add_findings([finding("config.json")])
    with pytest.raises(ApprovalError, match="the evidence or the plan changed"):
        give(waiting, folder)


def test_two_answers_from_the_command_line_are_two(waiting: Response, folder: Path) -> None:
    """Each has its own id: the second one finds the gate decided."""
    give(waiting, folder)
    with pytest.raises(ApprovalError, match="no question stands"):
        give(waiting, folder, "cid")


def test_a_no_holds_and_can_be_reopened_on_a_named_persons_word(
    waiting: Response, folder: Path
) -> None:
    """The person is the entry's actor."""
    give(waiting, folder, decision="reject")
    assert waiting.walk().status is Status.HELD
    reopen(waiting.case, waiting.book, "ask", by="dee", reason="new\x1b[2J facts \udcff")
    entry = next(e for e in waiting.case.entries() if e.kind == "step.reopened")
    assert (entry.actor, entry.body["reason"]) == ("dee", "new\\x1b[2J facts \\xff")
    state = replay(waiting.book, waiting.case.entries())
    assert state.steps["ask"].status is StepStatus.PENDING


@pytest.mark.parametrize(
    ("step", "by", "reason", "why"),
    [
        ("ask", "mallory", "new facts", "not a person"),
        ("ask", "firebreak", "new facts", "not a person"),
        ("ask", "ana", " ", "needs --reason"),
        ("look", "ana", "new facts", "it is done"),
        ("act", "ana", "new facts", "it is pending"),
        ("nothing", "ana", "new facts", "it is unknown"),
    ],
)
def test_reopening_needs_a_person_a_reason_and_an_ended_step(
    waiting: Response, folder: Path, step: str, by: str, reason: str, why: str
) -> None:
    """Nothing is journaled otherwise."""
    give(waiting, folder, decision="reject")
    before = len(waiting.case.entries())
    with pytest.raises(ApprovalError, match=why):
        reopen(waiting.case, waiting.book, step, by=by, reason=reason)
    assert len(waiting.case.entries()) == before


def test_a_standing_question_cannot_be_reopened(waiting: Response) -> None:
    """That would void an approval on the way."""
    with pytest.raises(ApprovalError, match="it is asked"):
        reopen(waiting.case, waiting.book, "ask", by="ana", reason="ask faster")


def test_who_had_a_gate_asked_again_cannot_approve_it_alone(
    waiting: Response, folder: Path
) -> None:
    """Else one person could turn a colleague's no into a yes."""
    give(waiting, folder, decision="reject")
    waiting.walk()
    reopen(waiting.case, waiting.book, "ask", by="bob", reason="I see it differently")
    assert waiting.walk().status is Status.WAITING
    with pytest.raises(ApprovalError, match="had this asked again"):
        give(waiting, folder, by="bob")


def test_an_action_of_a_reopened_step_is_done_again(case: Case) -> None:
    """A rollback that is asked for again must be able to start a service that died meanwhile."""
    done: list[int] = []

    def act() -> dict[str, int]:
        done.append(1)
        return {"times": len(done)}

    with working_on("rollback"):
        assert case.perform("release", "process:///x", act) == {"times": 1}
        assert case.perform("release", "process:///x", act) == {"times": 1}
        case.append("step.reopened", {"step": "isolate", "by": "ana", "reason": "another step"})
        assert case.perform("release", "process:///x", act) == {"times": 1}
        case.append("step.reopened", {"step": "rollback", "by": "ana", "reason": "it died again"})
        assert case.perform("release", "process:///x", act) == {"times": 2}
        assert case.perform("release", "process:///x", act) == {"times": 2}


def test_an_incident_is_closed_by_a_person_with_a_reason(case: Case) -> None:
    """A false alarm does not stand in the list for ever; its journal does."""
    with pytest.raises(UnknownPersonError, match="mallory"):
        close(case, by="mallory", reason="nothing to see")
    with pytest.raises(ApprovalError, match="needs a reason"):
        close(case, by="ana", reason="")
    assert case.store.open_incident_of(case.subject) == case.id
    close(case, by="ana", reason="planned upgrade")
    assert view(case.entries()).status.value == "closed"
    assert case.store.open_incident_of(case.subject) is None
    with pytest.raises(ApprovalError, match="closed already"):
        close(case, by="ana", reason="again")


def test_a_response_is_started_by_somebody_who_can_be_kept_from_approving(case: Case) -> None:
    """A made-up name would make the separation of duties empty."""
    check_initiator(case.inventory, "ana")
    check_initiator(case.inventory, "firebreak")
    with pytest.raises(UnknownPersonError, match="nobody-in-particular"):
        check_initiator(case.inventory, "nobody-in-particular")


def test_nothing_more_is_done_for_a_closed_incident(waiting: Response, folder: Path) -> None:
    """An approval that comes after the close must not stop anything, whoever waits for it."""
    question = standing_question(waiting.case)
    close(waiting.case, by="ana", reason="false alarm")
    before = list(waiting.effects)
    with pytest.raises(IncidentClosedError, match="closed by ana"):
        waiting.walk()
    with pytest.raises(ApprovalError, match="no question stands"):
        give(waiting, folder)
    late = Answer("approve", "bob", "did not see it", question["digest"], "prefect:run:key")
    assert not submit(waiting.case, waiting.book, "ask", late).accepted
    with pytest.raises(IncidentClosedError):
        reopen(waiting.case, waiting.book, "ask", by="ana", reason="not over yet")
    assert waiting.effects == before


def test_a_question_that_new_findings_overtook_is_stale(waiting: Response, folder: Path) -> None:
    """Whoever asks to answer it learns that it must be asked anew; a new walk asks it."""
    question = standing_question(waiting.case)
    assert not question_is_stale(waiting.case, question, folder)
    waiting.case.add_findings([finding("more.bin")])
    assert question_is_stale(waiting.case, question, folder)
    waiting.walk()
    assert not question_is_stale(waiting.case, standing_question(waiting.case), folder)
