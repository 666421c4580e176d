"""Adopting a baseline: made by a named person, and noted where somebody was waiting for it."""

from firebreak.checks.hashing import Progress
from firebreak.checks.manifest import Baseline, create_baseline
from firebreak.incidents.case import open_case
from firebreak.incidents.store import Store
from firebreak.inventory import Inventory, Model
from firebreak.records import FindingType


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

    Raises: as `create_baseline`; StoreError before anything is made.
    """
    store = Store(inventory.database_url)
    incident = store.open_incident_of(model.id)
    baseline = create_baseline(
        inventory, model, by=by, reason=reason, replace=replace, progress=progress
    )
    if incident is None:
        return baseline
    case = open_case(incident, inventory)
    case.append(
        "baseline.created",
        {"by": by, "reason": reason, "files": len(baseline.files), "replaced": replace},
        actor=by,
    )
    types = {e.body["type"] for e in case.entries() if e.kind == "finding.added"}
    quiet = {FindingType.NO_BASELINE.value, FindingType.DRIFT_UNKNOWN.value}
    if types <= quiet:
        case.append(
            "incident.closed", {"by": by, "reason": "a baseline was made on purpose"}, actor=by
        )
        store.close_incident(incident)
    return baseline
