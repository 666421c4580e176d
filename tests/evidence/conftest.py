"""A real case in a temporary home."""

from pathlib import Path

import pytest

from firebreak.incidents.blobs import Blobs
from firebreak.incidents.case import Case
from firebreak.incidents.store import Store
from firebreak.inventory import Inventory, Model


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """An open incident of the model `chat`, whose directory holds one file."""
    model = Model(id="chat", path=tmp_path / "model", where="test")
    model.path.mkdir()
    (model.path / "weights.bin").write_bytes(b"weights")
    inventory = Inventory(
        file=tmp_path / "firebreak.yaml",
        home=tmp_path / "home",
        database_url=f"sqlite:///{tmp_path / 'home' / 'firebreak.db'}",
        models=(model,),
    )
    store = Store(inventory.database_url)
    incident, _ = store.open_incident("chat", "test", {})
    return Case(incident, inventory, store, Blobs(inventory.home / "evidence"))
