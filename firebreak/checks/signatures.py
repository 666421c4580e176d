"""Verifying a release: the publisher's signature over its manifest, the manifest against the files.

The signature (`.signatures/manifest.sig`: base64 of what `cosign sign-blob --key` or
`openssl dgst -sign` makes) proves only that the key's owner wrote the manifest. That the files are
the listed ones, no more and no fewer, is compared here. Key, algorithm and identity come from the
configuration, never from the release. Nothing of a release is parsed before its signature holds.

Only `VERIFIED` lets a rollback run. What cannot be decided is never `VERIFIED`:

| found | verdict |
|---|---|
| no `.signatures/manifest.json` or no `manifest.sig`, or a single file | UNSIGNED |
| no key configured, an unusable key, a path or manifest that cannot be read safely | UNVERIFIABLE |
| signature malformed, cut short, of other bytes or of another key | UNTRUSTED_SIGNER |
| the signature holds, the manifest is malformed or hostile | UNVERIFIABLE |
| a file modified, missing, extra, a link, or not readable | TAMPERED |
| the manifest names another model or version | WRONG_IDENTITY |

A manifest that names no model (the flat form) proves no identity: it is accepted, with
`identity_proven=False` and a sentence in `detail`, until a release register can tell.
REVOKED, EXPIRED and DOWNGRADE need that register too; nothing here returns them yet.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from firebreak.checks.hashing import Progress, Tree, scan
from firebreak.checks.publisher_key import load_public_key
from firebreak.checks.release_manifest import (
    MAX_MANIFEST_BYTES,
    SIGNATURES,
    ReleaseManifest,
    parse_manifest,
)
from firebreak.errors import KeyFileError, ManifestError
from firebreak.records import Json, printable

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
MAX_SIGNATURE_BYTES = 64 << 10
NAMES_SHOWN = 5
NAMES_STORED = 100


class Verdict(StrEnum):
    """The outcome of verifying a release. Only VERIFIED lets a rollback run."""

    VERIFIED = "verified"
    TAMPERED = "tampered"
    UNSIGNED = "unsigned"
    UNTRUSTED_SIGNER = "untrusted_signer"
    WRONG_IDENTITY = "wrong_identity"
    REVOKED = "revoked"
    EXPIRED = "expired"
    DOWNGRADE = "downgrade"
    UNVERIFIABLE = "unverifiable"


NEXT_STEP = {
    Verdict.VERIFIED: "A signature says who published the files, not that the model is harmless.",
    Verdict.TAMPERED: "Do not load it. Keep it as evidence and restore a verified version.",
    Verdict.UNSIGNED: "Obtain a signed release from the publisher; do not deploy this one.",
    Verdict.UNTRUSTED_SIGNER: "Compare the release and the key with the publisher's own copies.",
    Verdict.WRONG_IDENTITY: "Find out who put this release here; take the one that was meant.",
    Verdict.UNVERIFIABLE: "Remove the named obstacle and verify again; until then, do not deploy.",
}


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying a release found.

    Attributes:
        verdict: the outcome.
        detail: one or two sentences with the values; foreign text in it is escaped.
        next_step: what to do now.
        modified: files whose content differs from the manifest. All names are escaped.
        missing: files the manifest lists that are not there.
        extra: files the manifest does not list.
        unsafe: links, devices and unreadable files, each `name: problem`.
        unsigned: other files inside `.signatures`; not covered, never restored.
        model: model id in the signed manifest; None when it names none or was not reached.
        version: version in the signed manifest; None likewise.
        manifest_sha256: of the manifest's bytes as read; None when there was none to read.
        content_sha256: digest of the listed names and contents; None when not reached.
        key_id: sha256 of the configured key's SPKI DER, 64 hex digits; None without a key.
        identity_proven: the manifest names the expected model and the expected version.
    """

    verdict: Verdict
    detail: str
    next_step: str
    modified: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    model: str | None = None
    version: str | None = None
    manifest_sha256: str | None = None
    content_sha256: str | None = None
    key_id: str | None = None
    identity_proven: bool = False

    @property
    def verified(self) -> bool:
        """Whether the verdict is VERIFIED."""
        return self.verdict is Verdict.VERIFIED

    def to_json(self) -> Json:
        """The record as JSON; of each list the first `NAMES_STORED` names and the full count."""
        lists = {k: getattr(self, k) for k in ("modified", "missing", "extra", "unsafe")}
        return {
            "verdict": self.verdict.value,
            "detail": self.detail,
            "next_step": self.next_step,
            **{k: list(names[:NAMES_STORED]) for k, names in lists.items()},
            "counts": {k: len(names) for k, names in lists.items()},
            "unsigned": list(self.unsigned[:NAMES_STORED]),
            "model": self.model,
            "version": self.version,
            "manifest_sha256": self.manifest_sha256,
            "content_sha256": self.content_sha256,
            "key_id": self.key_id,
            "identity_proven": self.identity_proven,
        }


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest and its signature, read once."""

    manifest: bytes
    signature: bytes

    @property
    def sha256(self) -> str:
        """Of the manifest's bytes, 64 hex digits."""
        return hashlib.sha256(self.manifest).hexdigest()


def read_signed(path: Path) -> SignedManifest | None:
    """Manifest and signature of a release, each read once, no links followed; None when unsigned.

    Raises:
        ManifestError: `path` is missing or a link, or one of the files is not a plain file, too
            large, or cannot be read.
    """
    folder = path / SIGNATURES
    try:
        info = os.lstat(path)
        if stat.S_ISREG(info.st_mode):
            return None
        if not stat.S_ISDIR(info.st_mode):
            raise ManifestError(str(path), "is not a plain directory; name the directory itself")
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            manifest = _read_plain(handle, MANIFEST, MAX_MANIFEST_BYTES, folder)
            signature = _read_plain(handle, SIGNATURE, MAX_SIGNATURE_BYTES, folder)
        finally:
            os.close(handle)
    except OSError as error:
        where = printable(str(error.filename or folder))
        raise ManifestError(where, f"cannot be read safely: {error.strerror}") from error
    if manifest is None or signature is None:
        return None
    return SignedManifest(manifest, signature)


def _read_plain(folder: int, name: str, limit: int, where: Path) -> bytes | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ManifestError(str(where / name), "is not a plain file")
    with os.fdopen(handle, "rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ManifestError(str(where / name), f"is larger than {limit} bytes")
    return data


def verify_release(
    path: Path,
    key: Path | None,
    *,
    expect_model: str | None = None,
    expect_version: str | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Whether a directory is exactly what the key's owner signed. Never raises for what it finds.

    Args:
        path: the release's directory.
        key: the publisher's public key; None is UNVERIFIABLE.
        expect_model: the model id it must be; None to accept any.
        expect_version: the version it must be; None to accept any.
        progress: called with the number of bytes hashed since the last call.

    Returns: the verdict with its reasons; the module's table says which means what.
    """
    try:
        signed = read_signed(path)
        if signed is None:
            return _result(Verdict.UNSIGNED, _why_unsigned(path))
        if key is None:
            return _result(
                Verdict.UNVERIFIABLE,
                "signed, but no public key is configured to verify it with",
                manifest_sha256=signed.sha256,
            )
        public = load_public_key(key)
        if not public.verifies(signed.signature, signed.manifest):
            return _result(
                Verdict.UNTRUSTED_SIGNER,
                f"{SIGNATURE} is not a signature of key {public.key_id[:16]} over {MANIFEST}: the "
                "manifest or the signature was altered, or another key signed; these cannot be "
                "told apart",
                manifest_sha256=signed.sha256,
                key_id=public.key_id,
            )
        manifest = parse_manifest(signed.manifest, printable(str(path / SIGNATURES / MANIFEST)))
        tree = scan(path, skip=frozenset({SIGNATURES}), progress=progress)
        unsigned = _unsigned(path)
    except (ManifestError, KeyFileError) as error:
        return _result(Verdict.UNVERIFIABLE, str(error))
    except OSError as error:
        place = printable(str(error.filename))
        return _result(Verdict.UNVERIFIABLE, f"{place}: cannot be read: {error.strerror}")
    return _judge(manifest, tree, unsigned, public.key_id, (expect_model, expect_version))


def _judge(
    manifest: ReleaseManifest,
    tree: Tree,
    unsigned: tuple[str, ...],
    key_id: str,
    expected: tuple[str | None, str | None],
) -> Verification:
    modified, missing, extra, unsafe = _compare(manifest, tree)
    wrong, unproven = _identity(manifest, expected)
    if modified or missing or extra or unsafe:
        verdict = Verdict.TAMPERED
        named = {"modified": modified, "missing": missing, "extra": extra, "unsafe": unsafe}
        found = "; ".join(f"{k}: {_some(names)}" for k, names in named.items() if names)
        sentences = [f"differs from its signed manifest ({found})", *wrong]
    elif wrong:
        verdict, sentences = Verdict.WRONG_IDENTITY, wrong
    else:
        verdict = Verdict.VERIFIED
        sentences = [f"{len(manifest.files)} files are as key {key_id[:16]} signed them", *unproven]
    if unsigned:
        sentences.append(f"files in {SIGNATURES} that no signature covers: {_some(unsigned)}")
    return Verification(
        verdict,
        "; ".join(sentences),
        NEXT_STEP[verdict],
        modified=modified,
        missing=missing,
        extra=extra,
        unsafe=unsafe,
        unsigned=unsigned,
        model=manifest.model,
        version=manifest.version,
        manifest_sha256=manifest.sha256,
        content_sha256=manifest.content_sha256,
        key_id=key_id,
        identity_proven=None not in expected and not wrong and not unproven,
    )


def _compare(manifest: ReleaseManifest, tree: Tree) -> tuple[tuple[str, ...], ...]:
    """Modified, missing, extra and unsafe names: both directions, no link ever trusted."""
    listed, found = manifest.by_path(), {f.path: f for f in tree.files if f.link is None}
    links = {f.path: f.link for f in tree.files if f.link is not None}
    problems = {p.path: p.problem for p in tree.problems}
    problems |= {
        printable(p): f"is a symbolic link to {printable(to)!r}" for p, to in links.items()
    }
    modified = [
        path
        for path in sorted(listed.keys() & found.keys())
        if listed[path].sha256 != found[path].sha256
        or listed[path].size not in (None, found[path].size)
    ]
    missing = [p for p in sorted(listed.keys() - found.keys()) if printable(p) not in problems]
    return (
        tuple(map(printable, modified)),
        tuple(map(printable, missing)),
        tuple(map(printable, sorted(found.keys() - listed.keys()))),
        tuple(f"{path}: {problem}" for path, problem in sorted(problems.items())),
    )


def _identity(
    manifest: ReleaseManifest, expected: tuple[str | None, str | None]
) -> tuple[list[str], list[str]]:
    """Sentences on what is wrong, and on what was expected but is not named."""
    wrong, unproven = [], []
    claims = ("model", manifest.model, expected[0]), ("version", manifest.version, expected[1])
    for word, found, wanted in claims:
        if wanted is None or found == wanted:
            continue
        if found is None:
            unproven.append(f"manifest names no {word}: identity unproven")
        else:
            wrong.append(f"manifest names {word} {found!r}, expected {wanted!r}")
    return wrong, unproven


def _why_unsigned(path: Path) -> str:
    if path.is_dir():
        return f"no {MANIFEST} with a {SIGNATURE} in {SIGNATURES}"
    return "is a single file; only directories carry signatures so far"


def _unsigned(path: Path) -> tuple[str, ...]:
    with os.scandir(path / SIGNATURES) as listing:
        names = sorted(printable(entry.name) for entry in listing)
    return tuple(name for name in names if name not in (MANIFEST, SIGNATURE))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _result(
    verdict: Verdict, detail: str, manifest_sha256: str | None = None, key_id: str | None = None
) -> Verification:
    return Verification(
        verdict, detail, NEXT_STEP[verdict], manifest_sha256=manifest_sha256, key_id=key_id
    )
