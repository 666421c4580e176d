"""The driver protocol: what every kind of target can do, and what each action must leave behind."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import ClassVar, Protocol

from firebreak.incidents.case import Case
from firebreak.inventory import Target
from firebreak.records import Json


class Mode(StrEnum):
    """REVERSIBLE actions can be undone completely; DESTRUCTIVE ones lose something for good."""

    REVERSIBLE = "reversible"
    DESTRUCTIVE = "destructive"


class Exposure(StrEnum):
    """What a probe can prove about a target. UNPROVEN is never read as contained."""

    SERVING = "serving"
    CONTAINED = "contained"
    GONE = "gone"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an action would do, found out without changing anything.

    Attributes:
        target: URI.
        mode: which kind of action.
        actions: what would be done, in order, one sentence each.
        destroys: evidence classes lost for good: `memory`, `sockets`, `processes`, `filesystem`.
        affects: what is cut, such as container names or process ids.
    """

    target: str
    mode: Mode
    actions: tuple[str, ...]
    destroys: tuple[str, ...] = ()
    affects: tuple[str, ...] = ()

    def to_json(self) -> Json:
        """The plan as JSON, tuples as lists."""
        raw = asdict(self)
        return {
            **raw,
            "mode": self.mode.value,
            **{k: list(raw[k]) for k in ("actions", "destroys", "affects")},
        }


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was done, enough to undo it in another process.

    Attributes:
        target: URI.
        mode: which kind of action.
        undo: driver-specific state from before, JSON.
        done: what was done, one sentence each; empty when it was already so.
    """

    target: str
    mode: Mode
    undo: Json = field(default_factory=dict)
    done: tuple[str, ...] = ()

    def to_json(self) -> Json:
        """The receipt as it is journaled."""
        return {
            "target": self.target,
            "mode": self.mode.value,
            "undo": self.undo,
            "done": list(self.done),
        }

    @classmethod
    def from_json(cls, raw: Json) -> "Receipt":
        """The receipt that `to_json` wrote. Raises: KeyError, ValueError."""
        return cls(raw["target"], Mode(raw["mode"]), raw["undo"], tuple(raw["done"]))


@dataclass(frozen=True, slots=True)
class Probe:
    """What was seen of a target just now, and how."""

    target: str
    exposure: Exposure
    detail: str

    def to_json(self) -> Json:
        """The probe as JSON."""
        return {"target": self.target, "exposure": self.exposure.value, "detail": self.detail}


class Driver(Protocol):
    """Contains one kind of target. Every method is idempotent; none deletes data.

    `isolate` in reversible mode leaves evidence (memory, sockets) in place and can be undone by
    `release`; in destructive mode the service ends and `release` starts it again.
    All raise `ContainmentError` with the target and what went wrong.
    """

    scheme: ClassVar[str]

    def plan(self, target: Target, mode: Mode, case: Case) -> Plan:
        """What `isolate` would do now. Changes nothing."""
        ...

    def isolate(self, target: Target, mode: Mode, case: Case) -> Receipt:
        """Cut the target off (reversible) or end it (destructive). Twice is the same as once."""
        ...

    def release(self, target: Target, receipts: list[Receipt], case: Case) -> Receipt:
        """Bring the target back into service, from the receipts of its isolation, oldest first.

        What somebody else had isolated before us stays isolated.
        """
        ...

    def probe(self, target: Target) -> Probe:
        """Whether the target serves, is contained, or is gone; UNPROVEN when it cannot tell."""
        ...
