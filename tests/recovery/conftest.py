"""An installation with one compromised model, an archive of signed versions, and an incident."""

import pytest
from recovery_world import attack, build

from firebreak.recovery.signing import generate_keypair


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """The publisher's key pair."""
    return generate_keypair(tmp_path_factory.mktemp("publisher"))


@pytest.fixture
def world(tmp_path, keys):
    """No version published, nothing at the model's path."""
    return build(tmp_path / "world", keys)


@pytest.fixture
def attacked(world):
    """1.1 and 1.2 in the archive; 1.2 deployed and then changed by an attacker."""
    return attack(world)
