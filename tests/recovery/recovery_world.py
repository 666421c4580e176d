"""A small installation on disk, and ways to look at trees."""

import os
import random
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from firebreak.incidents.blobs import Blobs
from firebreak.incidents.case import Case
from firebreak.incidents.store import Store
from firebreak.inventory import Inventory, Model
from firebreak.recovery.signing import sign_manifest, write_manifest


def write_release(path, version, seed=0):
    """The files of a small release: plain, nested, executable, read-only, empty."""
    chance = random.Random(f"{version}-{seed}")
    (path / "tokenizer" / "deep").mkdir(parents=True)
    (path / "weights.safetensors").write_bytes(chance.randbytes(3000))
    (path / "config.json").write_text(f'{{"version": "{version}"}}')
    (path / "empty.txt").write_bytes(b"")
    (path / "tokenizer" / "deep" / "vocab.txt").write_bytes(chance.randbytes(40))
    (path / "tokenizer" / "run.sh").write_text("echo\n")
    (path / "tokenizer" / "run.sh").chmod(0o755)
    (path / "config.json").chmod(0o444)
    (path / "tokenizer").chmod(0o750)


def snapshot(path):
    """Everything about a tree that must survive: kinds, modes, contents, times; None if missing."""
    if not os.path.lexists(path):
        return None
    found = {}
    for place in [path, *sorted(path.rglob("*"))]:
        info = place.lstat()
        data = place.read_bytes() if stat.S_ISREG(info.st_mode) else None
        link = os.readlink(place) if stat.S_ISLNK(info.st_mode) else None
        when = info.st_mtime_ns if data is not None else None
        name = place.relative_to(path).as_posix()
        found[name] = (stat.S_IFMT(info.st_mode), info.st_mode & 0o777, data, link, when)
    return found


def contents(path):
    """Names and bytes of the files, without `.signatures`; None when the path is missing."""
    if not path.exists():
        return None
    files = (p for p in sorted(path.rglob("*")) if p.is_file())
    relative = {p.relative_to(path).as_posix(): p.read_bytes() for p in files}
    return {name: data for name, data in relative.items() if not name.startswith(".signatures/")}


@dataclass
class World:
    """One installation on disk."""

    root: Path
    model: Model
    inventory: Inventory
    store: Store
    private: Path

    @property
    def archive(self):
        return self.root / "archive"

    def publish(self, version, model="demo", name=None, sign=True, seed=0):
        """Put a version into the archive, signed unless told otherwise."""
        path = self.archive / (name or version)
        write_release(path, version, seed)
        if sign:
            write_manifest(path, model, version)
            sign_manifest(path, self.private)
        return path

    def case(self):
        incident, _ = self.store.open_incident("demo", "test", {})
        return Case(incident, self.inventory, self.store, Blobs(self.inventory.home / "evidence"))

    def with_model(self, **changes):
        """The model with other fields."""
        return replace(self.model, **changes)


def build(root, keys):
    model = Model("demo", root / "models" / "demo", "firebreak.yaml:3:11", archive=root / "archive")
    inventory = Inventory(
        file=root / "firebreak.yaml",
        home=root / "home",
        database_url=f"sqlite:///{root / 'home' / 'firebreak.db'}",
        models=(model,),
        cosign_key=keys[1],
    )
    (root / "archive").mkdir(parents=True)
    model.path.parent.mkdir()
    return World(root, model, inventory, Store(inventory.database_url), keys[0])


def attack(world):
    """Publish 1.1 and 1.2, deploy 1.2, and change what is deployed as an attacker would."""
    world.publish("1.1")
    shutil.copytree(world.publish("1.2"), world.model.path)
    (world.model.path / "weights.safetensors").write_bytes(b"poison")
    (world.model.path / "implant.so").write_bytes(b"\x7fELF")
    (world.model.path / "link").symlink_to("/etc/passwd")
    (world.model.path / "setuid").write_bytes(b"x")
    (world.model.path / "setuid").chmod(0o4755)
    return world
