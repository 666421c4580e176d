"""A rollback: the copy is verified, the swap is one step, a crash anywhere is completed."""

import errno
import fcntl
import itertools
import os
import pickle
import random
import shutil

import pytest
from recovery_world import attack, build, contents, snapshot

from firebreak.checks.signatures import Verdict, verify_release
from firebreak.errors import RestoreError
from firebreak.incidents.case import Case
from firebreak.recovery import restore as restoring
from firebreak.recovery import staging
from firebreak.recovery.known_good import candidates, choose
from firebreak.recovery.restore import restore, verify_in_place


class Crash(BaseException):
    """The process dies here."""


def roll_back(world, to="1.1", case=None):
    """Choose and restore, as a freshly started process would."""
    candidate = choose(world.model, world.inventory, to=to)
    return restore(case or world.case(), world.model, candidate)


def kinds(world):
    return [e.kind for e in world.case().entries() if e.kind.startswith("restore.")]


def left_behind(world):
    """Names beside the model that are neither the model nor a preserved version."""
    names = {p.name for p in world.model.path.parent.iterdir()} - {world.model.path.name}
    return {n for n in names if ".compromised-" not in n}


def refuse(*codes):
    """A renameat2 that the system does not offer."""

    def renameat2(source, place, flags):
        raise OSError(codes[0], os.strerror(codes[0]), str(source))

    return renameat2


def test_the_verified_version_replaces_the_compromised_one_which_is_kept_unchanged(attacked):
    case = attacked.case()
    before = snapshot(attacked.model.path)
    receipt = roll_back(attacked, case=case)
    assert contents(attacked.model.path) == contents(attacked.archive / "1.1")
    kept = case.folder / "compromised" / "demo"
    assert receipt == {
        "model": "demo",
        "path": str(attacked.model.path),
        "version": "1.1",
        "manifest_sha256": verify_release(
            attacked.model.path, attacked.inventory.cosign_key
        ).manifest_sha256,
        "preserved": str(kept),
    }
    assert snapshot(kept) == before
    assert left_behind(attacked) == set()
    assert kinds(attacked) == ["restore.intent", "restore.done"]


def test_the_pristine_copy_of_the_very_version_that_was_tampered_with_can_be_restored(attacked):
    before = snapshot(attacked.model.path)
    receipt = roll_back(attacked, to="1.2")
    assert contents(attacked.model.path) == contents(attacked.archive / "1.2")
    assert snapshot(attacked.case().folder / "compromised" / "demo") == before
    assert receipt["preserved"]


def test_the_intent_names_both_directories_before_anything_is_exchanged(attacked):
    old, seen = attacked.model.path.stat().st_ino, []
    real = staging.exchange

    def exchange(one, other):
        seen.extend(e for e in attacked.case().entries() if e.kind == "restore.intent")
        return real(one, other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "exchange", exchange)
        roll_back(attacked)
    (intent,) = seen
    assert intent.body["from"]["inode"] == str(old)
    assert intent.body["to"]["inode"] == str(attacked.model.path.stat().st_ino)
    assert intent.body["to"]["version"] == "1.1"
    assert intent.body["preserved"].endswith("compromised/demo")


def test_modes_are_kept_without_the_special_bits(attacked):
    source = attacked.archive / "1.1"
    (source / "tokenizer" / "run.sh").chmod(0o6755)
    (source / "tokenizer").chmod(0o3750)
    source.chmod(0o755)
    roll_back(attacked)

    def mode(name):
        return (attacked.model.path / name).stat().st_mode & 0o7777

    assert mode("tokenizer/run.sh") == 0o755
    assert mode("tokenizer") == 0o750
    assert mode("config.json") == 0o444
    assert mode("") == 0o755
    assert mode(".signatures/manifest.json") == 0o644


def test_only_what_the_manifest_lists_is_copied(attacked):
    (attacked.archive / "1.1" / ".signatures" / "payload.so").write_bytes(b"x")
    roll_back(attacked)
    names = {p.name for p in (attacked.model.path / ".signatures").iterdir()}
    assert names == {"manifest.json", "manifest.sig"}


def test_staging_is_private_while_it_is_filled(attacked):
    seen = []
    real = staging.copy_release

    def copy_release(source, place, *rest):
        real(source, place, *rest)
        seen.append((place, place.stat().st_mode & 0o777))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "copy_release", copy_release)
        roll_back(attacked)
    ((place, mode),) = seen
    assert mode == 0o700
    assert place.parent == attacked.model.path.parent
    assert place.name == f".demo.firebreak-{attacked.case().id}"


def test_a_missing_model_is_simply_put_in_place(attacked):
    shutil.rmtree(attacked.model.path)
    receipt = roll_back(attacked)
    assert receipt["preserved"] is None
    assert contents(attacked.model.path) == contents(attacked.archive / "1.1")


def test_a_second_run_does_nothing_and_returns_the_same_receipt(attacked):
    first = roll_back(attacked)
    after = snapshot(attacked.root)
    case = attacked.case()
    candidate = choose(attacked.model, attacked.inventory, to="1.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "renameat2", refuse(errno.EIO))
        patch.setattr(staging, "copy_release", None)
        assert restore(case, attacked.model, candidate) == first
    changed = {n for n, s in snapshot(attacked.root).items() if s != after.get(n)}
    assert all(n.startswith("home/firebreak.db") for n in changed)
    assert kinds(attacked) == ["restore.intent", "restore.done"]


def test_a_model_that_is_already_the_candidate_is_left_alone(world):
    shutil.copytree(world.publish("1.1"), world.model.path)
    before = snapshot(world.model.path)
    assert roll_back(world)["preserved"] is None
    assert snapshot(world.model.path) == before
    assert kinds(world) == []


def test_a_second_rollback_of_an_incident_keeps_both_earlier_versions(attacked):
    first = snapshot(attacked.model.path)
    one = roll_back(attacked, to="1.2")
    (attacked.model.path / "again.bin").write_bytes(b"x")
    second = snapshot(attacked.model.path)
    two = roll_back(attacked, to="1.1")
    folder = attacked.case().folder / "compromised"
    assert (one["preserved"], two["preserved"]) == (str(folder / "demo"), str(folder / "demo.2"))
    assert snapshot(folder / "demo") == first
    assert snapshot(folder / "demo.2") == second
    assert contents(attacked.model.path) == contents(attacked.archive / "1.1")


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EACCES, errno.EPERM])
def test_what_cannot_leave_its_file_system_is_kept_beside_the_model(attacked, monkeypatch, code):
    before = snapshot(attacked.model.path)
    far = str(attacked.case().folder)
    real = staging.renameat2

    def renameat2(source, place, flags):
        if str(place).startswith(far):
            raise OSError(code, os.strerror(code), str(source))
        real(source, place, flags)

    monkeypatch.setattr(staging, "renameat2", renameat2)
    receipt = roll_back(attacked)
    kept = attacked.model.path.with_name(f".demo.compromised-{attacked.case().id}")
    assert receipt["preserved"] == str(kept)
    assert snapshot(kept) == before


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL])
def test_without_exchange_the_old_version_is_renamed_away_first(attacked, monkeypatch, code):
    before = snapshot(attacked.model.path)
    monkeypatch.setattr(staging, "renameat2", refuse(code))
    receipt = roll_back(attacked)
    assert snapshot(attacked.case().folder / "compromised" / "demo") == before
    assert contents(attacked.model.path) == contents(attacked.archive / "1.1")
    assert receipt["preserved"]


def test_the_fallback_never_replaces_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "renameat2", refuse(errno.ENOSYS))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError):
        staging.move(tmp_path / "a", tmp_path / "b")
    monkeypatch.undo()
    with pytest.raises(FileExistsError):
        staging.move(tmp_path / "a", tmp_path / "b")


def test_too_little_space_is_said_with_both_numbers_and_nothing_changes(attacked, monkeypatch):
    before = snapshot(attacked.root / "models")
    real = os.statvfs(attacked.root)
    free = os.statvfs_result([*real[:4], 3, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    with pytest.raises(RestoreError) as caught:
        roll_back(attacked)
    needed = sum(map(len, contents(attacked.archive / "1.1").values())) + restoring.SPARE_BYTES
    assert f"has {3 * real.f_frsize} bytes free, {needed} are needed" in str(caught.value)
    assert snapshot(attacked.root / "models") == before
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_disk_that_fills_up_while_copying_leaves_no_staging(attacked, monkeypatch):
    before = snapshot(attacked.root / "models")

    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    case, candidate = attacked.case(), choose(attacked.model, attacked.inventory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(RestoreError, match="No space left on device"):
            restore(case, attacked.model, candidate)
    assert snapshot(attacked.root / "models") == before


@pytest.mark.parametrize("what", ["file", "longer", "manifest", "signature", "link", "missing"])
def test_an_archive_changed_after_it_was_judged_is_refused(attacked, what):
    before = snapshot(attacked.root / "models")
    candidate = choose(attacked.model, attacked.inventory)
    path = candidate.path
    if what == "manifest":
        (path / ".signatures" / "manifest.json").write_bytes(b"{}")
    elif what == "signature":
        (path / ".signatures" / "manifest.sig").write_bytes(b"MEUC")
    elif what == "link":
        (path / "weights.safetensors").rename(attacked.root / "away")
        (path / "weights.safetensors").symlink_to(attacked.root / "away")
    elif what == "missing":
        (path / "weights.safetensors").unlink()
    elif what == "longer":
        with (path / "weights.safetensors").open("ab") as stream:
            stream.write(b"x")
    else:
        (path / "weights.safetensors").write_bytes(b"poison")
    with pytest.raises(RestoreError, match=r"weights\.safetensors|changed since|did not verify"):
        restore(attacked.case(), attacked.model, candidate)
    assert snapshot(attacked.root / "models") == before
    assert kinds(attacked) == []


def test_a_copy_that_differs_from_what_was_hashed_is_refused(attacked, monkeypatch):
    before = snapshot(attacked.root / "models")
    real = staging.copy_release

    def copy_release(source, place, *rest):
        real(source, place, *rest)
        (place / "weights.safetensors").write_bytes(b"bad disk")

    monkeypatch.setattr(staging, "copy_release", copy_release)
    with pytest.raises(RestoreError, match=r"did not verify, tampered: .*weights\.safetensors"):
        roll_back(attacked)
    assert snapshot(attacked.root / "models") == before


def test_a_rejected_candidate_is_never_restored(attacked):
    (attacked.archive / "1.2" / "config.json").unlink()
    rejected = next(c for c in candidates(attacked.model, attacked.inventory) if not c.accepted)
    with pytest.raises(RestoreError, match=r"1\.2 is not acceptable: tampered"):
        restore(attacked.case(), attacked.model, rejected)


def test_links_files_and_nested_paths_are_refused_with_what_to_do(attacked):
    case, candidate = attacked.case(), choose(attacked.model, attacked.inventory)
    (attacked.root / "link").symlink_to(attacked.model.path)
    (attacked.root / "file").write_bytes(b"x")
    for path, words in (
        (attacked.root / "link", "is a symbolic link, not supported yet: give the real directory"),
        (attacked.root / "file", "is a single file, not supported yet"),
        (candidate.path / "tokenizer", "lie inside each other"),
        (attacked.root, "lie inside each other"),
    ):
        with pytest.raises(RestoreError, match=words):
            restore(case, attacked.with_model(path=path), candidate)


def test_a_mount_point_is_refused(attacked, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda _: True)
    with pytest.raises(RestoreError, match="is a mount point, not supported yet"):
        roll_back(attacked)


def test_two_processes_never_restore_at_once(attacked):
    case = attacked.case()
    with (case.folder / "restore.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RestoreError, match="another process is restoring"):
            roll_back(attacked)
    roll_back(attacked)


def test_progress_counts_the_copy_and_its_verification(attacked):
    seen = []
    candidate = choose(attacked.model, attacked.inventory, to="1.1")
    restore(attacked.case(), attacked.model, candidate, seen.append)
    assert sum(seen) == 2 * sum(map(len, contents(attacked.archive / "1.1").values()))


def test_what_is_in_place_is_verified_as_this_model(attacked):
    assert verify_in_place(attacked.model, attacked.inventory).verdict is Verdict.TAMPERED
    roll_back(attacked)
    assert verify_in_place(attacked.model, attacked.inventory).verdict is Verdict.VERIFIED
    other = attacked.with_model(id="other")
    assert verify_in_place(other, attacked.inventory).verdict is Verdict.WRONG_IDENTITY


def test_an_unfinished_copy_of_this_incident_is_redone(attacked):
    stale = attacked.model.path.with_name(f".demo.firebreak-{attacked.case().id}")
    stale.mkdir()
    (stale / "half.bin").write_bytes(b"x")
    roll_back(attacked)
    assert contents(attacked.model.path) == contents(attacked.archive / "1.1")
    assert left_behind(attacked) == set()


def test_a_planted_link_at_the_staging_name_is_not_followed(attacked):
    place = attacked.model.path.with_name(f".demo.firebreak-{attacked.case().id}")
    victim = attacked.root / "victim"
    victim.mkdir()
    (victim / "data").write_bytes(b"x")
    place.symlink_to(victim)
    with pytest.raises(RestoreError, match="symbolic link"):
        roll_back(attacked)
    assert (victim / "data").exists()


# Crashes. Every call below that touches the disk or the journal is a place to die at.

CALLS = ("open", "rename", "mkdir", "fsync", "chmod", "fchmod", "write", "unlink", "rmdir")


class Death:
    """Dies at the k-th disk or journal call, before or after it took effect; then lets go."""

    def __init__(self, at, after):
        self.left, self.after = at, after

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for name in CALLS:
            self.patch.setattr(os, name, self.wrap(getattr(os, name)))
        self.patch.setattr(staging, "renameat2", self.wrap(staging.renameat2))
        self.patch.setattr(Case, "append", self.wrap(Case.append))
        return self

    def __exit__(self, *_):
        self.patch.undo()

    def wrap(self, call):
        def dying(*args, **kwargs):
            self.left -= 1
            mine = self.left == -1
            if mine and not self.after:
                raise Crash
            try:
                return call(*args, **kwargs)
            finally:
                if mine:
                    raise Crash

        return dying


def exchanged(world, patch):
    """The system offers everything."""


def fallen_back(world, patch):
    patch.setattr(staging, "renameat2", refuse(errno.ENOSYS))


def beside(world, patch):
    """The case's folder is on another file system."""
    real, far = staging.renameat2, str(world.inventory.home)

    def renameat2(source, place, flags):
        if str(place).startswith(far):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        real(source, place, flags)

    patch.setattr(staging, "renameat2", renameat2)


def deleted(world, patch):
    shutil.rmtree(world.model.path)


def same_version(world, patch):
    """The deployed directory carries the very manifest that is being restored."""
    shutil.rmtree(world.archive / "1.1")


SITUATIONS = [exchanged, fallen_back, beside, deleted, same_version]


class Scene:
    """A fresh attacked world in which a rollback is killed and repeated."""

    def __init__(self, root, keys, situation):
        self.world = attack(build(root, keys))
        self.patch = pytest.MonkeyPatch()
        situation(self.world, self.patch)
        self.absent_is_fine = situation in (fallen_back, deleted)
        self.to = "1.2" if situation is same_version else "1.1"
        self.old = snapshot(self.world.model.path)
        self.new = contents(self.world.archive / self.to)

    def try_(self, at, after):
        """Run with a death at the given call; whether the run survived to its end."""
        case = self.world.case()
        candidate = choose(self.world.model, self.world.inventory, to=self.to)
        try:
            with Death(at, after):
                restore(case, self.world.model, candidate)
        except Crash:
            self.check_whole()
            return False
        return True

    def check_whole(self):
        place = self.world.model.path
        if not place.exists():
            assert self.absent_is_fine
        elif snapshot(place) != self.old:
            assert contents(place) == self.new
        assert self.old is None or self.old in self.kept() or snapshot(place) == self.old

    def kept(self):
        """Every tree, wherever it is, that could be the compromised version."""
        case = self.world.case()
        folders = [self.world.model.path.parent, case.folder / "compromised"]
        return [snapshot(p) for f in folders if f.is_dir() for p in f.iterdir()]

    def check_completed(self):
        world = self.world
        receipt = roll_back(world, self.to)
        assert contents(world.model.path) == self.new
        assert verify_in_place(world.model, world.inventory).verified
        assert left_behind(world) == set()
        if self.old is None:
            assert receipt["preserved"] is None
        else:
            kept = world.root / receipt["preserved"]
            assert snapshot(kept) == self.old
            assert sum(s is not None and "implant.so" in s for s in self.kept()) == 1
        assert roll_back(world, self.to) == receipt
        self.patch.undo()
        shutil.rmtree(world.root)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_crash_at_any_call_leaves_one_whole_version_and_the_next_run_completes(
    tmp_path, keys, situation, after
):
    for at in itertools.count():
        scene = Scene(tmp_path / str(at), keys, situation)
        survived = scene.try_(at, after)
        scene.check_completed()
        if survived:
            break
    assert at > 40


@pytest.mark.parametrize("situation", SITUATIONS)
def test_crashes_while_recovering_from_crashes_are_survived_too(tmp_path, keys, situation):
    chance = random.Random(situation.__name__)
    for number in range(40):
        scene = Scene(tmp_path / str(number), keys, situation)
        for _ in range(4):
            if scene.try_(chance.randrange(90), chance.random() < 0.5):
                break
        scene.check_completed()


def killed_before_exchange(world):
    """A run that died with the intent journaled and the copy staged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoring, "_swap", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            roll_back(world)


def test_another_version_wanted_after_a_crash_discards_the_staged_copy(attacked):
    old = snapshot(attacked.model.path)
    killed_before_exchange(attacked)
    receipt = roll_back(attacked, to="1.2")
    assert contents(attacked.model.path) == contents(attacked.archive / "1.2")
    assert snapshot(attacked.root / receipt["preserved"]) == old
    assert left_behind(attacked) == set()
    assert kinds(attacked) == ["restore.intent", "restore.void", "restore.intent", "restore.done"]


def test_a_staged_copy_tampered_with_between_two_runs_is_not_deployed(attacked):
    killed_before_exchange(attacked)
    place = attacked.model.path.with_name(f".demo.firebreak-{attacked.case().id}")
    (place / "weights.safetensors").write_bytes(b"poison")
    roll_back(attacked)
    assert contents(attacked.model.path) == contents(attacked.archive / "1.1")


def test_an_unknown_directory_in_staging_is_kept_not_deleted(attacked):
    killed_before_exchange(attacked)
    place = attacked.model.path.with_name(f".demo.firebreak-{attacked.case().id}")
    place.rename(attacked.root / "taken")
    place.mkdir()
    (place / "precious").write_bytes(b"x")
    old = snapshot(attacked.model.path)
    receipt = roll_back(attacked)
    folder = attacked.case().folder / "compromised"
    assert contents(folder / "demo") == {"precious": b"x"}
    assert snapshot(attacked.root / receipt["preserved"]) == old


def test_a_model_attacked_again_after_the_exchange_is_replaced_again_and_both_are_kept(attacked):
    first = snapshot(attacked.model.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoring, "_preserve", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            roll_back(attacked)
    (attacked.model.path / "again.bin").write_bytes(b"x")
    second = snapshot(attacked.model.path)
    receipt = roll_back(attacked)
    folder = attacked.case().folder / "compromised"
    assert snapshot(folder / "demo") == first
    assert snapshot(folder / "demo.2") == second
    assert receipt["preserved"] == str(folder / "demo.2")
    assert contents(attacked.model.path) == contents(attacked.archive / "1.1")


def test_a_model_put_in_place_between_two_runs_is_kept_apart_from_the_compromised_one(attacked):
    old = snapshot(attacked.model.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "renameat2", refuse(errno.ENOSYS))
        patch.setattr(restoring, "_preserve", dying_after(restoring._preserve))
        with pytest.raises(Crash):
            roll_back(attacked)
    shutil.copytree(attacked.archive / "1.2", attacked.model.path)
    redeployed = snapshot(attacked.model.path)
    receipt = roll_back(attacked)
    folder = attacked.case().folder / "compromised"
    assert snapshot(folder / "demo") == old
    assert snapshot(folder / "demo.2") == redeployed
    assert receipt["preserved"] == str(folder / "demo.2")
    assert contents(attacked.model.path) == contents(attacked.archive / "1.1")


def dying_after(call):
    """The call takes effect, then the process dies."""

    def dying(*args):
        call(*args)
        raise Crash

    return dying
