"""Adopting a baseline: made by a named person, and noted where somebody was waiting for it."""

from firebreak.checks.hashing import Progress
from firebreak.checks.manifest import Baseline, create_baseline
from firebreak.errors import BaselineError, UnknownPersonError
from firebreak.incidents.case import Case, open_case
from firebreak.incidents.store import Store
from firebreak.inventory import Inventory, Model
from firebreak.records import FindingType, printable

_INTEGRITY = frozenset(
    {
        FindingType.TAMPERED.value,
        FindingType.MISSING.value,
        FindingType.UNEXPECTED.value,
        FindingType.UNREADABLE.value,
    }
)


def adopt(
    inventory: Inventory,
    model: Model,
    *,
    by: str,
    reason: str,
    replace: bool = False,
    progress: Progress | None = None,
) -> Baseline:
    """Create a baseline and note it in the model's open incident.

    An incident that was open only because there was no baseline is closed by it.

    Raises: as `create_baseline`; and before anything is made:
        UnknownPersonError: the inventory lists people, and `by` is none of them.
        BaselineError: an open incident says that the model's files are not what they were.
        JournalCorruptError, StoreError: the open incident cannot be read.
    """
    _check_person(inventory, by)
    store = Store(inventory.database_url)
    incident = store.open_incident_of(model.id)
    case = open_case(incident, inventory) if incident else None
    if case is not None:
        _refuse_suspect_files(case, model)
    baseline = create_baseline(
        inventory, model, by=by, reason=reason, replace=replace, progress=progress
    )
    if case is None:
        return baseline
    case.append(
        "baseline.created",
        {"by": by, "reason": reason, "files": len(baseline.files), "replaced": replace},
        actor=by,
    )
    quiet = {FindingType.NO_BASELINE.value, FindingType.DRIFT_UNKNOWN.value}
    if _types(case) <= quiet:
        case.append(
            "incident.closed", {"by": by, "reason": "a baseline was made on purpose"}, actor=by
        )
        store.close_incident(case.id)
    return baseline


def _check_person(inventory: Inventory, by: str) -> None:
    people = [person.id for person in inventory.people]
    if people and by not in people:
        raise UnknownPersonError(printable(by), ", ".join(people))


def _refuse_suspect_files(case: Case, model: Model) -> None:
    """Also when no baseline is there any more: removing it must not make the files trusted."""
    if seen := _types(case) & _INTEGRITY:
        raise BaselineError(
            model.id,
            f"{case.id} is open about these files ({', '.join(sorted(seen))}); respond to it with "
            f"`firebreak respond {case.id}`, or end it with `firebreak incident close {case.id}`",
        )


def _types(case: Case) -> set[str]:
    return {e.body["type"] for e in case.entries() if e.kind == "finding.added"}
