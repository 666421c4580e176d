"""Sealing: what was sealed opens, and nothing else does."""

import base64
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from firebreak.errors import KeyFileError, SealError
from firebreak.sealing import Sealer, create_key, load_sealer, sealer_from_pem

KEY = Ed25519PrivateKey.generate()
SEALER = Sealer(KEY.public_key(), KEY)
RECORD = {"incident": "INC-1", "n": [1, 2, {"deep": "é"}]}


def test_a_sealed_record_opens_with_the_public_half():
    """Only the private key seals; anybody with the public one can check."""
    public = sealer_from_pem(SEALER.public_pem.encode(), "pub")
    assert public.open("baseline", SEALER.seal("baseline", RECORD), "here") == RECORD
    assert public.key_id == SEALER.key_id
    with pytest.raises(KeyFileError, match="is public only"):
        public.seal("baseline", RECORD)


def test_opening_does_not_change_the_envelope():
    """The envelope that is verified is the one that is stored afterwards."""
    sealed = SEALER.seal("baseline", RECORD)
    copy = json.loads(json.dumps(sealed))
    SEALER.open("baseline", sealed, "here")
    assert sealed == copy


def test_a_record_of_another_kind_does_not_open():
    """A sealed checkpoint can never be passed off as a baseline."""
    with pytest.raises(SealError, match=r"here: payload type is .*checkpoint.*expected .*baseline"):
        SEALER.open("baseline", SEALER.seal("checkpoint", RECORD), "here")


def test_a_record_sealed_by_another_installation_does_not_open():
    """The error names the key that should have signed."""
    other = Ed25519PrivateKey.generate()
    sealed = Sealer(other.public_key(), other).seal("baseline", RECORD)
    with pytest.raises(SealError, match=f"no valid signature of key {SEALER.key_id[:16]}"):
        SEALER.open("baseline", sealed, "here")


def test_a_foreign_signature_under_our_key_id_does_not_open():
    """The key id in an envelope is only a label; the signature is what counts."""
    other = Ed25519PrivateKey.generate()
    sealed = Sealer(other.public_key(), other).seal("baseline", RECORD)
    sealed["signatures"][0]["keyid"] = SEALER.key_id
    with pytest.raises(SealError):
        SEALER.open("baseline", sealed, "here")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_changed_byte_is_found_or_changes_nothing(data):
    """Whatever byte of the stored envelope is changed: it opens to the same record, or not."""
    raw = bytearray(json.dumps(SEALER.seal("baseline", RECORD)).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        sealed = json.loads(bytes(raw))
    except ValueError:
        return
    try:
        assert SEALER.open("baseline", sealed, "here") == RECORD
    except SealError as error:
        assert str(error).startswith("here: ")  # noqa: PT017 - both outcomes are right


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=8), c, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    JSON
    | st.fixed_dictionaries(
        {
            "payload": JSON | st.binary().map(lambda b: base64.b64encode(b).decode()),
            "payloadType": JSON | st.just("application/vnd.firebreak.baseline+json"),
            "signatures": JSON
            | st.lists(st.fixed_dictionaries({"keyid": JSON, "sig": JSON}), max_size=3),
        }
    )
)
def test_no_json_whatever_opens_or_raises_anything_but_a_seal_error(sealed):
    """A malformed envelope is refused with the one error that names the file."""
    with pytest.raises(SealError):
        SEALER.open("baseline", sealed, "here")


def test_a_created_key_is_private_and_kept(tmp_path):
    """Mode 0600 in a folder of mode 0700; the second call changes nothing."""
    place = tmp_path / "keys" / "evidence.pem"
    create_key(place)
    before = place.read_bytes()
    create_key(place)
    assert place.read_bytes() == before
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert load_sealer(place).key_id == load_sealer(place.with_suffix(".pub")).key_id
    assert sorted(p.name for p in place.parent.iterdir()) == ["evidence.pem", "evidence.pub"]


def test_starting_together_makes_one_key(tmp_path):
    """Sixteen threads of one process ask for the key at once: none fails, all get the same."""
    place = tmp_path / "keys" / "evidence.pem"
    barrier = threading.Barrier(16)
    found: list[str] = []

    def start() -> None:
        barrier.wait()
        create_key(place)
        found.append(load_sealer(place).key_id)

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_a_key_is_made_though_an_earlier_process_of_the_same_number_died_in_the_middle(tmp_path):
    """In a container the process number returns; its leftover must not block the key for ever."""
    place = tmp_path / "keys" / "evidence.pem"
    place.parent.mkdir()
    (place.parent / f"evidence.pem.{os.getpid()}").write_bytes(b"half a key")
    create_key(place)
    assert load_sealer(place).key_id


def pem(key: object) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not a PEM key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is not a PEM key"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "is not an Ed25519 key"),
        (
            KEY.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"pw"),
            ),
            "is not a PEM key",
        ),
        (b"\xff\xfe PRIVATE KEY", "is not a PEM key"),
    ],
)
def test_a_file_that_is_no_sealing_key_is_refused(tmp_path, content, problem):
    """The error names the file and what is wrong with it."""
    (tmp_path / "k.pem").write_bytes(content)
    with pytest.raises(KeyFileError, match=problem) as caught:
        load_sealer(tmp_path / "k.pem")
    assert str(tmp_path / "k.pem") in str(caught.value)


def test_a_missing_key_file_is_named():
    """No traceback, the path and the reason."""
    with pytest.raises(KeyFileError, match=r"key '/nowhere/k\.pem': cannot be read: No such file"):
        load_sealer(Path("/nowhere/k.pem"))
