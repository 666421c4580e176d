"""A small installation in a folder: an inventory of two models, as an operator would write it."""

from dataclasses import dataclass
from pathlib import Path

from firebreak.checks.manifest import create_baseline
from firebreak.incidents.case import Case, open_case
from firebreak.incidents.store import Store
from firebreak.inventory import Inventory, load_inventory
from firebreak.records import Finding, FindingType, Json, Severity
from firebreak.settings import Settings

INVENTORY = """\
firebreak: 1
check_interval: 1s
models:
  - id: chat
    version: "1.0"
    path: models/chat
    critical: true
  - id: fraud
    path: models/fraud
people:
  - {id: ana, name: Ana, roles: [incident-commander, ml-oncall]}
"""


@dataclass
class SmallWorld:
    """A folder with `firebreak.yaml` and the models `chat` and `fraud`."""

    root: Path

    @property
    def file(self) -> Path:
        """The inventory."""
        return self.root / "firebreak.yaml"

    @property
    def inventory(self) -> Inventory:
        """The inventory as it stands now."""
        return load_inventory(Settings(self.file))

    @property
    def chat(self) -> Path:
        """The folder of the model `chat`."""
        return self.root / "models" / "chat"

    @property
    def fraud(self) -> Path:
        """The folder of the model `fraud`."""
        return self.root / "models" / "fraud"

    def baseline(self, *models: str) -> None:
        """Seal baselines of the models, both by default."""
        for model in models or ("chat", "fraud"):
            create_baseline(
                self.inventory, self.inventory.model(model), by="ana", reason="trusted for a test"
            )

    def incident(self, subject: str = "chat") -> Case:
        """An open incident."""
        store = Store(self.inventory.database_url)
        incident, _ = store.open_incident(subject, "test", {})
        return open_case(incident, self.inventory)


def make_world(root: Path) -> SmallWorld:
    """Write the inventory and both models."""
    world = SmallWorld(root)
    for folder in (world.chat, world.fraud):
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(bytes(range(256)) * 64)
        (folder / "tokenizer" / "vocab.txt").write_text("hello\nworld\n")
        (folder / "empty").write_bytes(b"")
    world.file.write_text(INVENTORY)
    return world


def tampered(evidence: Json | None = None, subject: str = "chat") -> Finding:
    """A critical finding."""
    seen = evidence or {"file": "weights.safetensors", "actual_sha256": "ab" * 32}
    return Finding(
        FindingType.TAMPERED, Severity.CRITICAL, "integrity", "weights differ", seen, subject
    )
