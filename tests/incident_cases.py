"""A real case over a temporary inventory, for the tests of investigation and communication."""

from pathlib import Path

from firebreak.incidents.blobs import Blobs
from firebreak.incidents.case import Case
from firebreak.incidents.store import Store
from firebreak.inventory import Channel, Inventory, Model, Person, Target
from firebreak.records import Finding, FindingType, Json, Severity

HOSTILE = "<script>alert(1)</script>|`x` [a](http://evil.example) **b**\n# head\x1b[2J"


def make_case(home: Path, channels: tuple[Channel, ...] = ()) -> Case:
    """An opened incident about the model `fraud`, whose folder is `home/fraud`."""
    folder = home / "fraud"
    folder.mkdir(parents=True, exist_ok=True)
    inventory = Inventory(
        file=home / "firebreak.yaml",
        home=home / ".firebreak",
        database_url=f"sqlite:///{home / 'incidents.db'}",
        models=(
            Model(
                "fraud",
                folder,
                "firebreak.yaml:3:5",
                version="2.1",
                critical=True,
                targets=(Target("process:///run/fraud.pid"),),
                secrets=("HF_TOKEN", "registry robot"),
                owner="ada",
            ),
        ),
        people=(Person("ada", "Ada", frozenset({"incident-commander"})),),
        channels=channels,
    )
    store = Store(inventory.database_url)
    incident, _ = store.open_incident("fraud", "integrity", {"source": "schedule"})
    return Case(incident, inventory, store, Blobs(inventory.home / "evidence"))


def reopen(case: Case) -> Case:
    """The same incident in another process, as after a crash."""
    return Case(case.id, case.inventory, Store(case.inventory.database_url), case.blobs)


def finding(
    message: str = "model.safetensors was changed",
    kind: FindingType = FindingType.TAMPERED,
    evidence: Json | None = None,
) -> Finding:
    """A finding about `fraud`."""
    seen = evidence or {"file": "model.safetensors", "actual": "ab" * 32}
    return Finding(kind, Severity.CRITICAL, "integrity", message, seen, "fraud")
