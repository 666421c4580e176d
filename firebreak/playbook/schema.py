"""The playbook language, parsed from YAML into frozen records. docs/playbooks.md explains it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from firebreak.errors import ExpressionError, SourceError
from firebreak.playbook.expressions import Expression
from firebreak.records import FindingType, digest_of
from firebreak.yaml_source import ID_EXPECTED, ID_PATTERN, Node, read_yaml

MAX_STEPS = 2000
STEP_ID = r"[a-z][a-z0-9-]{0,63}"
STEP_EXPECTED = "a step id of lower-case letters, digits and dashes"
TEMPLATES = ("initial_alert", "stakeholder_update", "post_incident_report")

# Which flows a step may name and what each takes: there are no import paths in a playbook.
FLOWS: Mapping[str, Mapping[str, Callable[[Node], Any]]] = {
    "triage": {},
    "contain": {"mode": lambda n: n.choice(("reversible", "destructive"))},
    "investigate": {},
    "communicate": {"template": lambda n: n.choice(TEMPLATES)},
    "recover": {"to": lambda n: n.text(pattern=ID_PATTERN, expected=ID_EXPECTED)},
}
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "contain": ("mode",),
    "communicate": ("template",),
    "recover": ("to",),
}
INCIDENT_FACTS = ("severity", "subject", "types")
ACTING = frozenset({"contain", "recover"})  # flows that change targets
OTHERWISE = ("hold", "escalate")
ON_FAILURE = ("stop", "hold")


@dataclass(frozen=True, slots=True)
class Gate:
    """A point where named humans decide.

    Attributes:
        ask: roles or person ids that may answer.
        quorum: how many different people must approve.
        timeout: how long the question stands.
        otherwise: on timeout: `hold` stops, `escalate` tells people and keeps asking.
    """

    ask: tuple[str, ...]
    quorum: int
    timeout: timedelta
    otherwise: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step: either runs a flow or is a gate.

    Attributes:
        id: unique in the playbook.
        flow: flow name, None for a gate.
        gate: the gate, None for a flow.
        after: step ids that must be over.
        when: run only if this holds; None means always.
        inputs: parameters of the flow (`with:` in YAML).
        on_failure: `stop` ends the response as failed, `hold` leaves it held for people.
        deadline: due this long after the incident opened.
        where: `file:line:column`.
    """

    id: str
    flow: str | None
    gate: Gate | None
    after: tuple[str, ...] = ()
    when: Expression | None = field(default=None, compare=False)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    on_failure: str = "stop"
    deadline: timedelta | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class Playbook:
    """A parsed playbook.

    Attributes:
        name: its id.
        version: counted up by its author.
        title: one line.
        triggers: finding types that may start it.
        steps: in the order of the file.
        digest: sha256 of its content; comments and layout do not count.
    """

    name: str
    version: int
    title: str
    triggers: tuple[str, ...]
    steps: tuple[Step, ...]
    digest: str

    def step(self, step_id: str) -> Step:
        """The step of that id. Raises: KeyError."""
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)

    def descendants(self, step_id: str) -> frozenset[str]:
        """Ids of all steps that come, directly or not, after a step."""
        return self.after((step_id,))

    def after(self, step_ids: Iterable[str]) -> frozenset[str]:
        """Ids of all steps that come, directly or not, after any of the given ones."""
        next_: dict[str, list[str]] = {step.id: [] for step in self.steps}
        for step in self.steps:
            for before in step.after:
                next_[before].append(step.id)
        found: set[str] = set()
        waiting = list(step_ids)
        while waiting:
            new = [s for s in next_[waiting.pop()] if s not in found]
            found.update(new)
            waiting += new
        return frozenset(found)

    def gates_of(self, step: Step) -> tuple[str, ...]:
        """Ids of the gates whose approval a step needs: those it comes right after.

        A step that acts on targets also needs those further up, unless another gate lies between:
        a report may follow an approved step unasked, a second intervention may not.
        """
        known = {s.id: s for s in self.steps}
        found: dict[str, None] = {}
        seen, waiting = set(step.after), list(step.after)
        while waiting:
            before = known[waiting.pop(0)]
            if before.gate is not None:
                found[before.id] = None
            elif step.flow in ACTING:
                new = [s for s in before.after if s not in seen]
                seen.update(new)
                waiting += new
        return tuple(found)


def load_playbook(path: Path) -> Playbook:
    """The playbook in a YAML file.

    Raises:
        SourceError: with file, line and column of the first thing that cannot be used.
    """
    root = read_yaml(path)
    fields = root.fields()
    name = fields.need("playbook").text(pattern=ID_PATTERN, expected=ID_EXPECTED)
    version = fields.need("version").integer(1, 1_000_000)
    title = fields.need("title").text()
    triggers = fields.get("triggers", _triggers, ())
    steps = _steps(fields.need("steps"))
    fields.done()
    return Playbook(name, version, title, triggers, steps, digest_of(root.plain()))


def _triggers(node: Node) -> tuple[str, ...]:
    return tuple(item.choice(tuple(t.value for t in FindingType)) for item in node.items())


def _steps(node: Node) -> tuple[Step, ...]:
    items = node.items()
    if not 1 <= len(items) <= MAX_STEPS:
        node.fail(f"expected 1 to {MAX_STEPS} steps, got {len(items)}")
    steps: dict[str, Step] = {}
    for item in items:
        step = _step(item)
        if step.id in steps:
            raise SourceError(
                step.where,
                f"step {step.id!r} is there twice",
                f"the first is at {steps[step.id].where}",
            )
        steps[step.id] = step
    _check_order(steps)
    for step in steps.values():
        _check_names(step, steps)
    return tuple(steps.values())


def _step(node: Node) -> Step:
    fields = node.fields()
    step_id = fields.need("id").text(pattern=STEP_ID, expected=STEP_EXPECTED)
    flow = fields.get("flow", lambda n: n.choice(tuple(FLOWS)), "") or None
    gate = fields.get("gate", _gate, None)
    if (flow is None) == (gate is None):
        node.fail(f"step {step_id!r} needs exactly one of `flow` and `gate`")
    step = Step(
        id=step_id,
        flow=flow,
        gate=gate,
        after=fields.get("after", lambda n: _after(n, step_id), ()),
        when=fields.get("when", _when, None),
        inputs=_inputs(fields.node, flow) if fields.has("with") or flow else {},
        on_failure=fields.get("on_failure", lambda n: n.choice(ON_FAILURE), "stop"),
        deadline=fields.get("deadline", Node.duration, None),
        where=node.where,
    )
    fields.done()
    return step


def _gate(node: Node) -> Gate | None:
    fields = node.fields()
    gate = Gate(
        ask=fields.need("ask").texts(pattern=ID_PATTERN, expected=ID_EXPECTED),
        quorum=fields.get("quorum", lambda n: n.integer(1, 20), 1),
        timeout=fields.need("timeout").duration(),
        otherwise=fields.need("otherwise").choice(OTHERWISE),
    )
    fields.done()
    if not gate.ask:
        node.fail("`ask` names nobody", "name at least one role")
    if not gate.timeout:
        node.fail("`timeout` leaves no time to answer", "give people at least some minutes")
    return gate


def _inputs(node: Node, flow: str | None) -> Mapping[str, Any]:
    given: Node = node.value.get("with", Node({}, node.where, "with"))
    if flow is None:
        given.fail("a gate takes no `with`")
    assert flow is not None  # noqa: S101 - mypy does not see that fail() never returns
    fields = given.fields()
    for name in REQUIRED.get(flow, ()):
        fields.need(name)
    readers = FLOWS[flow].items()
    found = {name: read(fields.need(name)) for name, read in readers if fields.has(name)}
    fields.done()
    return found


def _after(node: Node, step_id: str) -> tuple[str, ...]:
    after = node.texts(pattern=STEP_ID, expected=STEP_EXPECTED)
    if step_id in after:
        node.fail(f"step {step_id!r} cannot come after itself")
    return after


def _when(node: Node) -> Expression | None:
    try:
        return Expression(node.text(expected="an expression in quotes"))
    except ExpressionError as error:
        raise SourceError(node.where, str(error), ExpressionError.hint) from error


def _check_order(steps: Mapping[str, Step]) -> None:
    """Refuse unknown predecessors and cycles (Kahn's algorithm: what is left over is a cycle)."""
    for step in steps.values():
        for name in step.after:
            if name not in steps:
                raise SourceError(
                    step.where,
                    f"step {step.id!r} comes after unknown step {name!r}",
                    f"known: {', '.join(steps)}",
                )
    waiting = {step.id: set(step.after) for step in steps.values()}
    while True:
        free = [name for name, before in waiting.items() if not before]
        if not free:
            break
        for name in free:
            del waiting[name]
        for before in waiting.values():
            before.difference_update(free)
    if waiting:
        first = steps[next(iter(waiting))]
        raise SourceError(
            first.where,
            f"steps wait for each other: {', '.join(waiting)}",
            "break the cycle in `after`",
        )


def _check_names(step: Step, steps: Mapping[str, Step]) -> None:
    for name in step.when.names if step.when else ():
        parts = name.split(".")
        if parts[0] == "incident" and name.removeprefix("incident.") not in INCIDENT_FACTS:
            raise SourceError(
                step.where,
                f"unknown name {name!r} in `when`",
                f"known: {', '.join(INCIDENT_FACTS)} after `incident.`",
            )
        if parts[0] == "steps" and parts[1] not in steps:
            raise SourceError(
                step.where, f"`when` names unknown step {parts[1]!r}", f"known: {', '.join(steps)}"
            )
        if parts[0] == "steps" and parts[1] not in _before(step, steps):
            raise SourceError(
                step.where,
                f"`when` of {step.id!r} reads {name!r}, and {parts[1]!r} need not be over by then",
                f"put {parts[1]!r} before {step.id!r} with `after`",
            )


def _before(step: Step, steps: Mapping[str, Step]) -> set[str]:
    """Ids of all steps that are over, directly or not, before a step is looked at."""
    found: set[str] = set()
    waiting = list(step.after)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += steps[name].after
    return found
