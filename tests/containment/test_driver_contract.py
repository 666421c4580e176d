"""What every driver promises, tried on each: real files, real processes, real containers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from firebreak.containment import docker_actions, filesystem, process, process_tree, service
from firebreak.containment.driver import Exposure, Mode, Receipt
from firebreak.containment.drivers import DRIVERS, driver_for
from firebreak.errors import ContainmentError
from firebreak.incidents.case import Case
from firebreak.inventory import Target


class CrashedError(Exception):
    """The worker died here."""


class FileSubject:
    """A model directory, as a target."""

    isolated = Exposure.UNPROVEN  # a copy proves nothing about who reads the original
    ended = Exposure.UNPROVEN
    serving = Exposure.UNPROVEN

    def __init__(self, root: Path) -> None:
        self.root = root
        self.target = Target(f"file://{root}")
        self.missing = Target(f"file://{root}-missing")

    def observe(self) -> Any:
        return sorted((p, p.stat().st_mtime_ns) for p in self.root.rglob("*"))

    def crash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        crash_at(monkeypatch, filesystem, "_write", 1)


class ProcessSubject:
    """A service with a worker process."""

    isolated = Exposure.CONTAINED
    ended = Exposure.GONE
    serving = Exposure.SERVING

    def __init__(self, served: Target, case: Case) -> None:
        self.target = served
        self.missing = Target(f"process://{served.rest}-missing")
        service.start(served, case)

    def observe(self) -> Any:
        return driver_for(self.target).probe(self.target).exposure

    def isolate_by_others(self) -> None:
        pid = int(Path(self.target.rest).read_text())
        psutil.Process(pid).suspend()
        one = process_tree.member(pid)
        assert one is not None
        assert one.wait_until("stopped")

    def crash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        crash_at(monkeypatch, process, "_signal", 1, before=False)


class DockerSubject:
    """Two containers of one label: one on two networks, one on the default bridge."""

    isolated = Exposure.CONTAINED
    ended = Exposure.CONTAINED
    serving = Exposure.SERVING

    def __init__(self, engine: Any) -> None:
        networks = [engine.network(), engine.network()]
        self.first = engine.run(network=networks[0].name, restart_policy={"Name": "always"})
        networks[1].connect(self.first, aliases=["chat"])
        self.second = engine.run()
        self.target = Target(engine.uri)
        self.missing = Target("docker://model=nothing-has-this-label")

    def observe(self) -> Any:
        found = []
        for one in (self.first, self.second):
            one.reload()
            ends = one.attrs["NetworkSettings"]["Networks"]
            networks = {n: sorted(e["Aliases"] or []) for n, e in ends.items()}
            found.append((one.status, networks, one.attrs["HostConfig"]["RestartPolicy"]["Name"]))
        return found

    def isolate_by_others(self) -> None:
        for one in (self.first, self.second):
            one.pause()

    def crash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        crash_at(monkeypatch, docker_actions, "_pause", 1, before=False)


def crash_at(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int, before: bool = True
) -> None:
    """Die at the n-th call of a function, before or after it did its work."""
    real, calls = getattr(module, name), [0]

    def dying(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and before:
            raise CrashedError
        result = real(*arguments)
        if calls[0] == call:
            raise CrashedError
        return result

    monkeypatch.setattr(module, name, dying)


DOCKER = pytest.param("docker", marks=pytest.mark.engine)


@pytest.fixture(params=["file", "process", DOCKER])
def subject(request: pytest.FixtureRequest, case: Case) -> Iterator[Any]:
    """One target of each scheme, in service."""
    if request.param == "file":
        yield FileSubject(request.getfixturevalue("model_tree"))
    elif request.param == "process":
        yield ProcessSubject(request.getfixturevalue("served"), case)
    else:
        yield DockerSubject(request.getfixturevalue("engine"))


def isolate(subject: Any, mode: Mode, case: Case) -> Receipt:
    """Isolate through the driver; the receipt as it comes back from the journal."""
    receipt = driver_for(subject.target).isolate(subject.target, mode, case)
    return Receipt.from_json(receipt.to_json())


def exposure(subject: Any) -> Exposure:
    """What the driver's probe sees."""
    return driver_for(subject.target).probe(subject.target).exposure


def test_a_plan_changes_nothing(subject, case):
    """Planning either mode leaves the target and the journal as they were."""
    before, entries = subject.observe(), len(case.entries())
    for mode in Mode:
        plan = driver_for(subject.target).plan(subject.target, mode, case)
        assert plan.actions
        assert bool(plan.destroys) == (mode is Mode.DESTRUCTIVE and subject.target.scheme != "file")
    assert (subject.observe(), len(case.entries())) == (before, entries)


@pytest.mark.parametrize("mode", list(Mode))
def test_isolating_twice_is_isolating_once(subject, case, mode):
    """The second isolation does nothing and says so; both receipts hold the same original state."""
    assert exposure(subject) is subject.serving
    first = isolate(subject, mode, case)
    seen = subject.observe()
    second = isolate(subject, mode, case)
    assert exposure(subject) is (subject.isolated if mode is Mode.REVERSIBLE else subject.ended)
    assert first.done
    assert second.done == ()
    assert second.undo == first.undo
    assert subject.observe() == seen


@pytest.mark.parametrize("modes", [[Mode.REVERSIBLE], [Mode.DESTRUCTIVE], list(Mode)])
def test_release_restores_what_was_before(subject, case, modes):
    """After isolation and release the target is as it was, and serves again."""
    before = subject.observe()
    receipts = [isolate(subject, mode, case) for mode in modes]
    driver_for(subject.target).release(subject.target, receipts, case)
    assert exposure(subject) is subject.serving
    assert subject.observe() == before


def test_releasing_twice_is_releasing_once(subject, case):
    """The second release does nothing."""
    receipts = [isolate(subject, Mode.REVERSIBLE, case)]
    driver = driver_for(subject.target)
    driver.release(subject.target, receipts, case)
    seen = subject.observe()
    assert driver.release(subject.target, receipts, case).done == ()
    assert subject.observe() == seen


@pytest.mark.parametrize("mode", list(Mode))
def test_a_crash_in_the_middle_loses_neither_the_end_nor_the_way_back(
    subject, case, monkeypatch, mode
):
    """A worker dies after the first action; the next one ends isolated and can still restore."""
    before = subject.observe()
    with monkeypatch.context() as patch:
        subject.crash(patch)
        with pytest.raises(CrashedError):
            isolate(subject, mode, case)
    receipt = isolate(subject, mode, case)
    assert exposure(subject) is (subject.isolated if mode is Mode.REVERSIBLE else subject.ended)
    driver_for(subject.target).release(subject.target, [receipt], case)
    assert subject.observe() == before


def test_a_crash_before_the_receipt_does_not_prevent_release(subject, case):
    """The receipt was lost with the worker: the journal alone is enough to restore."""
    before = subject.observe()
    isolate(subject, Mode.REVERSIBLE, case)
    driver_for(subject.target).release(subject.target, [], case)
    assert subject.observe() == before


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("subject", ["process", DOCKER], indirect=True)
def test_what_somebody_else_isolated_stays_isolated(subject, case, mode):
    """A target that was cut off before us is not brought back by our release."""
    subject.isolate_by_others()
    receipt = isolate(subject, mode, case)
    driver_for(subject.target).release(subject.target, [receipt], case)
    assert exposure(subject) in (Exposure.CONTAINED, Exposure.GONE)


@pytest.mark.parametrize("subject", ["process", DOCKER], indirect=True)
def test_isolated_again_after_a_release_remembers_the_new_state(subject, case):
    """A release closes the remembered state: what is isolated by others since stays so."""
    driver = driver_for(subject.target)
    first = isolate(subject, Mode.REVERSIBLE, case)
    driver.release(subject.target, [first], case)
    subject.isolate_by_others()
    second = isolate(subject, Mode.REVERSIBLE, case)
    driver.release(subject.target, [first, second], case)
    assert exposure(subject) is Exposure.CONTAINED


@pytest.mark.parametrize("mode", list(Mode))
def test_a_missing_target_is_gone_and_isolating_it_does_nothing(subject, case, mode):
    """Nothing there: no error, nothing done, the probe says GONE."""
    driver = driver_for(subject.missing)
    assert driver.plan(subject.missing, mode, case).destroys == ()
    assert driver.isolate(subject.missing, mode, case).done == ()
    assert driver.probe(subject.missing).exposure is Exposure.GONE
    assert driver.release(subject.missing, [], case).done == ()


def test_each_scheme_has_its_driver():
    """Drivers are found by their own scheme; an unknown one is named in the error."""
    assert all(scheme == driver.scheme for scheme, driver in DRIVERS.items())
    with pytest.raises(ContainmentError, match="kubernetes://"):
        driver_for(Target("kubernetes://ns/deployment/x"))
