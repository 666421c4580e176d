"""One full check: every model and the environment, findings gathered into incidents."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from firebreak.checks.dependencies import compare_packages
from firebreak.checks.drift import check_drift
from firebreak.checks.hashing import Progress, Tree
from firebreak.checks.manifest import Baseline, compare, load_baseline, look
from firebreak.checks.publisher_key import load_public_key
from firebreak.checks.release_manifest import (
    SIGNATURES,
    ReleaseManifest,
    content_digest,
    parse_manifest,
)
from firebreak.checks.signatures import (
    MANIFEST,
    NEXT_STEP,
    SIGNATURE,
    Verdict,
    read_signed,
)
from firebreak.errors import (
    FirebreakError,
    KeyFileError,
    ManifestError,
    ModelPathError,
    SealError,
)
from firebreak.evidence.environment import installed_packages
from firebreak.incidents.case import open_case
from firebreak.incidents.store import Store
from firebreak.inventory import Inventory, Model
from firebreak.records import Finding, FindingType, Json, Severity, now, printable, timestamp

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
        unrecorded: findings that should stand in an incident and could not be written there.
        errors: what could not be checked or recorded; everything else was.
    """

    checked_at: str
    models: tuple[str, ...]
    findings: tuple[Finding, ...]
    recorded: tuple[Recorded, ...] = ()
    unrecorded: tuple[Finding, ...] = ()
    errors: tuple[Exception, ...] = ()

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
            "incident_detected": bool(self.recorded or self.unrecorded),
            "unrecorded_findings": len(self.unrecorded),
            "errors": [str(error) for error in self.errors],
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

    def raise_errors(self, more: Sequence[Exception] = ()) -> None:
        """Raise the first error, if any; the others, and what was recorded, stand in its notes.

        Args:
            more: what failed after the check, such as starting a response.
        """
        failed = [*self.errors, *more]
        if failed:
            _raise_all(failed, self.recorded)


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
    summary = check_all(inventory, models, progress=progress)
    if on_critical:
        new = [*(f for r in summary.recorded for f in r.new), *summary.unrecorded]
        for finding in new:
            if finding.severity is Severity.CRITICAL:
                on_critical(finding)
    summary.raise_errors()
    return summary


def check_all(
    inventory: Inventory, models: Sequence[str] = (), *, progress: Progress | None = None
) -> Summary:
    """Like `detect`, but returns what was found even when something failed: see `Summary.errors`.

    Raises:
        UnknownModelError: an id the inventory does not list.
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
    recorded, unrecorded = _record(inventory, findings, failed)
    return Summary(
        timestamp(now()),
        tuple(m.id for m in chosen),
        tuple(findings),
        recorded,
        unrecorded,
        tuple(failed),
    )


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
    recorded, _ = _record(inventory, findings, failed)
    if failed:
        _raise_all(failed, recorded)
    return recorded


def _record(
    inventory: Inventory, findings: Sequence[Finding], failed: list[Exception]
) -> tuple[tuple[Recorded, ...], tuple[Finding, ...]]:
    """What was recorded, and the findings that could not be."""
    recorded: list[Recorded] = []
    unrecorded: list[Finding] = []
    for subject in dict.fromkeys(f.subject for f in findings if f.severity.rank >= OPENS_FROM.rank):
        about = [f for f in findings if f.subject == subject]
        outcome = _attempt(partial(_extend, inventory, about), failed)
        if outcome is None:
            unrecorded += about
        else:
            recorded.append(outcome)
    return tuple(recorded), tuple(unrecorded)


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
    for other in dict.fromkeys(map(str, failed[1:])):
        if other != str(first):
            first.add_note(other)
    for outcome in recorded:
        first.add_note(f"{len(outcome.new)} new findings in {outcome.incident}, {outcome.subject}")
    raise first


def _check_integrity(
    inventory: Inventory, model: Model, progress: Progress | None, again: int = RECHECKS
) -> list[Finding]:
    try:
        baseline = load_baseline(inventory, model.id)
    except SealError as error:
        return [_untrusted(model, error), *_check_signature(inventory, model)]
    if baseline is None:
        if not model.path.exists():
            raise ModelPathError(model.where, str(model.path), "does not exist")
        return [_without_baseline(model), *_check_signature(inventory, model)]
    tree = look(model, progress=progress)
    findings = compare(baseline, tree)
    # Files that differ from their baseline need no second finding that they are not as signed.
    findings += _check_signature(inventory, model, baseline, None if findings else tree)
    # A rollback or a release may have put another version and its baseline in place meanwhile:
    # what was seen then belongs to neither.
    if findings and again and _sealed(inventory, model) != baseline.created:
        return _check_integrity(inventory, model, progress, again - 1)
    return findings


def _untrusted(model: Model, error: SealError) -> Finding:
    return Finding(
        FindingType.BASELINE_INVALID,
        Severity.CRITICAL,
        "integrity",
        f"{model.id}: baseline cannot be trusted: {error}",
        {"model": model.id, "problem": str(error)},
        model.id,
    )


def _without_baseline(model: Model) -> Finding:
    return Finding(
        FindingType.NO_BASELINE,
        Severity.MEDIUM,
        "integrity",
        f"{model.id} has no baseline, so nothing about it is known; "
        f"make one on purpose: firebreak baseline create {model.id}",
        {"model": model.id, "path": str(model.path)},
        model.id,
    )


def _check_signature(
    inventory: Inventory, model: Model, baseline: Baseline | None = None, tree: Tree | None = None
) -> list[Finding]:
    """At most one finding about the publisher's signature; no file of the model is read again.

    None without a configured key, and none about a model that carries no signature at all.

    Args:
        inventory: names the publisher's key.
        model: what to check.
        baseline: says which version it is; any when None.
        tree: the files, to hold against the signed list; not compared when None.
    """
    folder = model.path / SIGNATURES
    if inventory.cosign_key is None or not os.path.lexists(folder):
        return []
    digest: str | None = None
    try:
        signed = read_signed(model.path)
        if signed is None:
            verdict, problem = Verdict.UNSIGNED, _half_signed(folder)
        else:
            digest = signed.sha256
            public = load_public_key(inventory.cosign_key)
            if public.verifies(signed.signature, signed.manifest):
                manifest = parse_manifest(signed.manifest, printable(str(folder / MANIFEST)))
                verdict, problem = _judge(manifest, model, baseline, tree)
            else:
                verdict = Verdict.UNTRUSTED_SIGNER
                problem = f"{SIGNATURE} is not a signature of key {public.key_id[:16]} over it"
    except (ManifestError, KeyFileError) as error:
        verdict, problem = Verdict.UNVERIFIABLE, str(error)
    return [_signature_finding(model, verdict, problem, digest)] if problem else []


def _half_signed(folder: Path) -> str:
    """What is missing when one of manifest and signature is there without the other."""
    present = [name for name in (MANIFEST, SIGNATURE) if os.path.lexists(folder / name)]
    if len(present) != 1:
        return ""
    gone = SIGNATURE if present == [MANIFEST] else MANIFEST
    return f"signature removed: {SIGNATURES} holds {present[0]} without {gone}"


def _judge(
    manifest: ReleaseManifest, model: Model, baseline: Baseline | None, tree: Tree | None
) -> tuple[Verdict, str]:
    """What a manifest whose signature holds says about a model; no problem when it fits."""
    version = baseline.version if baseline and baseline.version != "unknown" else None
    claims = ("model", manifest.model, model.id), ("version", manifest.version, version)
    wrong = [
        f"the signed manifest names {word} {found!r}, expected {wanted!r}"
        for word, found, wanted in claims
        if None not in (found, wanted) and found != wanted
    ]
    if wrong:
        return Verdict.WRONG_IDENTITY, "; ".join(wrong)
    if tree is not None and content_digest(tree.files) != manifest.content_sha256:
        return Verdict.TAMPERED, (
            f"the files are as in the baseline, but not those of the signed manifest "
            f"{manifest.sha256[:16]}"
        )
    return Verdict.VERIFIED, ""


def _signature_finding(model: Model, verdict: Verdict, problem: str, digest: str | None) -> Finding:
    evidence: Json = {"model": model.id, "verdict": verdict.value, "problem": problem}
    if digest is not None:
        evidence["actual_sha256"] = digest  # of the manifest: another one is another observation
    unknown = verdict is Verdict.UNVERIFIABLE
    return Finding(
        FindingType.SIGNATURE_INVALID,
        Severity.HIGH if unknown else Severity.CRITICAL,
        "integrity",
        f"{model.id}: publisher's signature {verdict.value}: {problem}. {NEXT_STEP[verdict]}",
        evidence,
        model.id,
    )


def _sealed(inventory: Inventory, model: Model) -> str | None:
    """When the baseline now in place was made; None when there is none that can be trusted."""
    try:
        baseline = load_baseline(inventory, model.id)
    except SealError:
        return None
    return baseline.created if baseline else None
