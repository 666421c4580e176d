"""Processes, sockets, packages, files and signatures of this machine as evidence."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from firebreak.errors import SourceError
from firebreak.evidence import environment, files, processes, sockets
from firebreak.evidence.environment import installed_packages
from firebreak.records import canonical


def distribution(folder: Path, name: str, version: str | None) -> Path:
    """The metadata of an installed package."""
    place = folder / f"{name}-{version or '0'}.dist-info"
    place.mkdir(parents=True)
    if version is not None:
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (place / "METADATA").write_text(text)
    return place


def test_a_process_is_described_without_its_secrets(tmp_path):
    """Command line masked, of the environment names only, open model files listed."""
    held = tmp_path / "model" / "weights.bin"
    held.parent.mkdir()
    held.write_bytes(b"x" * 10)
    code = "import sys; f = open(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(held), "--token", "hunter2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"API_KEY": "hunter2"},
    ) as child:
        child.stdout.readline()
        taken = processes.snapshot(held.parent)
        found = {p["pid"]: p for p in taken["processes"]}
        child.stdin.close()
    record = found[child.pid]
    assert record["cmdline"][-2:] == ["--token", "[redacted]"]
    assert "API_KEY" in record["environment_names"]
    assert record["model_files"] == [str(held)]
    assert record["ppid"] == os.getpid()
    assert b"hunter2" not in canonical(record)
    assert canonical(taken)


def test_processes_whose_environment_cannot_be_read_are_not_lost(monkeypatch):
    """One unreadable attribute costs that attribute, not the process."""

    def refuse(self):
        raise psutil.NoSuchProcess(self.pid)

    monkeypatch.setattr(psutil.Process, "environ", refuse)
    taken = processes.snapshot()
    mine = next(p for p in taken["processes"] if p["pid"] == os.getpid())
    assert "environment_names" not in mine
    assert "environment_names" in taken["incomplete"][str(os.getpid())]


def test_every_process_is_in_the_snapshot():
    """Kernel threads and other users' processes included."""
    before = set(psutil.pids())
    seen = {p["pid"] for p in processes.snapshot()["processes"]}
    assert before & set(psutil.pids()) <= seen


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_listening_socket_is_seen_with_its_process(family):
    """Address, port, state and process of a TCP socket, both families."""
    if family == socket.AF_INET6 and not Path("/proc/net/tcp6").exists():
        pytest.skip("IPv6 is switched off here")
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as bound:
        bound.bind((host, 0))
        bound.listen()
        port = bound.getsockname()[1]
        wanted = f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}"
        (space,) = [n for n in sockets.snapshot()["namespaces"] if os.getpid() in n["pids"]]
    (found,) = [s for s in space["sockets"] if s.get("local") == wanted]
    assert found["state"] == "LISTEN"
    assert os.getpid() in found["pids"]


def test_unix_and_udp_sockets_are_seen(tmp_path):
    """A unix socket with a hostile name is listed, escaped."""
    name = os.fsencode(tmp_path) + b"/s\xff\x1b"
    with (
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        local.bind(name)
        udp.bind(("127.0.0.1", 0))
        found = sockets.sockets_of(os.getpid())
        port = udp.getsockname()[1]
    assert any(s.get("path", "").endswith("s\\xff\\x1b") for s in found)
    assert any(s.get("local") == f"127.0.0.1:{port}" and s["protocol"] == "udp" for s in found)
    assert canonical(found)


def test_installed_packages_are_read_without_importing(tmp_path):
    """From an environment's root or its site-packages; names as PyPI compares them."""
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    distribution(site, "Foo_Bar.baz", "1.2")
    (site / "foo_bar.py").write_text("raise SystemExit('imported')")
    (site / "evil.pth").write_text("import foo_bar\n")
    assert installed_packages(tmp_path) == {"foo-bar-baz": "1.2"}
    assert installed_packages(site) == {"foo-bar-baz": "1.2"}
    assert environment.snapshot(tmp_path)["where"] == [str(site)]


def test_this_process_s_packages_are_the_default():
    """None is the environment this process runs in."""
    assert installed_packages(None)["psutil"] == psutil.__version__


def test_hostile_metadata_is_unknown_not_a_hang(tmp_path):
    """FIFO, huge, missing and garbage metadata; two versions of one package."""
    site = tmp_path / "site-packages"
    os.mkfifo(distribution(site, "pipe", None) / "METADATA")
    distribution(site, "empty", None)
    (distribution(site, "garbage", None) / "METADATA").write_bytes(b"\xff\xfe\0\0")
    huge = distribution(site, "huge", "1") / "METADATA"
    os.truncate(huge, 1 << 30)
    distribution(site, "twice", "1.0")
    distribution(site, "twice", "2.0")
    assert installed_packages(site) == {
        "empty": "unknown",
        "garbage": "unknown",
        "huge": "unknown",
        "pipe": "unknown",
        "twice": "1.0, 2.0",
    }


def test_an_environment_that_is_none_is_refused(tmp_path):
    """The error names the path and what to write."""
    with pytest.raises(SourceError, match="no site-packages"):
        installed_packages(tmp_path / "nothing")


def test_signatures_are_kept_and_their_absence_is_a_warning(case):
    """`.signatures/*`, `model.sig` and `*.oms.sig`; links and FIFOs are journaled, not read."""
    root = case.model.path
    assert files.collect_signature(case, root) == []
    assert [e.body["class"] for e in case.entries() if e.kind == "evidence.warning"] == [
        "signature"
    ]
    (root / ".signatures").mkdir()
    (root / ".signatures" / "manifest.json").write_text("{}")
    (root / ".signatures" / "manifest.sig").write_text("sig")
    (root / "model.sig").write_text("bundle")
    (root / "skill.oms.sig").symlink_to("/etc/passwd")
    os.mkfifo(root / ".signatures" / "pipe")
    assert len(files.collect_signature(case, root)) == 3
    failed = [e.body["name"] for e in case.entries() if e.kind == "evidence.failed"]
    assert failed == [".signatures/pipe", "skill.oms.sig"]


def test_the_signature_of_a_single_file_lies_beside_it(case):
    """`<file>.sig` belongs to it, another file's does not."""
    file = case.model.path / "weights.bin"
    Path(f"{file}.sig").write_text("sig")
    (case.model.path / "other.sig").write_text("sig")
    assert files.signature_files(file) == [Path(f"{file}.sig")]


def test_the_file_list_has_every_digest_and_every_problem(case):
    """What cannot be hashed is in the list too."""
    os.mkfifo(case.model.path / "pipe")
    taken = files.file_list(case.model.path)
    assert [(f["path"], f["size"]) for f in taken["files"]] == [("weights.bin", 7)]
    assert taken["problems"] == [{"path": "pipe", "problem": "is a FIFO"}]
