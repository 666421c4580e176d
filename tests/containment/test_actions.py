"""Containing and releasing: nothing uncaptured is destroyed unless a named person accepted it."""

from dataclasses import replace
from typing import ClassVar

import pytest

from firebreak.containment import actions, drivers
from firebreak.containment.actions import (
    approved_by,
    bring_back,
    contain,
    contained,
    no_targets,
    plan_for,
    probe,
    receipts,
)
from firebreak.containment.driver import Exposure, Mode, Plan, Probe, Receipt
from firebreak.errors import ContainmentError
from firebreak.incidents.case import Case, working_on
from firebreak.inventory import Target
from firebreak.investigation.summary import summarise

TARGET = Target("lab://chat")
OTHER = Target("lab://other")


class Lab:
    """A target in memory that behaves as every driver must: idempotent, with receipts."""

    scheme: ClassVar[str] = "lab"

    def __init__(self) -> None:
        self.state, self.calls = "serving", []
        self.failing: Exception | None = None

    def plan(self, target: Target, mode: Mode, case: Case) -> Plan:
        """What would be lost, while it runs."""
        if self.failing:
            raise self.failing
        lost = ("memory", "sockets") if mode is Mode.DESTRUCTIVE and self.state != "gone" else ()
        return Plan(target.uri, mode, (f"{mode} cut",), lost, ("pid 1",))

    def isolate(self, target: Target, mode: Mode, case: Case) -> Receipt:
        """Pause or end it."""
        self.calls.append(f"isolate {mode}")
        before, self.state = self.state, "paused" if mode is Mode.REVERSIBLE else "gone"
        return Receipt(target.uri, mode, {"before": before}, (self.state,))

    def release(self, target: Target, receipts: list[Receipt], case: Case) -> Receipt:
        """Serve again."""
        self.calls.append("release " + " ".join(r.mode.value for r in receipts))
        self.state = "serving"
        return Receipt(target.uri, Mode.REVERSIBLE, {}, ("started",))

    def probe(self, target: Target) -> Probe:
        """What there is."""
        seen = {"serving": Exposure.SERVING, "paused": Exposure.CONTAINED, "gone": Exposure.GONE}
        return Probe(target.uri, seen[self.state], self.state)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The driver of `lab://`."""
    made = Lab()
    monkeypatch.setitem(drivers.DRIVERS, "lab", made)
    return made


def bodies(case: Case, kind: str) -> list[dict[str, object]]:
    """The bodies of all entries of one kind."""
    return [e.body for e in case.entries() if e.kind == kind]


def approve(case: Case, *people: str, step: str = "gate", digest: str = "d") -> None:
    """Approvals as `gates.submit` journals them."""
    for by in people:
        body = {"step": step, "decision": "approve", "approver": by, "digest": digest}
        case.append("gate.answered", {**body, "reason": "why", "via": by})


def test_a_reversible_cut_needs_no_evidence_and_no_person(case: Case, lab: Lab) -> None:
    """It destroys nothing; receipt and probe are journaled and returned."""
    done = contain(case, TARGET, Mode.REVERSIBLE)
    assert done["receipt"]["undo"] == {"before": "serving"}
    assert done["probe"]["exposure"] == "contained"
    assert bodies(case, "containment.probed") == [done["probe"]]
    assert bodies(case, "evidence.waived") == []


def test_a_destructive_stop_is_refused_while_evidence_would_be_lost(case: Case, lab: Lab) -> None:
    """Named are the classes; the target was not touched."""
    case.add_evidence("sockets", "s.json", [{"port": 1}], "host")
    with pytest.raises(ContainmentError, match="would destroy memory, which nobody captured"):
        contain(case, TARGET, Mode.DESTRUCTIVE)
    assert (lab.state, lab.calls) == ("serving", [])
    assert bodies(case, "action.started") == []


def test_a_destructive_stop_goes_on_when_everything_is_captured(case: Case, lab: Lab) -> None:
    """No waiver is then needed or noted."""
    for kind in ("memory", "sockets"):
        case.add_evidence(kind, f"{kind}.bin", b"x", "host")
    contain(case, TARGET, Mode.DESTRUCTIVE)
    assert (lab.state, bodies(case, "evidence.waived")) == ("gone", [])


def test_a_waiver_names_person_classes_and_target_once(case: Case, lab: Lab) -> None:
    """Before the action; a retry does not journal it again."""
    lab.isolate = _broken(lab)  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(ContainmentError):
            contain(case, TARGET, Mode.DESTRUCTIVE, waived_by="ana")
    assert bodies(case, "evidence.waived") == [
        {"classes": ["memory", "sockets"], "by": "ana", "target": TARGET.uri}
    ]
    kinds = [e.kind for e in case.entries()]
    assert kinds.index("evidence.waived") < kinds.index("action.started")


def _broken(lab: Lab):
    def isolate(target: Target, mode: Mode, case: Case) -> Receipt:
        raise ContainmentError(target.uri, "does not stop")

    return isolate


def test_an_empty_name_is_still_no_waiver_for_another_target(case: Case, lab: Lab) -> None:
    """Each target has its own waiver."""
    contain(case, TARGET, Mode.DESTRUCTIVE, waived_by="ana")
    lab.state = "serving"
    with pytest.raises(ContainmentError, match="lab://other: would destroy"):
        contain(case, OTHER, Mode.DESTRUCTIVE)


def test_contained_twice_is_contained_once(case: Case, lab: Lab) -> None:
    """The second call returns the first receipt and only probes."""
    with working_on("isolate"):
        first = contain(case, TARGET, Mode.REVERSIBLE)
        again = contain(case, TARGET, Mode.REVERSIBLE)
    assert (again["receipt"], lab.calls) == (first["receipt"], ["isolate reversible"])


def test_receipts_come_oldest_first_and_only_of_their_target(case: Case, lab: Lab) -> None:
    """The undo must see what was there before everything."""
    contain(case, TARGET, Mode.REVERSIBLE)
    contain(case, OTHER, Mode.REVERSIBLE)
    contain(case, TARGET, Mode.DESTRUCTIVE, waived_by="ana")
    case.perform("send", TARGET.uri, lambda: {"no": "receipt"})
    found = receipts(case, TARGET)
    assert [r.mode for r in found] == [Mode.REVERSIBLE, Mode.DESTRUCTIVE]
    assert [r.undo["before"] for r in found] == ["serving", "paused"]


def test_bringing_back_ends_what_still_runs_and_starts_it_again(case: Case, lab: Lab) -> None:
    """A paused process would go on with the compromised model in memory."""
    contain(case, TARGET, Mode.REVERSIBLE)
    approve(case, "bob", "cid")
    with working_on("rollback"):
        done = bring_back(case, TARGET)
    assert lab.calls[1:] == ["isolate destructive", "release reversible destructive"]
    assert done["probe"]["exposure"] == "serving"
    assert bodies(case, "evidence.waived")[0]["by"] == "bob, cid"


def test_bringing_back_destroys_nothing_that_no_person_accepted(case: Case, lab: Lab) -> None:
    """Without any approval there is no name to put under the waiver."""
    contain(case, TARGET, Mode.REVERSIBLE)
    with pytest.raises(ContainmentError, match="nobody captured or waived"):
        bring_back(case, TARGET)
    assert lab.state == "paused"


def test_a_file_is_not_stopped_when_it_is_brought_back(case: Case, lab: Lab) -> None:
    """Only services hold a model in memory."""
    target = Target(f"file://{case.model.path}")
    done = bring_back(case, target)
    assert [b["action"] for b in bodies(case, "action.started")] == ["release"]
    assert done["receipt"]["done"] == []


def test_who_approved_is_read_from_the_last_approved_gate(case: Case) -> None:
    """Not from an earlier gate, an earlier question or a denial."""
    assert approved_by(case) is None
    approve(case, "ana", step="stop-approval")
    assert approved_by(case) == "ana"
    approve(case, "bob", step="rollback-approval", digest="old")
    approve(case, "cid", "bob", step="rollback-approval", digest="new")
    denial = {"step": "later", "decision": "reject", "approver": "dee", "digest": "x"}
    case.append("gate.answered", {**denial, "reason": "no", "via": "x"})
    assert approved_by(case) == "cid, bob"


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    "uri", ["nothing://x", "file://relative", "process:///no/such.pid", "lab://chat", ""]
)
def test_planning_never_raises_and_changes_nothing(
    case: Case, lab: Lab, uri: str, mode: Mode
) -> None:
    """People are asked also when a target cannot be planned."""
    before = len(case.entries())
    planned = plan_for(case, Target(uri), mode)
    assert set(planned) >= {"target", "actions", "destroys", "affects", "uncaptured"}
    assert (len(case.entries()), lab.calls) == (before, [])


@pytest.mark.parametrize(
    "error",
    [
        ContainmentError("lab://chat", "no engine"),
        OSError(111, "refused \x1b[2J"),
        RuntimeError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ],
)
def test_a_driver_that_breaks_while_planning_is_said_so(
    case: Case, lab: Lab, error: Exception
) -> None:
    """Whatever it raises becomes one printable sentence of the question."""
    lab.failing = error
    (text,) = plan_for(case, TARGET, Mode.DESTRUCTIVE)["actions"]
    assert text.startswith("cannot be planned: ")
    assert text.isprintable()
    assert len(text) > len("cannot be planned: ")


def test_a_plan_names_what_is_not_captured_yet(case: Case, lab: Lab) -> None:
    """Who approves accepts exactly that."""
    case.add_evidence("sockets", "s.json", [{"port": 1}], "host")
    planned = plan_for(case, TARGET, Mode.DESTRUCTIVE)
    assert (planned["destroys"], planned["uncaptured"]) == (["memory", "sockets"], ["memory"])


def test_a_probe_is_journaled_with_what_it_proves(case: Case, lab: Lab) -> None:
    """UNPROVEN never counts as contained."""
    seen = probe(case, TARGET)
    assert bodies(case, "containment.probed") == [seen.to_json()]
    all_of_them = [replace(seen, exposure=e).to_json() for e in Exposure]
    assert contained(all_of_them) == 2


def test_an_unknown_scheme_is_a_containment_error(case: Case) -> None:
    """With the schemes that are known."""
    with pytest.raises(ContainmentError, match=r"known: .*docker://"):
        contain(case, Target("ssh://host"), Mode.REVERSIBLE)
    assert actions.receipts(case, Target("ssh://host")) == []


def test_a_model_without_targets_is_journaled_as_unproven(case: Case) -> None:
    """Nothing was contained; the report says so, and no time of containment is claimed."""
    done = no_targets(case)
    assert (done["targets"], done["probes"], done["proven"]) == ([], [], 0)
    assert done["unproven"] == "the inventory lists no target for chat; isolate it by hand"
    assert [b["exposure"] for b in bodies(case, "containment.probed")] == ["unproven"]
    summary = summarise(case)
    assert any("isolate it by hand" in text for text in summary.unproven)
    assert (summary.status, summary.times["contained_at"]) == ("open, not contained", None)
