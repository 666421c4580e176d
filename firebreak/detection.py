"""One full check: every model and the environment, findings gathered into incidents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, TypeVar

from firebreak.checks.dependencies import compare_packages
from firebreak.checks.drift import check_drift
from firebreak.checks.hashing import Progress
from firebreak.checks.manifest import compare, load_baseline, look
from firebreak.errors import FirebreakError, ModelPathError, SealError
from firebreak.evidence.environment import installed_packages
from firebreak.incidents.case import open_case
from firebreak.incidents.store import Store
from firebreak.inventory import Inventory, Model
from firebreak.records import Finding, FindingType, Json, Severity, now, timestamp

RECHECKS = 3  # how often a check starts anew because the baseline changed under it
OPENS_FROM = Severity.MEDIUM  # findings below it are reported and open no incident

Callback = Callable[[Finding], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of the findings of one subject."""

    incident: str
    subject: str
    opened: bool
    new: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a full check.

    Attributes:
        checked_at: RFC 3339.
        models: ids that were checked.
        findings: all that were seen now, known ones too.
        recorded: the incidents that were opened or extended, or that already held them.
    """

    checked_at: str
    models: tuple[str, ...]
    findings: tuple[Finding, ...]
    recorded: tuple[Recorded, ...] = ()

    @property
    def criticals(self) -> int:
        """Number of critical findings."""
        return sum(f.severity is Severity.CRITICAL for f in self.findings)

    def to_json(self) -> Json:
        """The summary as JSON."""
        return {
            "checked_at": self.checked_at,
            "models": list(self.models),
            "total_findings": len(self.findings),
            "critical_findings": self.criticals,
            "incident_detected": bool(self.recorded),
            "findings": [f.to_json() for f in self.findings],
            "incidents": [
                {
                    "id": r.incident,
                    "subject": r.subject,
                    "opened": r.opened,
                    "new_findings": len(r.new),
                }
                for r in self.recorded
            ],
        }


def detect(
    inventory: Inventory,
    models: Sequence[str] = (),
    *,
    progress: Progress | None = None,
    on_critical: Callback | None = None,
) -> Summary:
    """Check models and environment, and open or extend incidents.

    Args:
        inventory: what to check.
        models: ids to check; all (and the environment) when empty.
        progress: called with bytes read since the last call.
        on_critical: called for each critical finding that no incident held before.

    Raises:
        UnknownModelError: an id the inventory does not list.
        ModelPathError: a model without a baseline whose path is missing: nothing to compare.
        FirebreakError, OSError: a check that could not be done. Every other check was done and its
            findings are recorded by then: one broken model does not blind the watch on the rest.
    """
    chosen = [inventory.model(m) for m in models] or list(inventory.models)
    findings: list[Finding] = []
    failed: list[Exception] = []
    for model in chosen:
        checks = [partial(_check_integrity, inventory, model, progress)]
        if model.behavior:
            checks.append(partial(check_drift, model, model.behavior))
        for check in checks:
            findings += _attempt(check, failed) or []
    if not models:
        findings += _attempt(partial(check_environment, inventory), failed) or []
    recorded = _record(inventory, findings, failed)
    if on_critical:
        for finding in (f for r in recorded for f in r.new if f.severity is Severity.CRITICAL):
            on_critical(finding)
    if failed:
        _raise_all(failed, recorded)
    return Summary(timestamp(now()), tuple(m.id for m in chosen), tuple(findings), recorded)


def check_environment(inventory: Inventory) -> list[Finding]:
    """Findings about installed packages; none when the inventory expects none."""
    if not inventory.dependencies:
        return []
    place = str(inventory.environment or "this environment")
    return compare_packages(
        inventory.dependencies, installed_packages(inventory.environment), place
    )


def record(inventory: Inventory, findings: Sequence[Finding]) -> tuple[Recorded, ...]:
    """Open or extend one incident per subject; what an open incident already holds adds nothing."""
    failed: list[Exception] = []
    recorded = _record(inventory, findings, failed)
    if failed:
        _raise_all(failed, recorded)
    return recorded


def _record(
    inventory: Inventory, findings: Sequence[Finding], failed: list[Exception]
) -> tuple[Recorded, ...]:
    subjects = dict.fromkeys(f.subject for f in findings if f.severity.rank >= OPENS_FROM.rank)
    outcomes = [
        _attempt(partial(_extend, inventory, [f for f in findings if f.subject == s]), failed)
        for s in subjects
    ]
    return tuple(outcome for outcome in outcomes if outcome is not None)


def _extend(inventory: Inventory, findings: Sequence[Finding]) -> Recorded:
    subject = findings[0].subject
    store = Store(inventory.database_url)
    incident, opened = store.open_incident(subject, "firebreak", {"source": "detection"})
    new = open_case(incident, inventory).add_findings(findings)
    return Recorded(incident, subject, opened, tuple(new))


def _attempt(check: Callable[[], T], failed: list[Exception]) -> T | None:
    try:
        return check()
    except (FirebreakError, OSError) as error:
        failed.append(error)
        return None


def _raise_all(failed: Sequence[Exception], recorded: Sequence[Recorded]) -> NoReturn:
    """Raise the first failure; the others, and what was recorded, stand in its notes."""
    first = failed[0]
    for other in failed[1:]:
        first.add_note(str(other))
    for outcome in recorded:
        first.add_note(f"{len(outcome.new)} new findings in {outcome.incident}, {outcome.subject}")
    raise first


def _check_integrity(
    inventory: Inventory, model: Model, progress: Progress | None, again: int = RECHECKS
) -> list[Finding]:
    try:
        baseline = load_baseline(inventory, model.id)
    except SealError as error:
        return [
            Finding(
                FindingType.BASELINE_INVALID,
                Severity.CRITICAL,
                "integrity",
                f"{model.id}: baseline cannot be trusted: {error}",
                {"model": model.id, "problem": str(error)},
                model.id,
            )
        ]
    if baseline is None:
        if not model.path.exists():
            raise ModelPathError(model.where, str(model.path), "does not exist")
        return [
            Finding(
                FindingType.NO_BASELINE,
                Severity.MEDIUM,
                "integrity",
                f"{model.id} has no baseline, so nothing about it is known; "
                f"make one on purpose: firebreak baseline create {model.id}",
                {"model": model.id, "path": str(model.path)},
                model.id,
            )
        ]
    findings = compare(baseline, look(model, progress=progress))
    # A rollback or a release may have put another version and its baseline in place meanwhile:
    # what was seen then belongs to neither.
    if findings and again and _sealed(inventory, model) != baseline.created:
        return _check_integrity(inventory, model, progress, again - 1)
    return findings


def _sealed(inventory: Inventory, model: Model) -> str | None:
    """When the baseline now in place was made; None when there is none that can be trusted."""
    try:
        baseline = load_baseline(inventory, model.id)
    except SealError:
        return None
    return baseline.created if baseline else None
