"""The rollback as one journaled sequence: judge, restore, bring back, verify where it is served."""

from firebreak.checks.hashing import Progress, scan_strict
from firebreak.checks.manifest import Baseline, compared, save_baseline
from firebreak.checks.release_manifest import content_digest
from firebreak.checks.signatures import Verdict
from firebreak.containment.actions import approved_by, probe
from firebreak.containment.driver import Exposure
from firebreak.errors import ManifestError, NoKnownGoodError, RestoreError, UnsafeFileError
from firebreak.incidents.case import Case, current_step, since_reopened
from firebreak.inventory import Model
from firebreak.records import Json, now, timestamp
from firebreak.recovery.known_good import LAST_KNOWN_GOOD, Candidate, candidates
from firebreak.recovery.restore import restore, verify_in_place

SIGNATURES = frozenset({".signatures"})
RESTORE, VERIFY_SERVED, REBASELINE = "restore", "verify-served", "rebaseline"


def judge(case: Case, to: str = LAST_KNOWN_GOOD, progress: Progress | None = None) -> Json:
    """Every archived version of the incident's model with the reasons for or against it.

    Returns: `candidates`, newest first, and `candidate`: version and manifest digest of the one to
        restore, None when none may be. The approval is bound to that one.
    """
    judged, problem = _judged(case, to, progress, _bad_digests(case.model))
    best = next((c for c in judged if c.accepted), None)
    return {
        "candidates": [_row(c) for c in judged],
        "candidate": _identity(best) if best else None,
        "problem": problem,
    }


def roll_back(
    case: Case, approved: Json | None, to: str = LAST_KNOWN_GOOD, progress: Progress | None = None
) -> Json:
    """Restore the approved version. Nothing but that very version is ever put in place.

    Args:
        case: the incident.
        approved: `candidate` of the judgement that people approved.
        to: as in `judge`.
        progress: called with bytes copied and hashed.

    Raises:
        NoKnownGoodError: no version may be restored; nothing was changed.
        RestoreError: the archive now offers another version than the approved one, or the
            restoring itself failed.
    """
    model = case.model
    if restored := _restored(case, approved):  # after a crash the archive is not asked again
        return restored
    # Once begun, the model's place may hold the approved version already: that is not the poison.
    begun = _has_begun(case, approved)
    judged, problem = _judged(case, to, progress, frozenset() if begun else _bad_digests(model))
    accepted = [c for c in judged if c.accepted]
    if begun:
        accepted.sort(key=lambda c: _identity(c) != approved)
    chosen = accepted[0] if accepted else None
    if chosen is None:
        reasons = [f"{c.version} ({'; '.join(c.reasons)})" for c in judged]
        raise NoKnownGoodError(model.id, " | ".join(reasons) or problem or "the archive is empty")
    if _identity(chosen) != approved:
        raise RestoreError(
            model.id,
            f"approved was {approved}, the archive now offers "
            f"{_identity(chosen)}; nothing was changed",
        )
    return case.perform(
        RESTORE, str(model.path), lambda: restore(case, model, chosen, progress), _identity(chosen)
    )


def verify_served(case: Case, progress: Progress | None = None) -> Json:
    """Prove that the model's place holds the verified version and that its services answer.

    Returns: the verification, the probes, and `unproven`: targets whose service nobody can prove.

    Raises:
        RestoreError: the files do not verify, or a service with a probe URL does not serve.
    """
    model = case.model

    def act() -> Json:
        found = verify_in_place(model, case.inventory, progress)
        if found.verdict is not Verdict.VERIFIED:
            raise RestoreError(model.id, f"after the swap: {found.verdict}: {found.detail}")
        wanted = (_receipt(case, RESTORE) or {}).get("manifest_sha256")
        if wanted is not None and found.manifest_sha256 != wanted:
            raise RestoreError(
                model.id, f"restored was manifest {wanted}, in place is {found.manifest_sha256}"
            )
        probes = [probe(case, target) for target in model.targets if target.scheme != "file"]
        down = [p for p in probes if p.exposure in (Exposure.CONTAINED, Exposure.GONE)]
        if down:
            raise RestoreError(model.id, f"{down[0].target} does not serve: {down[0].detail}")
        unproven = [p.target for p in probes if p.exposure is Exposure.UNPROVEN]
        return {
            "verification": found.to_json(),
            "probes": [p.to_json() for p in probes],
            "unproven": unproven,
        }

    return case.perform(VERIFY_SERVED, str(model.path), act)


def rebaseline(case: Case, version: str) -> Json:
    """Seal the restored version as the model's baseline: else the next check would alarm again.

    Raises:
        RestoreError: it was not verified, or the files changed since: they are no baseline.
    """
    model = case.model

    def act() -> Json:
        tree = scan_strict(model.path)
        verified = (_receipt(case, VERIFY_SERVED) or {}).get("verification", {})
        found = content_digest(tree.files)
        if verified.get("content_sha256") != found:
            raise RestoreError(
                model.id,
                f"verified was content {verified.get('content_sha256')}, in place is {found}; "
                "no baseline was made",
            )
        approvers = approved_by(case) or "nobody"
        reason = f"{case.id}: restored verified release {version}, approved by {approvers}"
        files = compared(tree.files)
        save_baseline(
            case.inventory,
            Baseline(model.id, version, timestamp(now()), "firebreak", reason, files),
        )
        return {"version": version, "files": len(files), "reason": reason}

    return case.perform(REBASELINE, model.id, act)


def _judged(
    case: Case, to: str, progress: Progress | None, bad: frozenset[str]
) -> tuple[list[Candidate], str]:
    try:
        found = candidates(case.model, case.inventory, to=to, bad_digests=bad, progress=progress)
    except NoKnownGoodError as error:
        return [], str(error)
    return found, ""


def _bad_digests(model: Model) -> frozenset[str]:
    """The content that lies in the model's place now: never to be restored as the cure."""
    try:
        return frozenset({content_digest(scan_strict(model.path, skip=SIGNATURES).files)})
    except (UnsafeFileError, ManifestError, OSError):
        return frozenset()  # cannot be a release then: releases hold plain files only


def _restored(case: Case, approved: Json | None) -> Json | None:
    """The receipt of the approved version's restoring, when that was the last one finished."""
    receipt = _receipt(case, RESTORE)
    same = receipt and {k: receipt.get(k) for k in ("version", "manifest_sha256")} == approved
    return receipt if same else None


def _has_begun(case: Case, approved: Json | None) -> bool:
    """Whether restoring the approved version was journaled as started."""
    return any(
        e.kind == "action.started" and e.body["action"] == RESTORE and e.body["plan"] == approved
        for e in case.entries()
    )


def _receipt(case: Case, action: str) -> Json | None:
    """The receipt of an action's last finished run in this step; None when it never finished."""
    for entry in reversed(since_reopened(case.entries(), current_step())):
        if entry.kind == "action.finished" and entry.body["action"] == action:
            receipt: Json = entry.body["receipt"]
            return receipt
    return None


def _identity(candidate: Candidate) -> Json:
    found = candidate.verification
    return {"version": candidate.version, "manifest_sha256": found.manifest_sha256 if found else ""}


def _row(candidate: Candidate) -> Json:
    found = candidate.verification
    return {
        "version": candidate.version,
        "accepted": candidate.accepted,
        "verdict": found.verdict.value if found else "rejected",
        "manifest_sha256": found.manifest_sha256 if found else None,
        "reasons": list(candidate.reasons),
    }
