"""Sealing: DSSE envelopes over our own records, signed with the installation's Ed25519 key.

Source: DSSE v1.0 (github.com/secure-systems-lab/dsse); the signing itself is securesystemslib's.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from firebreak.errors import KeyFileError, SealError
from firebreak.records import Json, canonical

PAYLOAD_TYPE = "application/vnd.firebreak.{}+json"
MAX_SEALED_BYTES = 256 << 20


def create_key(path: Path) -> None:
    """Create the sealing key (Ed25519, PKCS#8 PEM, mode 0600) and `.pub` beside it, once.

    A key that is already there is kept: two processes that start together share the first one.
    """
    for folder in (path.parent.parent, path.parent):  # the mode reaches only the last folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists():
        return
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}")  # a pid returns in containers
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(pem)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(part, path)  # unlike rename, refuses to replace a key somebody made meanwhile
    except FileExistsError:
        return
    finally:
        part.unlink()
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


class Sealer:
    """Seals and opens records with one key pair. Made from a private key it can do both."""

    def __init__(self, public: Ed25519PublicKey, private: Ed25519PrivateKey | None = None) -> None:
        self._key = SSlibKey.from_crypto(public)
        self._signer = CryptoSigner(private, self._key) if private else None
        self.public_pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()

    @property
    def key_id(self) -> str:
        """sha256-based id of the public key, 64 hex digits."""
        return str(self._key.keyid)

    def seal(self, kind: str, record: Any) -> Json:
        """The DSSE envelope (a JSON object) over the canonical JSON of a record.

        Raises:
            KeyFileError: this sealer holds only the public key.
        """
        if self._signer is None:
            raise KeyFileError(self.key_id, "is public only; sealing needs the private key")
        envelope = Envelope(canonical(record), PAYLOAD_TYPE.format(kind), {})
        envelope.sign(self._signer)
        sealed: Json = envelope.to_dict()
        return sealed

    def open(self, kind: str, sealed: Json, where: str) -> Any:
        """The record inside an envelope that this key sealed.

        Args:
            kind: the kind given to `seal`; another kind is refused.
            sealed: the envelope.
            where: shown in the error, usually the file.

        Raises:
            SealError: malformed, of another kind, changed, or sealed by another key.
        """
        try:
            envelope = Envelope.from_dict(json.loads(json.dumps(sealed)))  # from_dict mutates
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SealError(where, f"not a DSSE envelope: {error!r}") from error
        if envelope.payload_type != PAYLOAD_TYPE.format(kind):
            raise SealError(
                where,
                f"payload type is {envelope.payload_type!r}, "
                f"expected {PAYLOAD_TYPE.format(kind)!r}",
            )
        try:
            envelope.verify([self._key], 1)
        except (VerificationError, ValueError) as error:
            raise SealError(where, f"no valid signature of key {self.key_id[:16]}") from error
        return json.loads(envelope.payload)


def load_sealer(path: Path) -> Sealer:
    """The sealer of a private or public key file.

    Raises:
        KeyFileError: missing, unreadable, or not an Ed25519 key.
    """
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise KeyFileError(str(path), f"cannot be read: {error.strerror}") from error
    return sealer_from_pem(pem, str(path))


def sealer_from_pem(pem: bytes, name: str) -> Sealer:
    """The sealer of PEM bytes; `name` is shown in errors. Raises: KeyFileError."""
    try:
        if b"PRIVATE KEY" in pem:
            private = serialization.load_pem_private_key(pem, None)
            if isinstance(private, Ed25519PrivateKey):
                return Sealer(private.public_key(), private)
        else:
            public = serialization.load_pem_public_key(pem)
            if isinstance(public, Ed25519PublicKey):
                return Sealer(public)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(name, f"is not a PEM key: {error}") from error
    raise KeyFileError(name, "is not an Ed25519 key")
