"""Triage: findings to severity, technique ids, blast radius and the playbook that fits."""

from dataclasses import dataclass
from pathlib import Path

from firebreak.checks.dependencies import SUBJECT
from firebreak.errors import SourceError
from firebreak.incidents.case import Case
from firebreak.inventory import Inventory, Model
from firebreak.playbook.schema import Playbook, load_playbook
from firebreak.records import Json, Severity

NO_MODEL = "the incident is about the Python environment, not about a model"


@dataclass(frozen=True, slots=True)
class Assessment:
    """What an incident looks like at triage.

    Attributes:
        severity: the worst finding; one step higher for models marked critical.
        types: finding types seen.
        techniques: MITRE ATLAS ids with their release.
        targets: URIs where the model runs or lies.
        also_affected: other models of the inventory that share its files.
        rationale: how the severity came about, for the record.
    """

    severity: Severity
    types: tuple[str, ...]
    techniques: tuple[str, ...]
    targets: tuple[str, ...]
    also_affected: tuple[str, ...]
    rationale: str

    def to_json(self) -> Json:
        """The assessment as JSON."""
        return {
            "severity": self.severity.value,
            "types": list(self.types),
            "techniques": list(self.techniques),
            "targets": list(self.targets),
            "also_affected": list(self.also_affected),
            "rationale": self.rationale,
        }


def assess(case: Case) -> Assessment:
    """The assessment of an incident from its journal and the inventory."""
    found = [e.body for e in case.entries() if e.kind == "finding.added"]
    worst = Severity.highest([Severity(f["severity"]) for f in found])
    model = next((m for m in case.inventory.models if m.id == case.subject), None)
    severity, rationale = worst, f"worst of {len(found)} findings is {worst.value}"
    if model is not None and model.critical and worst is not Severity.CRITICAL:
        severity = list(Severity)[worst.rank + 1]
        rationale += f"; {model.id} is marked critical, so {severity.value}"
    return Assessment(
        severity=severity,
        types=tuple(sorted({f["type"] for f in found})),
        techniques=tuple(dict.fromkeys(t for f in found for t in f["techniques"])),
        targets=tuple(t.uri for t in model.targets) if model else (),
        also_affected=_sharing(case.inventory, model) if model else (),
        rationale=rationale,
    )


def is_about_model(case: Case) -> bool:
    """False for the environment: there are no files, targets or versions of it to act on.

    True for a model that the inventory no longer lists: leaving that out must fail loudly.
    """
    return case.subject != SUBJECT or any(m.id == SUBJECT for m in case.inventory.models)


def playbook_for(types: tuple[str, ...], folder: Path) -> Playbook | None:
    """The first playbook (by file name) that one of the finding types triggers; None when none.

    Raises:
        SourceError: a playbook file cannot be used. A broken playbook is never skipped silently.
    """
    for file in sorted(folder.glob("*.yaml")):
        playbook = load_playbook(file)
        if set(playbook.triggers) & set(types):
            return playbook
    return None


def named_playbook(name: str, folder: Path) -> Playbook:
    """The playbook of that name.

    A broken file beside it does not stop the response that another playbook began.

    Raises:
        SourceError: there is none, its file cannot be used, or two files bear the name.
    """
    found: dict[str, Playbook] = {}
    problem: SourceError | None = None
    for file in sorted(folder.glob("*.yaml")):
        try:
            playbook = load_playbook(file)
        except SourceError as error:
            problem = problem or error
            continue
        if playbook.name == name and name in found:
            raise SourceError(str(file), f"another file has playbook {name!r} as well", "keep one")
        found[playbook.name] = playbook
    if name in found:
        return found[name]
    known = f"known: {', '.join(found) or 'none'}"
    raise problem or SourceError(str(folder), f"no playbook is named {name!r}", known)


def _sharing(inventory: Inventory, model: Model) -> tuple[str, ...]:
    """Ids of other models that lie in, around or at the same path, or share a target."""
    uris = {t.uri for t in model.targets}
    return tuple(
        other.id
        for other in inventory.models
        if other.id != model.id
        and (
            other.path.is_relative_to(model.path)
            or model.path.is_relative_to(other.path)
            or uris & {t.uri for t in other.targets}
        )
    )
