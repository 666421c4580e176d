"""Signing releases with our own keys, and refusing what cannot be signed."""

import subprocess

import pytest

from firebreak.checks.signatures import verify_release
from firebreak.errors import KeyFileError, ManifestError, UnsafeFileError
from firebreak.recovery.signing import generate_keypair, sign_manifest, write_manifest


@pytest.fixture
def release(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.bin").write_bytes(b"x")
    return tmp_path / "r"


def test_a_new_pair_is_p256_private_and_never_replaced(tmp_path):
    private, public = generate_keypair(tmp_path / "k")
    text = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", public, "-noout", "-text"],
        capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    assert "prime256v1" in text
    assert private.stat().st_mode & 0o777 == 0o600
    assert (private.name, public.name) == ("cosign.key", "cosign.pub")
    before = private.read_bytes()
    with pytest.raises(FileExistsError):
        generate_keypair(tmp_path / "k")
    public.unlink()
    with pytest.raises(FileExistsError):
        generate_keypair(tmp_path / "k")
    assert private.read_bytes() == before


def test_signing_again_after_a_change_verifies_again(release, tmp_path):
    private, public = generate_keypair(tmp_path / "k")
    manifest = write_manifest(release, "demo", "1.0")
    assert [f.path for f in manifest.files] == ["a.bin"]
    sign_manifest(release, private)
    (release / "b.bin").write_bytes(b"y")
    assert not verify_release(release, public).verified
    write_manifest(release, "demo", "1.1")
    assert not verify_release(release, public).verified
    sign_manifest(release, private)
    found = verify_release(release, public, expect_model="demo", expect_version="1.1")
    assert found.identity_proven
    assert sorted(p.name for p in (release / ".signatures").iterdir()) == [
        "manifest.json",
        "manifest.sig",
    ]


def test_a_wrong_or_missing_password_is_a_key_error(release, tmp_path):
    private, _ = generate_keypair(tmp_path / "k", b"right")
    write_manifest(release, "demo", "1.0")
    for password in (b"wrong", None):
        with pytest.raises(KeyFileError, match="cannot be opened"):
            sign_manifest(release, private, password)
    assert not (release / ".signatures" / "manifest.sig").exists()
    sign_manifest(release, private, b"right")


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "sign with cosign itself"),
        (b"-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----\n", "sign with cosign itself"),
        (b"nonsense", "cannot be opened"),
        (None, "cannot be read"),
    ],
)
def test_keys_we_cannot_use_are_refused(release, tmp_path, pem, problem):
    write_manifest(release, "demo", "1.0")
    if pem is not None:
        (tmp_path / "key").write_bytes(pem)
    with pytest.raises(KeyFileError, match=problem):
        sign_manifest(release, tmp_path / "key")


def test_a_weak_key_is_refused(release, tmp_path):
    write_manifest(release, "demo", "1.0")
    subprocess.run(
        ["openssl", "genrsa", "-out", tmp_path / "key", "1024"], check=True, capture_output=True
    )
    with pytest.raises(KeyFileError, match="RSA of 2048 bits"):
        sign_manifest(release, tmp_path / "key")


def test_links_and_empty_folders_get_no_manifest(release, tmp_path):
    (release / "link").symlink_to("a.bin")
    with pytest.raises(UnsafeFileError, match="is a symbolic link"):
        write_manifest(release, "demo", "1.0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="lists no files"):
        write_manifest(tmp_path / "empty", "demo", "1.0")
    assert not (release / ".signatures").exists()


def test_signing_without_a_manifest_is_an_error(release, tmp_path):
    private, _ = generate_keypair(tmp_path / "k")
    with pytest.raises(ManifestError, match="cannot be read"):
        sign_manifest(release, private)
