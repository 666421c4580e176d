"""Cases, playbooks and a response without Prefect, for the tests of engine, gates and walk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firebreak.incidents.blobs import Blobs
from firebreak.incidents.case import Case
from firebreak.incidents.store import Store
from firebreak.inventory import Channel, Inventory, Model, Person, Target
from firebreak.playbook.engine import RunState
from firebreak.playbook.gates import Answer
from firebreak.playbook.schema import Playbook, Step, load_playbook
from firebreak.playbook.walk import walk
from firebreak.records import Finding, FindingType, Json, Severity

PLAYBOOKS = Path(__file__).parents[1] / "playbooks"
TAMPERED = PLAYBOOKS / "tampered-model.yaml"
CANDIDATE = {"version": "1.1", "manifest_sha256": "ab" * 32}
PEOPLE = (
    Person("ana", "Ana", frozenset({"incident-commander"})),
    Person("bob", "Bob", frozenset({"ml-oncall"})),
    Person("cid", "Cid", frozenset({"security-lead"})),
    Person("dee", "Dee", frozenset()),
)
SMALL = """
playbook: small
version: 1
title: Cut, ask, act
triggers: [model_file_tampered]
steps:
  - {id: look, flow: investigate}
  - {id: ask, after: [look], gate: {ask: [ml-oncall, security-lead], quorum: 1, timeout: 4h, \
otherwise: hold}}
  - {id: act, flow: recover, with: {to: last-known-good}, after: [ask], on_failure: hold}
"""


def make_case(
    home: Path,
    severity: Severity = Severity.CRITICAL,
    *,
    critical: bool = False,
    targets: tuple[Target, ...] = (),
    people: tuple[Person, ...] = PEOPLE,
    channels: tuple[Channel, ...] = (),
) -> Case:
    """An opened incident about the model `fraud` with one finding of a severity."""
    home.mkdir(parents=True, exist_ok=True)
    inventory = Inventory(
        file=home / "firebreak.yaml",
        home=home / "home",
        database_url=f"sqlite:///{home / 'home' / 'firebreak.db'}",
        models=(Model("fraud", home / "fraud", "firebreak.yaml:3:5", "1.2", critical, targets),),
        people=people,
        channels=channels,
    )
    store = Store(inventory.database_url)
    incident, _ = store.open_incident("fraud", "test", {})
    made = Case(incident, inventory, store, Blobs(inventory.home / "evidence"))
    made.add_findings([finding("weights.safetensors", severity)])
    return made


def another(case: Case) -> Case:
    """The same incident as another process sees it."""
    return Case(case.id, case.inventory, Store(case.inventory.database_url), case.blobs)


def finding(file: str, severity: Severity = Severity.CRITICAL) -> Finding:
    """A finding about one file of `fraud`."""
    return Finding(
        FindingType.TAMPERED, severity, "integrity", f"{file} changed", {"file": file}, "fraud"
    )


def playbook(folder: Path, text: str = SMALL) -> Playbook:
    """The playbook of a YAML text."""
    file = folder / "playbook.yaml"
    file.write_text(text)
    return load_playbook(file)


def kinds(case: Case, prefix: str = "") -> list[str]:
    """The kinds of the journal's entries in order, those that begin with a prefix."""
    return [e.kind for e in case.entries() if e.kind.startswith(prefix)]


def bodies(case: Case, kind: str) -> list[Json]:
    """The bodies of all entries of one kind."""
    return [e.body for e in case.entries() if e.kind == kind]


@dataclass
class Response:
    """A playbook walked without Prefect: each step performs one counted effect on the world."""

    case: Case
    book: Playbook
    effects: list[str] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    failing: dict[str, Exception] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    answers: Callable[[Step, Json, str], Answer | None] | None = None
    initiator: str = "firebreak"

    def walk(self, case: Case | None = None, book: Playbook | None = None) -> RunState:
        """One process walking the playbook as far as it gets."""
        case = case or another(self.case)
        return walk(
            case,
            book or self.book,
            initiator=self.initiator,
            run=lambda step: self.run(case, step),
            ask=self.ask,
            plan=lambda step: [{"actions": [f"{step.flow} {dict(step.inputs)}"]}],
        )

    def run(self, case: Case, step: Step) -> Json:
        """Does what the step's flow would: evidence or a counted effect."""
        if step.id in self.failing:
            raise self.failing[step.id]
        if step.flow == "triage":
            case.add_evidence("processes", "processes.json", [{"pid": 1}], "host")

        def effect() -> Json:
            if step.id not in self.effects:  # as every driver: what is done already is left alone
                self.effects.append(step.id)
            else:
                self.effects.append(f"{step.id} again")
            return {"done": step.id}

        case.perform("act", step.id, effect)
        if step.flow == "investigate":
            return {"candidate": CANDIDATE, **self.results.get(step.id, {})}
        result: Json = self.results.get(step.id, {"ok": True})
        return result

    def ask(self, step: Step, question: Json, attempt: str) -> Answer | None:
        """The answer of `answers`; nobody answers without it."""
        self.asked.append((step.id, question["digest"], attempt))
        return self.answers(step, question, attempt) if self.answers else None


def saying(decision: str = "approve", **by: str) -> Callable[[Step, Json, str], Answer]:
    """Answers each gate with a decision; by default whoever of PEOPLE is asked there first."""

    def answer(step: Step, question: Json, attempt: str) -> Answer:
        person = by.get(step.id.replace("-", "_")) or question["people"][0]
        return Answer(
            decision, person, "checked it", question["digest"], f"test:{step.id}-{attempt}"
        )

    return answer
