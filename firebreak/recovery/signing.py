"""Signing a release: what a publisher does before a version goes into the archive.

The files made here are the ones `cosign sign-blob --key` and `cosign verify-blob --key` work with:
an SPKI public key, and base64 of the signature over the manifest's bytes. Only the private key
differs: cosign encrypts its own with NaCl's secretbox, which no dependency of ours offers, so ours
is PKCS#8 (encrypted by `cryptography` when a password is given, plain otherwise), mode 0600.
A key of cosign itself signs with:

    cosign sign-blob --key cosign.key --output-signature .signatures/manifest.sig \
        .signatures/manifest.json
"""

import base64
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from firebreak.checks.hashing import scan_strict
from firebreak.checks.publisher_key import CURVES, MIN_RSA_BITS
from firebreak.checks.release_manifest import (
    SIGNATURES,
    ReleaseManifest,
    parse_manifest,
    render_manifest,
)
from firebreak.checks.signatures import MANIFEST, SIGNATURE
from firebreak.errors import KeyFileError, ManifestError, UnsafeFileError
from firebreak.records import now, timestamp

PRIVATE_KEY = "cosign.key"
PUBLIC_KEY = "cosign.pub"


def generate_keypair(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """A new ECDSA P-256 key pair, `cosign.key` (mode 0600) and `cosign.pub`, in `folder`.

    Args:
        folder: made when missing, mode 0700.
        password: encrypts the private key; None leaves it readable to who can read the file.

    Returns: the paths of the private and the public key.

    Raises:
        FileExistsError: one of the two files is already there; nothing is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private, public = folder / PRIVATE_KEY, folder / PUBLIC_KEY
    if public.exists():
        raise FileExistsError(f"{public} already exists")
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else None
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )
    _write_new(private, pem, 0o600)
    spki = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(public, spki, 0o644)
    return private, public


def write_manifest(path: Path, model: str, version: str) -> ReleaseManifest:
    """Write `.signatures/manifest.json` for the files under `path` now, and return it.

    Raises:
        UnsafeFileError: the tree holds a link, a device or an unreadable file.
        ManifestError: the tree is empty, or holds a name no manifest may list.
        OSError: `path` is missing or cannot be written.
    """
    tree = scan_strict(path, skip=frozenset({SIGNATURES}))
    for file in tree.files:
        if file.link is not None:
            raise UnsafeFileError(file.path, "is a symbolic link; releases hold plain files only")
    data = render_manifest(model, version, timestamp(now()), tree)
    (path / SIGNATURES).mkdir(exist_ok=True)
    _replace(path / SIGNATURES / MANIFEST, data)
    return parse_manifest(data, str(path / SIGNATURES / MANIFEST))


def sign_manifest(path: Path, private_key_path: Path, password: bytes | None = None) -> Path:
    """Sign the manifest of a release and write `.signatures/manifest.sig` (base64, no newline).

    Args:
        path: the release's directory.
        private_key_path: PKCS#8 or traditional PEM, of a kind `load_public_key` accepts.
        password: of the private key; None when it is not encrypted.

    Returns: the path of the signature.

    Raises:
        ManifestError: there is no manifest yet.
        KeyFileError: the key is missing, of another kind, or the password does not open it.
    """
    manifest = path / SIGNATURES / MANIFEST
    try:
        data = manifest.read_bytes()
    except OSError as error:
        raise ManifestError(str(manifest), f"cannot be read: {error.strerror}") from error
    signature = path / SIGNATURES / SIGNATURE
    _replace(signature, base64.b64encode(_sign(private_key_path, password, data)))
    return signature


def _sign(path: Path, password: bytes | None, data: bytes) -> bytes:
    key = _load_private_key(path, password)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return key.sign(data, ec.ECDSA(CURVES[key.curve.name]))
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    raise KeyFileError(
        str(path), "is not ECDSA P-256, P-384, P-521, RSA of 2048 bits or more, or Ed25519"
    )


def _load_private_key(path: Path, password: bytes | None) -> object:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise KeyFileError(str(path), f"cannot be read: {error.strerror}") from error
    if b"SIGSTORE PRIVATE KEY" in pem or b"COSIGN PRIVATE KEY" in pem:
        raise KeyFileError(str(path), "is encrypted in cosign's own form; sign with cosign itself")
    try:
        return serialization.load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(str(path), f"cannot be opened: {error}") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(handle)


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    _write_new(part, data, 0o644)
    part.replace(path)
