"""The publisher's public key: which kinds are accepted, and what they verify.

The pairs of key and digest are those of `cosign sign-blob --key`.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from firebreak.errors import KeyFileError
from firebreak.records import printable

MAX_KEY_BYTES = 64 << 10
MIN_RSA_BITS = 2048
# Curve -> digest, as cosign pairs them (sigstore/pkg/signature, LoadDefaultSigner).
CURVES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_BEGIN, _END = b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----"


@dataclass(frozen=True, slots=True)
class PublisherKey:
    """A configured public key. `key_id` is the sha256 of its SPKI DER, 64 hex digits."""

    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
    key_id: str

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether a signature file, base64 or raw, is this key's signature over `data`."""
        decoded = _base64(signature)
        return any(self._verifies(s, data) for s in (decoded, signature) if s)

    def _verifies(self, signature: bytes, data: bytes) -> bool:
        try:
            if isinstance(self.key, ec.EllipticCurvePublicKey):
                self.key.verify(signature, data, ec.ECDSA(CURVES[self.key.curve.name]))
            elif isinstance(self.key, rsa.RSAPublicKey):
                self.key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            else:
                self.key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


def load_public_key(path: Path) -> PublisherKey:
    """The publisher's key: one SPKI PEM block, as `cosign.pub` is.

    ECDSA P-256 (with SHA-256), P-384 (SHA-384), P-521 (SHA-512), RSA of at least 2048 bits
    (PKCS#1 v1.5, SHA-256) and Ed25519; the pairs are cosign's.

    Raises:
        KeyFileError: missing, another PEM label, several keys, or a kind not listed above.
    """
    try:
        with path.open("rb") as stream:
            pem = stream.read(MAX_KEY_BYTES + 1).strip()
    except OSError as error:
        raise KeyFileError(str(path), f"cannot be read: {error.strerror}") from error
    if len(pem) > MAX_KEY_BYTES or pem.count(b"-----BEGIN ") > 1:
        raise KeyFileError(str(path), "holds more than one key; name exactly one")
    if not (pem.startswith(_BEGIN) and pem.endswith(_END)):
        first = printable(pem[:60].partition(b"\n")[0])
        raise KeyFileError(str(path), f"starts with {first!r}, expected {_BEGIN.decode()!r}")
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(str(path), f"is not a public key: {error}") from error
    return _supported(key, path)


def _supported(key: object, path: Path) -> PublisherKey:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in CURVES:
            raise KeyFileError(
                str(path), f"is on curve {key.curve.name}, known: {', '.join(CURVES)}"
            )
    elif isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise KeyFileError(str(path), f"is RSA-{key.key_size}, at least {MIN_RSA_BITS} needed")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise KeyFileError(str(path), f"is {type(key).__name__}, expected ECDSA, RSA or Ed25519")
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return PublisherKey(key, hashlib.sha256(der).hexdigest())


def _base64(signature: bytes) -> bytes | None:
    """Decoded canonical base64, line breaks ignored as Go's decoder does; None when it is not."""
    text = b"".join(signature.split())
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if base64.b64encode(decoded) == text else None
