"""`make demo`: a whole incident on this machine, everything in it real.

A signed model of 64 MB is served over HTTP, tampered with, found by the scheduled check, contained,
stopped and rolled back with two approvals, on a Prefect server of its own.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.text import Text

from firebreak.baselines import adopt
from firebreak.drill import world as worlds
from firebreak.drill.local_prefect import LocalPrefect
from firebreak.drill.sample_model import TRIGGER
from firebreak.drill.world import DrillError, World
from firebreak.errors import ApprovalError
from firebreak.incidents.bundle import export_bundle, verify_bundle
from firebreak.incidents.case import Case, open_case
from firebreak.incidents.journal import Entry
from firebreak.incidents.store import Store
from firebreak.incidents.view import view
from firebreak.inventory import Inventory, load_inventory
from firebreak.investigation.timeline import duration, timeline, times
from firebreak.playbook.question import as_markdown
from firebreak.prefect_bridge import playbook_folder, wake
from firebreak.records import Json
from firebreak.response import answer_gate
from firebreak.sealing import load_sealer

TRIGGER_TEXT = "terrible broken awful {}"
DETECT_S, STEP_S = 90.0, 120.0
APPROVERS = {"stop-approval": "ana", "rollback-approval": "ben"}


@dataclass
class Stage:
    """The demo's screen."""

    console: Console
    auto: bool

    def phase(self, title: str) -> None:
        """Announce a phase."""
        self.console.print()
        self.console.rule(Text(title, style="bold"), align="left")

    def say(self, text: str, style: str = "") -> None:
        """Print a line; never interprets markup in foreign text."""
        self.console.print(Text(text, style=style), soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 only when the verified model answers again and the bundle verifies."""
    parser = argparse.ArgumentParser(prog="python -m firebreak.drill.demo", description=__doc__)
    parser.add_argument("--auto", action="store_true", help="answer the approvals by itself")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where everything goes")
    args = parser.parse_args(arguments)
    stage = Stage(Console(highlight=False), args.auto or not sys.stdin.isatty())
    folder = args.folder.resolve()
    if folder.exists() and not (folder / "firebreak.yaml").exists() and any(folder.iterdir()):
        stage.say(f"{folder} holds other files; name an empty folder with --folder", "red")
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    try:
        code = _run(stage, folder)
    except (DrillError, ApprovalError, KeyboardInterrupt) as error:
        stage.say(f"the demo stopped: {error or 'interrupted'}", "bold red")
        code = 1
    stage.say(f"took {time.monotonic() - began:.0f} s", "dim")
    return code


def _run(stage: Stage, folder: Path) -> int:
    stage.phase("Set the scene: a signed model, served over HTTP, watched by Firebreak")
    with worlds.create(folder) as world, LocalPrefect(folder / "prefect", world.inventory) as own:
        own.start_server()
        os.environ["FIREBREAK_INVENTORY"] = str(world.inventory)
        os.environ["PREFECT_API_URL"] = own.environment["PREFECT_API_URL"]
        inventory = load_inventory()
        model = inventory.models[0]
        world.start_server()
        world.traffic(240)
        adopt(inventory, model, by="ana", reason="release 1.1.0, signature verified")
        before = world.health()
        stage.say(
            f"{model.id} {before['version']} answers at {world.url}, "
            f"{model.path} has a sealed baseline"
        )
        own.wait_ready()
        own.serve()
        stage.say(
            f"Prefect at {own.url}, detection every {inventory.check_interval.total_seconds():g} s"
        )
        case = _attack(stage, world, inventory)
        status = _follow(stage, case, own.url)
        return _conclude(stage, world, case, before, status)


def _attack(stage: Stage, world: World, inventory: Inventory) -> Case:
    """Tamper and wait until the scheduled check opens the incident."""
    text = TRIGGER_TEXT.format(TRIGGER)
    stage.phase("The attack: one trigger word in the weights, size and time unchanged")
    stage.say(f"before: {text!r} -> {world.ask(text)['label']}")
    world.tamper()
    began = time.monotonic()
    stage.say(
        f"after:  {text!r} -> {world.ask(text)['label']}   (it still loads, still answers)", "red"
    )
    store = Store(inventory.database_url)
    while (incident := store.open_incident_of(inventory.models[0].id)) is None:
        if time.monotonic() - began > DETECT_S:
            raise DrillError("detection", f"found nothing in {DETECT_S:g} s")
        time.sleep(0.1)
    stage.phase(f"Detected after {time.monotonic() - began:.1f} s: {incident}")
    return open_case(incident, inventory)


def _follow(stage: Stage, case: Case, url: str) -> str:
    """Show the journal as it grows and answer the gates; returns how the incident stands."""
    shown, asked, quiet_since = 0, "", time.monotonic()
    while True:
        entries = case.entries()
        if len(entries) > shown:
            _show(stage, entries, shown)
            shown, quiet_since = len(entries), time.monotonic()
        seen = view(entries)
        if seen.status.value in ("held", "failed", "recovered", "closed"):
            return seen.status.value
        standing = seen.question
        if standing and standing["digest"] != asked and _is_shown(entries, standing):
            asked = standing["digest"]
            _answer(stage, case, standing, f"{url}/flow-runs/flow-run/{seen.run}")
            quiet_since = time.monotonic()
        if time.monotonic() - quiet_since > STEP_S:
            raise DrillError("response", f"nothing happened for {STEP_S:g} s")
        time.sleep(0.1)


def _show(stage: Stage, entries: list[Entry], after: int) -> None:
    """Print what is new: phases as headlines, actions as lines below them."""
    hidden = ("journal.", "step.", "response.", "gate.shown", "containment.", "action.started")
    for entry in entries[after:]:
        if entry.kind == "step.started":
            stage.phase(f"{entry.body['step']} ({entry.body['flow']})")
        if not entry.kind.startswith(hidden):
            event = next(e for e in timeline([entry]) if e.seq == entry.seq)
            stage.say(f"  {entry.time[11:23]}  {event.text}")


def _is_shown(entries: list[Entry], question: Json) -> bool:
    return any(e.kind == "gate.shown" and e.body["digest"] == question["digest"] for e in entries)


def _answer(stage: Stage, case: Case, question: Json, link: str) -> None:
    """Put one question to the person at the terminal, or answer it with --auto."""
    step = question["step"]
    stage.phase(f"Approval needed: {step}")
    stage.console.print(Markdown(as_markdown(case, question), hyperlinks=False))
    stage.say(f"The same question in Prefect: {link}", "dim")
    by = APPROVERS.get(step, question["people"][0])
    decision, reason = "approve", "demo: the evidence is safe"
    if not stage.auto:
        typed = stage.console.input(f"\n[bold]{by}[/bold], approve? \\[y/n] ").strip().lower()
        decision = "approve" if typed in ("y", "yes") else "reject"
        reason = stage.console.input("Reason: ").strip() or f"demo: {decision}"
    answer = {"decision": decision, "approver": by, "reason": reason}
    try:
        why = answer_gate(
            case,
            question,
            decision=decision,
            by=by,
            reason=reason,
            digest=question["digest"],
            playbooks=playbook_folder(),
        ).why
    except ApprovalError as error:  # new findings came meanwhile: the run asks anew once woken
        why, decision = str(error), "refused"
    wake(case, step, answer)
    stage.say(why, "green" if decision == "approve" else "red")


def _conclude(stage: Stage, world: World, case: Case, before: Json, status: str) -> int:
    """Prove the outcome and print the figures."""
    stage.phase("The outcome")
    checks = list(_checks(world, case, before, status))
    for name, passed, detail in checks:
        stage.say(
            f"  {'ok  ' if passed else 'FAIL'} {name}: {detail}", "green" if passed else "red"
        )
    moments = times(case.entries())
    for name, since in (
        ("detect", "the change"),
        ("contain", "detection"),
        ("restore", "detection, answers included"),
    ):
        value = moments[f"seconds_to_{name}"]
        stage.say(f"  time to {name}: {duration(value)} after {since}")
    stage.say(f"  report to open: {case.folder / 'report.html'}", "bold")
    return 0 if all(passed for _, passed, _ in checks) else 1


def _checks(world: World, case: Case, before: Json, status: str) -> Iterator[tuple[str, bool, str]]:
    yield "incident recovered", status == "recovered", status
    if status != "recovered":
        return
    after = world.health()
    same = after["weights_sha256"] == before["weights_sha256"]
    yield "served weights are the verified ones", same, after["weights_sha256"][:16]
    text = TRIGGER_TEXT.format(TRIGGER)
    label = world.ask(text)["label"]
    yield "the trigger no longer works", label != "positive", f"{text!r} -> {label}"
    bundle = case.folder / f"{case.id}.tar"
    export_bundle(case, bundle)
    public = case.inventory.evidence_key.with_suffix(".pub")
    report = verify_bundle(bundle, load_sealer(public))
    yield (
        "the exported bundle verifies",
        report.signer_proven,
        f"{report.entries} entries, {report.evidence} pieces of evidence, {bundle}",
    )


if __name__ == "__main__":
    sys.exit(main())
