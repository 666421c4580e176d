"""Dangerous files, found without loading anything."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from firebreak.inventory import Model
from firebreak.investigation.scan import scan_model
from firebreak.records import Finding, FindingType, Severity


class Bomb:
    """Would leave a file behind if anything unpickled it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.mark}",))


def look(folder: Path) -> dict[str, Finding]:
    """The findings of a folder by file."""
    return {f.evidence["file"]: f for f in scan_model(Model("m", folder, "x"))}


def safetensors(header: bytes = b"{}") -> bytes:
    """A small safetensors file."""
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize("name", ["a.pkl", "a.PICKLE", "a.Py", "a.so", "a.dylib", "a.pyd", "a.DLL"])
def test_a_dangerous_suffix_is_found_whatever_its_case(tmp_path: Path, name: str) -> None:
    """The suffix alone is enough; native code is critical."""
    (tmp_path / name).write_bytes(b"harmless")
    found = look(tmp_path)[name]
    assert found.type is FindingType.DANGEROUS_FILE
    native = name.lower().endswith((".so", ".dylib", ".pyd", ".dll"))
    assert found.severity is (Severity.CRITICAL if native else Severity.HIGH)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_found_under_any_name_and_never_unpickled(
    tmp_path: Path, protocol: int
) -> None:
    """A pickle that calls itself a config is critical, and its payload does not run."""
    mark = tmp_path / "mark"
    (tmp_path / "config.json").write_bytes(pickle.dumps(Bomb(mark), protocol))
    found = look(tmp_path)["config.json"]
    assert found.severity is Severity.CRITICAL
    assert "is a pickle, although" in found.message
    assert not mark.exists()


def test_a_text_protocol_pickle_is_found_in_a_bin_file(tmp_path: Path) -> None:
    """Protocol 0 has no magic byte; its first opcodes give it away."""
    (tmp_path / "weights.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "m"), 0))
    assert "is a pickle" in look(tmp_path)["weights.bin"].message


def test_a_pickle_whose_first_argument_is_longer_than_the_head_is_found(tmp_path: Path) -> None:
    """Only 4 KiB are read; a huge string at the start hides nothing."""
    (tmp_path / "x.bin").write_bytes(pickle.dumps("a" * 100_000, 2))
    (tmp_path / "y.bin").write_bytes(pickle.dumps("a" * 100_000, 4))
    assert {"x.bin", "y.bin"} <= set(look(tmp_path))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\x7fELF\x02\x01\x01", "ELF"),
        (b"\xcf\xfa\xed\xfe\x07", "Mach-O"),
        (b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0", "PE"),
        (b"#!/bin/sh\nrm -rf /\n", "script"),
        (b"\x1f\x8b\x08", "gzip"),
    ],
)
def test_content_counts_not_the_name(tmp_path: Path, content: bytes, word: str) -> None:
    """Native code, scripts and archives are found in a file that calls itself weights."""
    (tmp_path / "weights.bin").write_bytes(content)
    assert word in look(tmp_path)["weights.bin"].message


def test_a_torch_archive_is_found_by_its_members(tmp_path: Path) -> None:
    """A zip with a data.pkl is what torch.load unpickles."""
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    found = look(tmp_path)["model.pt"]
    assert found.severity is Severity.HIGH
    assert "archive/data.pkl" in found.message


@pytest.mark.parametrize("cut", [30, 60, -30, -5])
def test_a_zip_that_cannot_be_parsed_is_suspicious_never_clean(tmp_path: Path, cut: int) -> None:
    """A truncated archive is a finding."""
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("weights/data.json", b"x" * 100)
    (tmp_path / "model.pt").write_bytes(whole.read_bytes()[:cut])
    assert "suspicious" in look(tmp_path)["model.pt"].message


def test_a_zip_with_a_directory_of_four_gigabytes_is_refused(tmp_path: Path) -> None:
    """The end record names a huge directory; nothing of that size is read."""
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 0xFFFFFFF0, 0, 0)
    (tmp_path / "model.pt").write_bytes(b"PK\3\4" + bytes(100) + end)
    assert "suspicious: zip archive" in look(tmp_path)["model.pt"].message


def test_a_zip_appended_to_weights_is_critical(tmp_path: Path) -> None:
    """Two parsers would see two files."""
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02.")
    (tmp_path / "w.safetensors").write_bytes(safetensors() + (tmp_path / "z.zip").read_bytes())
    assert look(tmp_path)["w.safetensors"].severity is Severity.CRITICAL


def test_double_suffixes_are_named(tmp_path: Path) -> None:
    """A dangerous suffix in the middle, or below a compression suffix, does not hide."""
    (tmp_path / "model.pkl.safetensors").write_bytes(safetensors())
    (tmp_path / "model.pkl.gz").write_bytes(b"\x1f\x8b\x08")
    found = look(tmp_path)
    assert "hides the suffix .pkl" in found["model.pkl.safetensors"].message
    assert "has the suffix .pkl" in found["model.pkl.gz"].message


def test_an_ordinary_safetensors_model_has_no_findings(tmp_path: Path) -> None:
    """Also with a header length whose first bytes look like a pickle's."""
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "README.md").write_text("# model")
    for length in (0x0280, 0x0480, 0x2880 << 8 | 0x80):
        header = b"{" + b" " * (length - 2) + b"}"
        (tmp_path / f"{length}.safetensors").write_bytes(safetensors(header))
    assert look(tmp_path) == {}


def test_special_files_links_out_and_hostile_names_are_findings(tmp_path: Path) -> None:
    """A FIFO does not hang the scan, and a name with control characters is shown escaped."""
    os.mkfifo(tmp_path / "pipe.bin")
    (tmp_path / "out").symlink_to("/etc/passwd")
    (tmp_path / "evil\x1b[2J.py").write_text("")
    found = look(tmp_path)
    assert "a FIFO" in found["pipe.bin"].message
    assert "out of the model" in found["out"].message
    assert "evil\\x1b[2J.py" in found


def test_a_missing_model_is_a_finding(tmp_path: Path) -> None:
    """Nothing there to scan is not clean."""
    found = scan_model(Model("m", tmp_path / "none", "x"))
    assert [f.type for f in found] == [FindingType.UNREADABLE]


def test_a_model_of_one_file_is_scanned(tmp_path: Path) -> None:
    """The path of a model may be the file itself."""
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps({}))
    types = [f.type for f in scan_model(Model("m", file, "x"))]
    assert types == [FindingType.DANGEROUS_FILE]


def test_the_signature_folder_is_no_hiding_place(tmp_path: Path) -> None:
    """What lies beside the signature is scanned as well."""
    (tmp_path / ".signatures").mkdir()
    (tmp_path / ".signatures" / "hook.py").write_text("")
    assert set(look(tmp_path)) == {".signatures/hook.py"}


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "root.pem", "chain.json"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_or_program_that_poses_as_a_signature_file_is_critical(
    tmp_path: Path, name: str, protocol: int
) -> None:
    """Whatever it calls itself; nothing of it runs."""
    mark = tmp_path / "mark"
    folder = tmp_path / "model" / ".signatures"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(pickle.dumps(Bomb(mark), protocol))
    (folder / "key.pem").write_bytes(b"\x7fELF\x02\x01\x01")
    found = look(tmp_path / "model")
    assert set(found) == {f".signatures/{name}", ".signatures/key.pem"}
    assert {f.severity for f in found.values()} == {Severity.CRITICAL}
    assert not mark.exists()
