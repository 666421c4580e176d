"""The built wheel carries its flows, tasks and playbooks, and runs outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from firebreak.drill.local_prefect import LocalPrefect
from firebreak.importing import new_inventory

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, firebreak, firebreak.prefect_bridge as bridge
bridge.expose_project()
import flows.detect
assert flows.__file__.startswith(sys.argv[1]), flows.__file__
assert (bridge.playbook_folder() / "tampered-model.yaml").is_file()
state = flows.detect.detect(return_state=True)
assert state.is_completed(), state
print("completed")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout and unpacked by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    wheel = next(folder.glob("*.whl"))
    place = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target"]
    subprocess.run([*install, str(place), str(wheel)], check=True, capture_output=True)
    return place


def test_the_wheel_holds_one_import_package(installed: Path) -> None:
    """`flows` and `tasks` are data inside `firebreak`, so they cannot shadow anybody's modules."""
    wheel = next(installed.parent.glob("*.whl"))
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"firebreak"}


@pytest.mark.prefect
def test_a_flow_runs_from_the_wheel_outside_the_checkout(
    installed: Path, prefect: LocalPrefect, tmp_path: Path
) -> None:
    """The same detect flow, from the wheel's own copy, in an empty folder."""
    (tmp_path / "firebreak.yaml").write_text(new_inventory())
    environment = {
        **os.environ,
        **prefect.environment,
        "PYTHONPATH": str(installed),
        "FIREBREAK_INVENTORY": str(tmp_path / "firebreak.yaml"),
    }
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(installed)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "completed" in ran.stdout
