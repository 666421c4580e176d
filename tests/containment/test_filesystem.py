"""Quarantine copies of friendly and hostile models."""

import hashlib
import json
import os
import shutil
import socket
import stat
from collections import namedtuple
from pathlib import Path

import pytest

from firebreak.containment import filesystem, quarantine
from firebreak.containment.driver import Exposure, Mode
from firebreak.containment.filesystem import FileDriver
from firebreak.errors import ContainmentError
from firebreak.inventory import Target

DRIVER = FileDriver()


def isolate(root: Path, case):
    """The receipt's undo record, the copy, and the copy's own record."""
    receipt = DRIVER.isolate(Target(f"file://{root}"), Mode.REVERSIBLE, case)
    place = Path(receipt.undo["quarantine"])
    return receipt, place, json.loads(Path(receipt.undo["record"]).read_bytes())


def test_the_copy_is_the_model_read_only_and_recorded(case, model_tree):
    """Bytes equal, files 0400, folders 0500, every digest in the record beside the copy."""
    receipt, place, record = isolate(model_tree, case)
    assert receipt.undo["files"] == 2
    assert receipt.undo["bytes"] == 10013
    for file in record["files"]:
        data = (place / file["path"]).read_bytes()
        assert data == (model_tree / file["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        assert stat.S_IMODE((place / file["path"]).stat().st_mode) == 0o400
    assert stat.S_IMODE((place / "weights").stat().st_mode) == 0o500
    assert stat.S_IMODE(place.stat().st_mode) == 0o500
    assert place.parent == case.folder / "quarantine"


def test_a_single_file_model_is_copied(case, tmp_path):
    """The target may be one file."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    receipt, place, _ = isolate(file, case)
    assert place.read_bytes() == b"weights"
    assert isolate(file, case)[0].done == ()
    assert receipt.done


def test_hostile_entries_are_listed_and_not_followed(case, model_tree, tmp_path):
    """FIFO, socket, links out, names that are not UTF-8, deep nesting: listed, never a crash."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("not of the model")
    os.mkfifo(model_tree / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(model_tree / "sock"))
    (model_tree / "link-file").symlink_to(outside / "secret")
    (model_tree / "link-folder").symlink_to(outside)
    (model_tree / "dangling").symlink_to("nowhere\x1b[2J")
    Path(os.fsdecode(os.fsencode(model_tree) + b"/bad\xff.bin")).write_bytes(b"x")
    deep = model_tree
    for _ in range(70):
        deep = deep / "d"
    deep.mkdir(parents=True)
    _, place, record = isolate(model_tree, case)
    assert {f["path"] for f in record["files"]} == {"config.json", "weights/part.bin"}
    assert [link["path"] for link in record["links"]] == ["dangling", "link-file", "link-folder"]
    problems = {p["path"]: p["problem"] for p in record["problems"]}
    assert {"pipe", "sock", "bad\\xff.bin"} < set(problems)
    assert any("nested" in p for p in problems.values())
    assert not any(p.is_symlink() for p in place.rglob("*"))
    assert not list(place.rglob("secret"))


def test_a_half_made_copy_is_discarded(case, model_tree):
    """Without its record a copy is not trusted: it is made again from the model."""
    _, place, _ = isolate(model_tree, case)
    record = Path(f"{place}.json")
    record.unlink()
    (place / "weights" / "part.bin").chmod(0o600)
    (place / "weights" / "part.bin").write_bytes(b"half")
    isolate(model_tree, case)
    assert (place / "weights" / "part.bin").stat().st_size == 10000


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": 3}', '{"files": [{"path": 1}]}'])
def test_a_damaged_record_means_a_new_copy(case, model_tree, damage):
    """A record that cannot be read is not a proof of a copy."""
    _, place, good = isolate(model_tree, case)
    record = Path(f"{place}.json")
    record.chmod(0o600)
    record.write_text(damage)
    receipt, _, again = isolate(model_tree, case)
    assert receipt.done
    assert again["files"] == good["files"]


def test_a_full_disk_is_refused_before_anything_is_written(case, model_tree, monkeypatch):
    """The error names both numbers; no quarantine folder appears."""
    usage = namedtuple("usage", "total used free")(1, 1, 10012)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ContainmentError, match=r"10013 bytes .* 10012 are free"):
        isolate(model_tree, case)
    assert not (case.folder / "quarantine").exists()


def test_a_copy_that_reads_back_differently_is_refused(case, model_tree, monkeypatch):
    """The disk returns other bytes than were written: no record is left, so nobody trusts it."""
    monkeypatch.setattr(quarantine, "_digest", lambda _: "0" * 64)
    with pytest.raises(ContainmentError, match="reads back as"):
        isolate(model_tree, case)
    assert not list((case.folder / "quarantine").glob("*.json"))


def test_a_file_that_grows_is_copied_in_its_first_size(case, model_tree, monkeypatch):
    """An endless file cannot fill the disk; the change is recorded."""
    grown = model_tree / "weights" / "part.bin"
    real = os.read

    def growing(handle: int, size: int) -> bytes:
        if os.fstat(handle).st_size >= 10000:
            with grown.open("ab") as stream:
                stream.write(b"more")
        return real(handle, size)

    monkeypatch.setattr(os, "read", growing)
    _, place, record = isolate(model_tree, case)
    assert (place / "weights" / "part.bin").stat().st_size == 10000
    assert [p["problem"] for p in record["problems"]] == ["changed while it was read"]


def test_a_quarantine_inside_the_model_is_refused(case, tmp_path):
    """Nothing is ever written into the model, not even when the home lies in it."""
    with pytest.raises(ContainmentError, match="inside the model"):
        DRIVER.isolate(Target(f"file://{tmp_path}"), Mode.REVERSIBLE, case)


def test_a_link_in_place_of_the_model_is_refused(case, model_tree, tmp_path):
    """A model path that became a link could lead anywhere."""
    link = tmp_path / "link"
    link.symlink_to(model_tree)
    with pytest.raises(ContainmentError, match="is a link"):
        isolate(link, case)


def test_a_held_file_means_serving(model_tree, spawn):
    """A process that has a file of the model open is found."""
    code = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read(); "
    code += "import signal; signal.pause()"
    child = spawn(code, str(model_tree / "config.json"))
    child.stdout.readline()
    seen = DRIVER.probe(Target(f"file://{model_tree}"))
    assert seen.exposure is Exposure.SERVING
    assert str(child.pid) in seen.detail


def test_the_quarantine_path_is_known_without_a_copy(case, model_tree):
    """Other steps find the copy by the same function."""
    target = Target(f"file://{model_tree}")
    assert filesystem.quarantine_path(target, case) == isolate(model_tree, case)[1]
