"""Containing and releasing the targets of an incident, journaled, each action once."""

from collections.abc import Iterable

from firebreak.containment.driver import Driver, Exposure, Mode, Plan, Probe, Receipt
from firebreak.containment.drivers import driver_for
from firebreak.errors import ContainmentError
from firebreak.incidents.case import Case
from firebreak.inventory import Target
from firebreak.records import Json, printable

ISOLATE, STOP, RELEASE = "isolate", "stop", "release"


def contain(case: Case, target: Target, mode: Mode, *, waived_by: str | None = None) -> Json:
    """Isolate (reversible) or stop (destructive) one target, then probe whether it worked.

    Args:
        case: the incident.
        target: what to contain.
        mode: how.
        waived_by: who accepted that uncaptured evidence is lost; their approval showed it.

    Returns: `{"receipt": …, "probe": …}`.

    Raises:
        ContainmentError: the driver failed, or the action would destroy evidence that nobody
            captured and nobody waived.
    """
    driver = driver_for(target)
    plan = driver.plan(target, mode, case)
    _require_captured(case, plan, waived_by)
    receipt = case.perform(
        ISOLATE if mode is Mode.REVERSIBLE else STOP,
        target.uri,
        lambda: driver.isolate(target, mode, case).to_json(),
        plan.to_json(),
    )
    return {"receipt": receipt, "probe": probe(case, target, driver).to_json()}


def bring_back(case: Case, target: Target) -> Json:
    """End what still runs at a target and start it again, so that it loads what lies there now.

    Returns: `{"receipt": …, "probe": …}`. Raises: ContainmentError.
    """
    driver = driver_for(target)
    if target.scheme != "file":  # a paused process would go on with the compromised model in memory
        contain(case, target, Mode.DESTRUCTIVE, waived_by=approved_by(case))
    receipt = case.perform(
        RELEASE,
        target.uri,
        lambda: driver.release(target, receipts(case, target), case).to_json(),
    )
    return {"receipt": receipt, "probe": probe(case, target, driver).to_json()}


def probe(case: Case, target: Target, driver: Driver | None = None) -> Probe:
    """What can be proven about a target now, journaled as `containment.probed`."""
    seen = (driver or driver_for(target)).probe(target)
    case.append("containment.probed", seen.to_json())
    return seen


def no_targets(case: Case) -> Json:
    """What containing a model without targets comes to, journaled as a probe that proves nothing.

    Returns: as the result of containing its targets, with the reason under `unproven`.
    """
    why = without_targets(case)
    case.append("containment.probed", Probe(case.subject, Exposure.UNPROVEN, why).to_json())
    return {"targets": [], "probes": [], "proven": 0, "unproven": why}


def without_targets(case: Case) -> str:
    """The sentence on a model that the inventory gives no target."""
    return f"the inventory lists no target for {case.subject}; isolate it by hand"


def plan_for(case: Case, target: Target, mode: Mode) -> Json:
    """What containing a target would do, for people to read; never raises, never changes anything.

    Adds `uncaptured`: evidence classes it destroys that are not captured yet.
    """
    try:
        plan = driver_for(target).plan(target, mode, case)
    except Exception as error:  # noqa: BLE001 - people are asked also when an engine does not answer
        return {
            "target": target.uri,
            "actions": [f"cannot be planned: {printable(str(error)) or type(error).__name__}"],
            "destroys": [],
            "affects": [],
            "uncaptured": [],
        }
    return {**plan.to_json(), "uncaptured": sorted(set(plan.destroys) - captured(case))}


def receipts(case: Case, target: Target) -> list[Receipt]:
    """The receipts of a target's containment, oldest first."""
    return [
        Receipt.from_json(e.body["receipt"])
        for e in case.entries()
        if e.kind == "action.finished"
        and e.body["target"] == target.uri
        and e.body["action"] in (ISOLATE, STOP)
    ]


def approved_by(case: Case) -> str | None:
    """Who approved at the last gate that was approved; None when nobody was asked."""
    answers = [e.body for e in case.entries() if e.kind == "gate.answered"]
    approved = [b for b in answers if b["decision"] == "approve"]
    question = [(b["step"], b["digest"]) for b in approved][-1:]
    names = [b["approver"] for b in approved if (b["step"], b["digest"]) in question]
    return ", ".join(dict.fromkeys(names)) or None


def captured(case: Case) -> set[str]:
    """The evidence classes the incident holds."""
    return {e.body["class"] for e in case.entries() if e.kind == "evidence.collected"}


def contained(probes: Iterable[Json]) -> int:
    """How many probes prove that their target is cut off or gone."""
    return sum(p["exposure"] in (Exposure.CONTAINED, Exposure.GONE) for p in probes)


def _require_captured(case: Case, plan: Plan, waived_by: str | None) -> None:
    lost = sorted(set(plan.destroys) - captured(case))
    if not lost:
        return
    if waived_by is None:
        raise ContainmentError(
            plan.target, f"would destroy {', '.join(lost)}, which nobody captured or waived"
        )
    waiver = {"classes": lost, "by": waived_by, "target": plan.target}
    if not any(e.kind == "evidence.waived" and e.body == waiver for e in case.entries()):
        case.append("evidence.waived", waiver)
