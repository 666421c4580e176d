"""The packages installed in a Python environment, read without importing anything from it."""

import re
import stat
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from firebreak.errors import SourceError
from firebreak.records import Json, now, timestamp

MAX_METADATA_BYTES = 4 << 20
METADATA_FILES = ("METADATA", "PKG-INFO")


def installed_packages(environment: Path | None) -> dict[str, str]:
    """Package name -> version; names as PyPI compares them (`Foo_Bar` is `foo-bar`).

    Args:
        environment: an environment's root or its site-packages folder; None is this process's.

    Returns: sorted by name. A package found in two versions in one environment has both, as
        `"1.0, 2.0"`: leftovers of an upgrade, or a shadowed copy. One without readable metadata
        has the version `"unknown"`.

    Raises:
        SourceError: the environment holds no site-packages.
    """
    found: dict[str, set[str]] = {}
    if environment is None:
        for name, version in _own():
            found.setdefault(name, set()).add(version)
    else:
        for folder in package_folders(environment):
            for name, version in _read_folder(folder):
                found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(found[name])) for name in sorted(found)}


def snapshot(environment: Path | None) -> Json:
    """The installed packages and where they were read. Raises: SourceError."""
    where = [*map(str, package_folders(environment))] if environment else [sys.prefix]
    return {
        "taken_at": timestamp(now()),
        "where": where,
        "packages": installed_packages(environment),
    }


def package_folders(environment: Path) -> list[Path]:
    """The site-packages folders of an environment, or the folder itself when it is one.

    Raises:
        SourceError: there is none.
    """
    patterns = ("lib/python*/site-packages", "lib64/python*/site-packages",
                "lib/python*/dist-packages", "local/lib/python*/dist-packages")  # fmt: skip
    folders: dict[tuple[int, int], Path] = {}  # lib64 is often a link to lib
    for pattern in patterns:
        for folder in sorted(environment.glob(pattern)):
            if folder.is_dir():
                info = folder.stat()
                folders.setdefault((info.st_dev, info.st_ino), folder)
    if not folders and environment.is_dir():
        is_one = environment.name in ("site-packages", "dist-packages")
        if is_one or any(environment.glob("*.dist-info")) or any(environment.glob("*.egg-info")):
            return [environment]
    if not folders:
        raise SourceError(
            str(environment),
            "no site-packages folder here",
            "write an environment's root or its site-packages folder under `environment:`",
        )
    return list(folders.values())


def normalised(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _own() -> Iterator[tuple[str, str]]:
    """This process's packages: the first on `sys.path` is the one that would be imported."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name = normalised(distribution.metadata["Name"] or "")
        if name and name not in seen:
            seen.add(name)
            yield name, distribution.metadata["Version"] or "unknown"


def _read_folder(folder: Path) -> Iterator[tuple[str, str]]:
    """The environment may be the attacker's: metadata that is no plain small file is not opened."""
    for entry in sorted(folder.iterdir()):
        if entry.suffix not in (".dist-info", ".egg-info"):
            continue
        fallback = normalised(entry.stem.split("-")[0])
        if not _is_readable(entry):
            yield fallback, "unknown"
            continue
        try:
            fields = metadata.Distribution.at(entry).metadata
        except (OSError, ValueError, AttributeError, TypeError):  # None before 3.12, when missing
            yield fallback, "unknown"
            continue
        yield normalised(fields["Name"] or fallback), fields["Version"] or "unknown"


def _is_readable(entry: Path) -> bool:
    candidates = [entry / name for name in METADATA_FILES] if entry.is_dir() else [entry]
    for file in candidates:
        try:
            info = file.stat()
        except OSError:
            continue
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_METADATA_BYTES:
            return False
    return True
