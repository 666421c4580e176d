"""Hashing a model: every file, nothing else, and nothing is passed over in silence."""

import hashlib
import os
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firebreak.checks import hashing
from firebreak.checks.hashing import Problem, scan, scan_strict, tree_size
from firebreak.errors import UnsafeFileError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with one file."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    return folder


def problems(model: Path) -> list[Problem]:
    """What cannot be hashed, beside the one good file."""
    tree = scan(model)
    assert [f.path for f in tree.files] == ["weights.bin"]
    return list(tree.problems)


def test_digests_are_those_of_sha256sum(tmp_path):
    """The same digests as coreutils, for files of every awkward length and in any folder."""
    for index, size in enumerate([0, 1, 63, 64, 65, (1 << 20) - 1, 1 << 20, (1 << 20) + 1]):
        place = tmp_path / ("d/" * index) / f"file {index} é 重.bin"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(os.urandom(size))
    printed = subprocess.run(
        ["find", ".", "-type", "f", "-exec", "sha256sum", "{}", "+"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    expected = {line[66:].removeprefix("./"): line[:64] for line in printed}
    tree = scan(tmp_path)
    assert {f.path: f.sha256 for f in tree.files} == expected
    assert tree.size == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert list(tree.files) == sorted(tree.files, key=lambda f: f.path)
    assert tree.problems == ()


NAME = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=20
).filter(lambda n: n not in (".", "..") and len(n.encode()) < 200)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(NAME, st.binary(max_size=200), max_size=6))
def test_every_file_of_any_name_is_found_with_its_content(tmp_path_factory, files):
    """Control characters, quotes, newlines and any script in a name change nothing."""
    folder = tmp_path_factory.mktemp("m")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    tree = scan(folder)
    assert {f.path: (f.size, f.sha256) for f in tree.files} == {
        n: (len(c), hashlib.sha256(c).hexdigest()) for n, c in files.items()
    }


def test_progress_counts_every_byte_once(tmp_path):
    """A progress bar over `tree_size` ends exactly at its end."""
    for n in range(5):
        (tmp_path / f"f{n}").write_bytes(b"x" * (700_000 * n))
    seen: list[int] = []
    scan(tmp_path, progress=seen.append)
    assert sum(seen) == tree_size(tmp_path) == 7_000_000


@pytest.mark.parametrize("kind", ["fifo", "socket", "character device", "block device"])
def test_what_is_no_file_is_a_problem_and_never_a_hang(model, kind):
    """FIFO, socket and device are named for what they are; nothing is read from them."""
    place = model / "odd"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(place))
    else:
        letter, *numbers = ("c", 1, 3) if kind == "character device" else ("b", 7, 0)
        made = subprocess.run(["mknod", place, letter, *map(str, numbers)], check=False)
        if made.returncode:
            pytest.skip("this container may not make device nodes")
    name = "FIFO" if kind == "fifo" else kind
    assert problems(model) == [Problem("odd", f"is a {name}")]
    with pytest.raises(UnsafeFileError, match=f"'odd': is a {name}"):
        scan_strict(model)


def test_a_device_behind_a_plain_name_is_not_read(model, monkeypatch):
    """Swapped between listing and opening: what was opened is looked at again."""
    monkeypatch.setattr(hashing.os, "O_NOFOLLOW", 0)
    found = hashing._hash_one("/dev/zero", "odd", None)
    assert found == Problem("odd", "is a character device")


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../outside", "..", "/", "deep/../../outside", "../model-2/x"]
)
def test_a_link_out_of_the_model_is_a_problem(model, target):
    """What it points at is not part of the model, may change unseen, and is not read."""
    (model.parent / "outside").write_text("x")
    (model.parent / "model-2").mkdir()
    (model / "link").symlink_to(target)
    (found,) = problems(model)
    assert found.problem == f"is a symbolic link out of the model, to {target!r}"


@pytest.mark.parametrize("target", ["weights.bin", "./weights.bin", "nowhere", "link"])
def test_a_link_inside_the_model_is_part_of_it(model, target):
    """Where it points is compared, dangling and circular ones too; the file counts once."""
    (model / "link").symlink_to(target)
    tree = scan(model)
    (link,) = (f for f in tree.files if f.path == "link")
    assert (link.link, link.size) == (target, len(target))
    assert len(tree.files) == 2


def test_a_link_to_a_folder_inside_is_not_walked(model):
    """A circle of folders ends."""
    (model / "sub").mkdir()
    (model / "sub" / "up").symlink_to("../sub")
    assert [f.path for f in scan(model).files] == ["sub/up", "weights.bin"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_name_that_is_not_utf_8_is_a_problem(model, kind):
    """It could not be written into a manifest; it is shown escaped."""
    raw = os.fsencode(model) + b"/bad\xff"
    if kind == "folder":
        Path(os.fsdecode(raw)).mkdir()
    elif kind == "link":
        Path(os.fsdecode(raw)).symlink_to("weights.bin")
    else:
        Path(os.fsdecode(raw)).write_bytes(b"x")
    assert problems(model) == [Problem(r"bad\xff", "file name is not UTF-8")]


def test_a_link_to_a_name_that_is_not_utf_8_is_a_problem(model):
    """Its text could not be written into a manifest either."""
    (model / "link").symlink_to(os.fsdecode(b"bad\xff"))
    assert problems(model) == [Problem("link", "links to a name that is not UTF-8")]


def test_an_unreadable_file_is_a_problem(model, monkeypatch):
    """What may not be read is said, not skipped."""
    (model / "secret").write_bytes(b"x")
    real = os.open

    def refusing(path, *args, **kwargs):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(hashing.os, "open", refusing)
    assert problems(model) == [Problem("secret", "cannot be read: Permission denied")]


def test_an_unlistable_folder_is_a_problem(model, monkeypatch):
    """Files behind it are unknown, and that is said."""
    (model / "closed").mkdir()
    real = os.scandir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(hashing.os, "scandir", refusing)
    assert problems(model) == [Problem("closed/", "cannot be listed: Permission denied")]


@pytest.mark.parametrize("change", ["grows", "shrinks", "same size"])
def test_a_file_that_changes_while_it_is_read_is_a_problem(model, change):
    """A digest of half the old and half the new content would be worth nothing."""
    place = model / "live"
    place.write_bytes(b"x" * (3 << 20))
    touched: list[int] = []

    def meanwhile(_count: int) -> None:
        if not touched:
            touched.append(1)
            with place.open("r+b") as stream:
                if change == "grows":
                    stream.seek(0, 2)
                    stream.write(b"more")
                elif change == "shrinks":
                    stream.truncate(2 << 20)
                else:
                    stream.write(b"y")
            os.utime(place)

    (model / "weights.bin").unlink()
    tree = scan(model, progress=meanwhile, workers=1)
    assert tree.files == ()
    assert tree.problems == (Problem("live", "changed while it was read"),)


def test_a_file_that_vanishes_before_it_is_read_is_a_problem(model, monkeypatch):
    """Listed and then gone: not silently part of neither."""
    real = hashing.walk

    def walk(*args):
        for entry in list(real(*args)):
            if isinstance(entry, tuple):
                Path(entry[0]).unlink()
            yield entry

    monkeypatch.setattr(hashing, "walk", walk)
    assert scan(model).problems == (
        Problem("weights.bin", "cannot be read: No such file or directory"),
    )


def test_deep_folders_are_walked_up_to_a_limit(model):
    """Sixty levels are hashed; what lies deeper is named, not followed for ever."""
    deep = model
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"x")
    assert len(scan(model).files) == 2
    for _ in range(20):
        deep = deep / "e"
    deep.mkdir(parents=True)
    (found,) = scan(model).problems
    assert found.problem == "is nested too deeply"


def test_paths_longer_than_the_system_allows_are_a_problem(model):
    """An attacker's tree of long names is named where it can no longer be listed."""
    handle = os.open(model, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=handle)
        deeper = os.open("n" * 250, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = deeper
    os.close(handle)
    (found,) = problems(model)
    assert found.problem == "cannot be listed: File name too long"


def test_more_files_than_the_limit_are_a_problem(model, monkeypatch):
    """A folder of endless files stops, and says that it stopped."""
    monkeypatch.setattr(hashing, "MAX_FILES", 3)
    for n in range(9):
        (model / f"a{n}").write_bytes(b"")
    assert "more than 3 files" in {p.problem for p in scan(model).problems}


def test_a_model_may_be_one_file(model):
    """The tree then has one file, named like it."""
    (found,) = scan(model / "weights.bin").files
    assert (found.path, found.size) == ("weights.bin", 7)
    assert tree_size(model / "weights.bin") == 7


def test_a_root_that_is_no_model_is_said(model):
    """A link, a FIFO or nothing in the model's place."""
    (model.parent / "link").symlink_to(model)
    os.mkfifo(model.parent / "fifo")
    assert scan(model.parent / "link").problems[0].problem == "is a symbolic link"
    assert scan(model.parent / "fifo").problems[0].problem == "is a FIFO"
    with pytest.raises(FileNotFoundError):
        scan(model.parent / "nowhere")


def test_names_to_skip_are_skipped_at_the_top_only(model):
    """A folder of the same name further down takes part."""
    for place in (model / ".signatures", model / "sub" / ".signatures"):
        place.mkdir(parents=True)
        (place / "f").write_bytes(b"x")
    paths = [f.path for f in scan(model, skip=frozenset({".signatures"})).files]
    assert paths == ["sub/.signatures/f", "weights.bin"]
