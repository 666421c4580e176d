"""The state from before we touched a target, journaled first, so that no crash can lose it.

Between two actions a run may die. The next run sees a target that is half isolated and cannot tell
our half from somebody else's. Therefore each item (a container, a process) has its state journaled
as `containment.before` before the first action on it, and only the first such entry counts until
a `containment.released` entry closes it.
"""

from collections.abc import Iterable

from firebreak.containment.driver import Receipt
from firebreak.incidents.case import Case
from firebreak.records import Json

BEFORE = "containment.before"
RELEASED = "containment.released"


def remember(case: Case, target: str, seen: dict[str, Json]) -> dict[str, Json]:
    """The original state of every item of a target that is not released yet.

    Args:
        case: the incident.
        target: URI.
        seen: item id -> state as it is now; journaled for items that are not known yet.

    Returns: item id -> state from before this incident's first action on it, for all items ever
        journaled and not released, including those that are not in `seen`.
    """
    known = outstanding(case, target)
    new = {item: state for item, state in seen.items() if item not in known}
    if new:
        case.append(BEFORE, {"target": target, "items": new})
    return {**known, **new}


def outstanding(case: Case, target: str, receipts: Iterable[Receipt] = ()) -> dict[str, Json]:
    """Item id -> state from before, for items isolated in this incident and not released since.

    Items that only a receipt knows (`undo["items"]`) are added unless the journal closed them.
    """
    known: dict[str, Json] = {}
    closed: set[str] = set()
    for entry in case.entries():
        if entry.body.get("target") != target:
            continue
        if entry.kind == BEFORE:
            for item, state in entry.body["items"].items():
                known.setdefault(item, state)
        elif entry.kind == RELEASED:
            closed.update(entry.body["items"])
            for item in entry.body["items"]:
                known.pop(item, None)
    for receipt in receipts:
        for item, state in receipt.undo.get("items", {}).items():
            if item not in closed:
                known.setdefault(item, state)
    return known


def forget(case: Case, target: str, items: Iterable[str]) -> None:
    """Journal that items are released: a later isolation looks at their state anew."""
    released = sorted(items)
    if released:
        case.append(RELEASED, {"target": target, "items": released})
