"""Whether a deployed model is signed, and whether that signature holds with the configured key.

The bytes of a signature prove nothing by being there: `checks.signatures` verifies them, and what
it cannot decide is a finding that says `unproven`, never silence.
"""

import json
import os
from pathlib import Path

from firebreak.checks.signatures import Verdict, Verification, verify_release
from firebreak.inventory import Model
from firebreak.records import Finding, FindingType, Json, Severity, printable

SOURCE = "signature"
MAX_BUNDLE = 64 << 20  # bytes
MAX_BUNDLES = 100
BUNDLE_UNPROVEN = (
    "carries a model-signing bundle (*.sig), which Firebreak does not verify; it has no "
    ".signatures/manifest.sig with manifest.json"
)


def check_signature(model: Model, key: Path | None) -> list[Finding]:
    """What is wrong with a model's signature, in whatever version it lies there.

    Args:
        model: whose files are verified, and whose id the signed manifest must name.
        key: the publisher's public key; None leaves a signature unproven.

    Returns: at most one finding; empty when the signature holds for exactly these files.
        Unsigned is critical, a signature that does not hold is critical, one that cannot be
        verified is medium and says `unproven`.
    """
    found = verify_release(model.path, key, expect_model=model.id)
    if found.verdict is Verdict.VERIFIED:
        return []
    if found.verdict is Verdict.UNVERIFIABLE:
        return [_unproven(model, found, found.detail)]
    if found.verdict is not Verdict.UNSIGNED:
        text = f"signature of model {model.id} does not hold ({found.verdict}): {found.detail}"
        problem = f"{found.verdict}: {found.detail}"
        return [_invalid(model, found, Severity.CRITICAL, text, problem)]
    if has_bundle(model.path):
        return [_unproven(model, found, BUNDLE_UNPROVEN)]
    return [_unsigned(model, found)]


def has_bundle(path: Path) -> bool:
    """Whether a model-signing (OMS) bundle `*.sig` lies directly in the model's folder.

    Beside it for a model of one file. Nothing here says that it verifies.
    """
    folder = path if path.is_dir() else path.parent
    try:
        with os.scandir(folder) as listing:
            bundles = sorted(e.path for e in listing if e.name.lower().endswith(".sig"))
    except OSError:
        return False  # a folder that cannot be listed is a finding of the scan
    if not path.is_dir():
        own = {f"{path.name}.sig", f"{path.stem}.sig", "model.sig"}
        bundles = [b for b in bundles if Path(b).name in own]
    return any(_is_bundle(Path(b)) for b in bundles[:MAX_BUNDLES])


def _unsigned(model: Model, found: Verification) -> Finding:
    text = (
        f"model {model.id} is not signed: neither .signatures/manifest.sig with manifest.json nor "
        "a model-signing bundle (*.sig)"
    )
    evidence = _evidence(model, found, "no signature found")
    return Finding(FindingType.UNSIGNED, Severity.CRITICAL, SOURCE, text, evidence, model.id)


def _unproven(model: Model, found: Verification, why: str) -> Finding:
    text = f"unproven: signature of model {model.id}: {why}"
    return _invalid(model, found, Severity.MEDIUM, text, f"unproven: {why}")


def _invalid(
    model: Model, found: Verification, severity: Severity, text: str, problem: str
) -> Finding:
    return Finding(
        FindingType.SIGNATURE_INVALID,
        severity,
        SOURCE,
        f"{text}. {found.next_step}",
        _evidence(model, found, problem),
        model.id,
    )


def _evidence(model: Model, found: Verification, problem: str) -> Json:
    """What makes the finding (path and problem), and the verification's lists of files."""
    raw = found.to_json()
    values = ("verdict", "detail", "next_step", "key_id", "manifest_sha256", "unsigned", "counts")
    return {
        "path": printable(str(model.path)),
        "problem": problem,
        **{k: raw[k] for k in values},
        "files": {k: raw[k] for k in ("modified", "missing", "extra", "unsafe")},
    }


def _is_bundle(path: Path) -> bool:
    """A Sigstore bundle is a JSON object with a DSSE envelope; an empty `x.sig` is no signature."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            data = stream.read(MAX_BUNDLE + 1)
        if len(data) > MAX_BUNDLE:
            return False
        raw = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "dsseEnvelope" in raw
