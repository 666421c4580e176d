"""Verifying a release: openssl signs, every verdict is reached, no mutation is accepted."""

import base64
import dataclasses
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess

import pytest

from firebreak.checks import publisher_key, signatures
from firebreak.checks.hashing import scan
from firebreak.checks.publisher_key import load_public_key
from firebreak.checks.release_manifest import content_digest
from firebreak.checks.signatures import NEXT_STEP, Verdict, verify_release
from firebreak.errors import KeyFileError
from firebreak.recovery.signing import generate_keypair, sign_manifest, write_manifest

KINDS = {
    "P-256": (["ecparam", "-name", "prime256v1", "-genkey", "-noout"], "sha256"),
    "P-384": (["ecparam", "-name", "secp384r1", "-genkey", "-noout"], "sha384"),
    "P-521": (["ecparam", "-name", "secp521r1", "-genkey", "-noout"], "sha512"),
    "RSA-2048": (["genrsa", "2048"], "sha256"),
    "RSA-3072": (["genrsa", "3072"], "sha256"),
    "Ed25519": (["genpkey", "-algorithm", "ed25519"], ""),
    "secp256k1": (["ecparam", "-name", "secp256k1", "-genkey", "-noout"], "sha256"),
    "RSA-1024": (["genrsa", "1024"], "sha256"),
    "Ed448": (["genpkey", "-algorithm", "ed448"], ""),
}
GOOD = ["P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "Ed25519"]


def openssl(*args):
    return subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True).stdout


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """(private, public) PEM paths of every kind, made by openssl."""
    folder = tmp_path_factory.mktemp("keys")
    made = {}
    for kind, (arguments, _) in KINDS.items():
        private, public = folder / f"{kind}.key", folder / f"{kind}.pub"
        private.write_bytes(openssl(*arguments))
        openssl("pkey", "-in", private, "-pubout", "-out", public)
        made[kind] = (private, public)
    return made


def openssl_sign(private, kind, data):
    if KINDS[kind][1]:
        return openssl("dgst", f"-{KINDS[kind][1]}", "-sign", private, data)
    return openssl("pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", data)


@pytest.fixture(scope="session")
def signed(tmp_path_factory, keys):
    """A release of demo@1.2, signed by openssl with the P-256 key."""
    path = tmp_path_factory.mktemp("release") / "1.2"
    (path / "tokenizer").mkdir(parents=True)
    (path / "weights.safetensors").write_bytes(random.Random(7).randbytes(5000))
    (path / "config.json").write_bytes(b'{"layers": 12}')
    (path / "empty.txt").write_bytes(b"")
    (path / "tokenizer" / "vocab.txt").write_bytes(b"a\nb\n")
    write_manifest(path, "demo", "1.2")
    resign(path, keys["P-256"][0])
    return path


def resign(path, private, kind="P-256"):
    folder = path / ".signatures"
    signature = openssl_sign(private, kind, folder / "manifest.json")
    (folder / "manifest.sig").write_bytes(base64.b64encode(signature))


@pytest.fixture
def release(signed, tmp_path):
    return shutil.copytree(signed, tmp_path / "release", symlinks=True)


@pytest.fixture
def key(keys):
    return keys["P-256"][1]


def test_what_the_publisher_signed_is_verified(release, key):
    found = verify_release(release, key, expect_model="demo", expect_version="1.2")
    assert found.verdict is Verdict.VERIFIED
    assert found.verified
    assert found.identity_proven
    assert (found.model, found.version) == ("demo", "1.2")
    assert found.content_sha256 == content_digest(scan(release).files)
    der = openssl("pkey", "-pubin", "-in", key, "-outform", "DER")
    assert found.key_id == hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("kind", GOOD)
def test_openssl_signatures_of_every_accepted_kind_verify(release, keys, kind):
    private, public = keys[kind]
    resign(release, private, kind)
    assert verify_release(release, public).verified


@pytest.mark.parametrize("kind", GOOD)
def test_openssl_verifies_what_we_sign(release, keys, kind, tmp_path):
    private, public = keys[kind]
    written = sign_manifest(release, private)
    raw = tmp_path / "raw.sig"
    raw.write_bytes(base64.b64decode(written.read_bytes()))
    manifest = release / ".signatures" / "manifest.json"
    if kind == "Ed25519":
        arguments = ["-verify", "-rawin", "-pubin", "-inkey", public, "-in", manifest]
        openssl("pkeyutl", *arguments, "-sigfile", raw)
    else:
        openssl("dgst", f"-{KINDS[kind][1]}", "-verify", public, "-signature", raw, manifest)
    assert verify_release(release, public).verified


def test_whitespace_line_breaks_and_raw_der_are_accepted_around_a_signature(release, key):
    file = release / ".signatures" / "manifest.sig"
    text = file.read_bytes()
    wrapped = text[:76] + b"\n" + text[76:] + b"\n"
    for form in (b"\n  " + text + b"\r\n", wrapped, base64.b64decode(text)):
        file.write_bytes(form)
        assert verify_release(release, key).verified


SIGNATURE_DAMAGE = {
    "cut short": lambda s: s[:-8],
    "cut to one byte": lambda s: s[:1],
    "empty": lambda s: b"",
    "not base64": lambda s: b"\x00\xff" * 40,
    "trailing bytes": lambda s: base64.b64encode(base64.b64decode(s) + b"x"),
    "twice": lambda s: s + s,
    "spare bits set": lambda s: s.rstrip(b"=")[:-1] + bytes([s.rstrip(b"=")[-1] + 1]) + b"==",
    "all zero": lambda s: base64.b64encode(bytes.fromhex("3006020100020100")),
    "PEM": lambda s: b"-----BEGIN SIGNATURE-----\n" + s + b"\n-----END SIGNATURE-----\n",
}


@pytest.mark.parametrize("damage", SIGNATURE_DAMAGE.values(), ids=SIGNATURE_DAMAGE.keys())
def test_a_malformed_signature_is_an_untrusted_signer(release, key, damage):
    file = release / ".signatures" / "manifest.sig"
    file.write_bytes(damage(file.read_bytes()))
    found = verify_release(release, key)
    assert found.verdict is Verdict.UNTRUSTED_SIGNER
    assert "cannot be told apart" in found.detail


def test_another_keys_signature_is_an_untrusted_signer(release, key, keys, tmp_path):
    other, _ = generate_keypair(tmp_path / "other")
    resign(release, other)
    assert verify_release(release, key).verdict is Verdict.UNTRUSTED_SIGNER
    resign(release, keys["Ed25519"][0], "Ed25519")
    assert verify_release(release, key).verdict is Verdict.UNTRUSTED_SIGNER


def test_no_key_is_unverifiable_however_good_the_release(release):
    found = verify_release(release, None)
    assert found.verdict is Verdict.UNVERIFIABLE
    assert "no public key is configured" in found.detail


@pytest.mark.parametrize("gone", ["manifest.json", "manifest.sig", ""])
def test_without_manifest_or_signature_a_release_is_unsigned(release, key, gone):
    place = release / ".signatures" / gone
    shutil.rmtree(place) if not gone else place.unlink()
    assert verify_release(release, key).verdict is Verdict.UNSIGNED
    assert verify_release(release, None).verdict is Verdict.UNSIGNED


def test_a_single_file_is_unsigned(tmp_path, key):
    (tmp_path / "model.bin").write_bytes(b"x")
    found = verify_release(tmp_path / "model.bin", key)
    assert found.verdict is Verdict.UNSIGNED
    assert "single file" in found.detail


def test_a_missing_path_and_a_link_are_unverifiable(release, key, tmp_path):
    (tmp_path / "link").symlink_to(release)
    assert verify_release(tmp_path / "nowhere", key).verdict is Verdict.UNVERIFIABLE
    assert verify_release(tmp_path / "link", key).verdict is Verdict.UNVERIFIABLE
    assert verify_release(tmp_path / "link", None).verdict is Verdict.UNVERIFIABLE


def unplain(kind, place, elsewhere):
    """Replace a file or folder by something that is not one."""
    place.rename(elsewhere)
    if kind == "link":
        place.symlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(place.parent)
            listener.bind(place.name)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "socket"])
@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_a_manifest_or_signature_that_is_no_plain_file_is_unverifiable(
    release, key, tmp_path, kind, name, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    unplain(kind, release / ".signatures" / name, tmp_path / "away")
    found = verify_release(release, key)
    assert found.verdict is Verdict.UNVERIFIABLE
    assert name in found.detail


def test_a_linked_signature_folder_is_not_followed(release, key, tmp_path):
    unplain("link", release / ".signatures", tmp_path / "away")
    found = verify_release(release, key)
    assert found.verdict is Verdict.UNVERIFIABLE
    assert ".signatures" in found.detail


def test_oversized_manifests_and_signatures_are_not_read(release, key, monkeypatch):
    monkeypatch.setattr(signatures, "MAX_SIGNATURE_BYTES", 10)
    found = verify_release(release, key)
    assert found.verdict is Verdict.UNVERIFIABLE
    assert "larger than 10 bytes" in found.detail
    monkeypatch.setattr(signatures, "MAX_MANIFEST_BYTES", 20)
    assert "larger than 20 bytes" in verify_release(release, key).detail


@pytest.mark.parametrize(
    "data",
    [b"{}", b"not json", b'{"../x": "%s"}' % (b"a" * 64), b'{"a": NaN}', b"\xff", b"[" * 100_000],
)
def test_a_hostile_manifest_is_unverifiable_even_when_its_signature_holds(release, key, keys, data):
    (release / ".signatures" / "manifest.json").write_bytes(data)
    resign(release, keys["P-256"][0])
    found = verify_release(release, key)
    assert found.verdict is Verdict.UNVERIFIABLE
    assert "manifest.json" in found.detail


def test_a_hostile_manifest_is_not_parsed_before_its_signature_holds(release, key, monkeypatch):
    def parse(*_):
        raise AssertionError("parsed an unauthenticated manifest")

    monkeypatch.setattr(signatures, "parse_manifest", parse)
    (release / ".signatures" / "manifest.json").write_bytes(b"{}")
    assert verify_release(release, key).verdict is Verdict.UNTRUSTED_SIGNER


def test_all_kinds_of_difference_are_named_at_once(release, key):
    (release / "config.json").write_bytes(b"{}")
    (release / "empty.txt").unlink()
    (release / "evil.so").write_bytes(b"x")
    os.mkfifo(release / "pipe")
    (release / "out").symlink_to("/etc/passwd")
    (release / "in").symlink_to("config.json")
    found = verify_release(release, key)
    assert found.verdict is Verdict.TAMPERED
    assert found.modified == ("config.json",)
    assert found.missing == ("empty.txt",)
    assert found.extra == ("evil.so",)
    assert [u.partition(":")[0] for u in found.unsafe] == ["in", "out", "pipe"]
    for name in ("config.json", "empty.txt", "evil.so", "pipe"):
        assert name in found.detail


def test_a_wrong_size_alone_is_a_difference(release, key, keys):
    file = release / ".signatures" / "manifest.json"
    raw = json.loads(file.read_bytes())
    raw["files"][0]["size"] += 1
    file.write_bytes(json.dumps(raw).encode())
    resign(release, keys["P-256"][0])
    found = verify_release(release, key)
    assert found.verdict is Verdict.TAMPERED
    assert found.modified == (raw["files"][0]["path"],)


def test_names_of_an_attacker_are_escaped(release, key):
    (release / "x\x1b[2J\n.bin").write_bytes(b"x")
    (release / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
    found = verify_release(release, key)
    assert found.extra == (r"x\x1b[2J\n.bin",)
    assert found.unsafe == (r"\xff\xfe: file name is not UTF-8",)
    assert found.detail.isprintable()


def test_long_lists_are_cut_in_json_and_counted(release, key):
    for number in range(150):
        (release / f"{number:03}").write_bytes(b"")
    raw = verify_release(release, key).to_json()
    assert len(raw["extra"]) == 100
    assert raw["counts"]["extra"] == 150
    assert "and 145 more" in raw["detail"]
    assert json.loads(json.dumps(raw)) == raw


@pytest.mark.parametrize(
    ("model", "version", "says"),
    [
        ("other", None, "names model 'demo', expected 'other'"),
        (None, "1.3", "names version '1.2', expected '1.3'"),
        ("other", "1.3", "expected 'other'; manifest names version '1.2', expected '1.3'"),
    ],
)
def test_another_model_or_version_is_a_wrong_identity(release, key, model, version, says):
    found = verify_release(release, key, expect_model=model, expect_version=version)
    assert found.verdict is Verdict.WRONG_IDENTITY
    assert says in found.detail
    assert not found.identity_proven


def test_tampering_outranks_a_wrong_identity_and_both_are_said(release, key):
    (release / "config.json").write_bytes(b"{}")
    found = verify_release(release, key, expect_model="other")
    assert found.verdict is Verdict.TAMPERED
    assert "config.json" in found.detail
    assert "expected 'other'" in found.detail


def test_a_flat_manifest_verifies_but_proves_no_identity(release, key, keys):
    file = release / ".signatures" / "manifest.json"
    files = json.loads(file.read_bytes())["files"]
    file.write_bytes(json.dumps({f["path"]: f["sha256"] for f in files}).encode())
    resign(release, keys["P-256"][0])
    found = verify_release(release, key, expect_model="demo", expect_version="1.2")
    assert found.verdict is Verdict.VERIFIED
    assert not found.identity_proven
    assert "names no model: identity unproven" in found.detail


def test_identity_is_not_proven_when_nothing_was_expected(release, key):
    found = verify_release(release, key)
    assert found.verified
    assert not found.identity_proven


def test_unsigned_files_in_the_signature_folder_are_mentioned(release, key):
    (release / ".signatures" / "payload.so").write_bytes(b"x")
    found = verify_release(release, key)
    assert found.verified
    assert found.unsigned == ("payload.so",)
    assert "payload.so" in found.detail


def test_every_reachable_verdict_has_a_next_step(release, key):
    missing = set(Verdict) - set(NEXT_STEP)
    assert missing == {Verdict.REVOKED, Verdict.EXPIRED, Verdict.DOWNGRADE}
    assert verify_release(release, key).next_step == NEXT_STEP[Verdict.VERIFIED]


def test_progress_adds_up_to_the_size_of_the_files(release, key):
    seen = []
    verify_release(release, key, progress=seen.append)
    assert sum(seen) == 5000 + 14 + 4


def test_a_verification_is_frozen(release, key):
    with pytest.raises(dataclasses.FrozenInstanceError):
        verify_release(release, key).verdict = Verdict.VERIFIED


@pytest.mark.parametrize(
    ("kind", "problem"),
    [("secp256k1", "curve secp256k1"), ("RSA-1024", "RSA-1024, at least 2048"), ("Ed448", "Ed448")],
)
def test_weak_and_foreign_kinds_of_key_are_refused(release, keys, kind, problem):
    with pytest.raises(KeyFileError, match=problem):
        load_public_key(keys[kind][1])
    found = verify_release(release, keys[kind][1])
    assert found.verdict is Verdict.UNVERIFIABLE
    assert problem in found.detail


def wrong_key_files(keys, folder):
    private, public = (path.read_bytes() for path in keys["P-256"])
    rsa = openssl("rsa", "-in", keys["RSA-2048"][0], "-RSAPublicKey_out")
    certificate = openssl("req", "-x509", "-key", keys["P-256"][0], "-subj", "/CN=x", "-days", "1")
    return {
        "missing": (None, "cannot be read"),
        "empty": (b"", "expected '-----BEGIN PUBLIC KEY-----'"),
        "private": (private, "expected '-----BEGIN PUBLIC KEY-----'"),
        "PKCS#1": (rsa, "expected '-----BEGIN PUBLIC KEY-----'"),
        "certificate": (certificate, "expected '-----BEGIN PUBLIC KEY-----'"),
        "two keys": (public + keys["P-384"][1].read_bytes(), "more than one key"),
        "key and private": (public + private, "more than one key"),
        "text before": (b"# my key\n" + public, "starts with '# my key'"),
        "garbage inside": (public[:40] + b"####" + public[44:], "is not a public key"),
        "huge": (public + b"\n" * 10 + b"x" * publisher_key.MAX_KEY_BYTES, "more than one key"),
    }


def test_everything_but_one_spki_key_is_refused(keys, tmp_path):
    for name, (data, problem) in wrong_key_files(keys, tmp_path).items():
        file = tmp_path / f"{name.replace('#', '')}.pub"
        if data is not None:
            file.write_bytes(data)
        with pytest.raises(KeyFileError, match=problem):
            load_public_key(file)


def flip(chance, data):
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def mutate(chance, release, elsewhere):
    """Change one thing about a release; the kind of change and what must be named."""
    files = [p for p in sorted(release.rglob("*")) if p.is_file() and ".signatures" not in p.parts]
    filled = [p for p in files if p.stat().st_size]
    signed = release / ".signatures"
    kind = chance.choice(["flip", "manifest", "signature", "add", "remove", "rename", "truncate",
                          "append", "link inside", "link outside", "folder", "swap"])  # fmt: skip
    file = chance.choice(filled)
    if kind == "flip":
        file.write_bytes(flip(chance, file.read_bytes()))
    elif kind in ("manifest", "signature"):
        file = signed / ("manifest.json" if kind == "manifest" else "manifest.sig")
        file.write_bytes(flip(chance, file.read_bytes()))
        return kind, "manifest.sig"
    elif kind == "add":
        file = chance.choice([release, release / "tokenizer"]) / f"n{chance.randrange(99)}.bin"
        file.write_bytes(chance.randbytes(chance.randrange(5)))
    elif kind == "remove":
        file = chance.choice(files)
        file.unlink()
    elif kind == "rename":
        file.rename(file.with_suffix(".renamed"))
    elif kind == "truncate":
        os.truncate(file, chance.randrange(file.stat().st_size))
    elif kind == "append":
        file.write_bytes(file.read_bytes() + b"\0")
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "swap":
        other = chance.choice([p for p in filled if p != file])
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)
    else:
        target = elsewhere if kind == "link outside" else release
        copy = target / f"copy-of-{file.name}"
        file.rename(copy)
        file.symlink_to(os.path.relpath(copy, file.parent) if target is release else copy)
    return kind, file.relative_to(release).as_posix()


@pytest.mark.parametrize("seed", range(400))
def test_no_random_mutation_is_accepted_and_the_culprit_is_named(release, key, tmp_path, seed):
    kind, culprit = mutate(random.Random(seed), release, tmp_path)
    found = verify_release(release, key, expect_model="demo", expect_version="1.2")
    expected = {"manifest": Verdict.UNTRUSTED_SIGNER, "signature": Verdict.UNTRUSTED_SIGNER}
    assert found.verdict is expected.get(kind, Verdict.TAMPERED), kind
    assert culprit in found.detail, kind


def test_our_own_key_pair_signs_what_openssl_verifies_and_is_private(release, tmp_path):
    private, public = generate_keypair(tmp_path / "k", b"password")
    assert private.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in private.read_bytes()
    written = sign_manifest(release, private, b"password")
    (tmp_path / "raw").write_bytes(base64.b64decode(written.read_bytes()))
    manifest = release / ".signatures" / "manifest.json"
    openssl("dgst", "-sha256", "-verify", public, "-signature", tmp_path / "raw", manifest)
    assert verify_release(release, public).verified
