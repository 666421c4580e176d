"""The rollback sequence: only what was approved, only once, and proven where it is served."""

import shutil
from dataclasses import replace

import pytest
from recovery_world import contents, snapshot

from firebreak.checks.manifest import load_baseline
from firebreak.containment import drivers
from firebreak.containment.driver import Exposure, Probe
from firebreak.detection import detect
from firebreak.errors import NoKnownGoodError, RestoreError
from firebreak.incidents.case import working_on
from firebreak.incidents.store import Store
from firebreak.inventory import Target
from firebreak.recovery import rollback
from firebreak.recovery.rollback import judge, rebaseline, roll_back, verify_served


class Killed(BaseException):
    """The process is gone."""


class Service:
    """A service whose exposure a test sets."""

    scheme = "lab"

    def __init__(self):
        self.exposure = Exposure.SERVING

    def probe(self, target):
        return Probe(target.uri, self.exposure, "503")


@pytest.fixture
def service(monkeypatch):
    """The driver of `lab://`."""
    made = Service()
    monkeypatch.setitem(drivers.DRIVERS, "lab", made)
    return made


@pytest.fixture
def case(attacked):
    """The incident of the attacked model, inside its recovery step."""
    with working_on("rollback"):
        yield attacked.case()


def with_target(case, uri="lab://chat"):
    """The same case, whose model is also served."""
    model = replace(case.model, targets=(Target(uri), Target(f"file://{case.model.path}")))
    return replace(case, inventory=replace(case.inventory, models=(model,)))


def actions(case, kind="action.finished"):
    """Names of the journaled actions."""
    return [e.body["action"] for e in case.entries() if e.kind == kind]


def test_the_newest_release_that_is_not_the_poison_is_named(case):
    """1.2 was deployed and changed; its pristine copy in the archive may be restored."""
    found = judge(case)
    assert (found["candidate"]["version"], found["problem"]) == ("1.2", "")
    assert [c["version"] for c in found["candidates"]] == ["1.2", "1.1"]
    assert [c["verdict"] for c in found["candidates"]] == ["verified", "verified"]


def test_the_approved_version_is_restored_and_proven(attacked, case):
    """Judge, restore, verify, seal: each journaled once, and the next check finds nothing."""
    approved = judge(case)["candidate"]
    receipt = roll_back(case, approved)
    verify_served(case)
    rebaseline(case, receipt["version"])
    assert contents(attacked.model.path) == contents(attacked.archive / "1.2")
    assert actions(case) == ["restore", "verify-served", "rebaseline"]
    assert (case.folder / "compromised").exists()
    assert detect(case.inventory, ["demo"]).findings == ()


def test_the_baseline_says_who_approved(attacked, case):
    """Of the gate before the rollback, not of an earlier one."""
    for step, by in (("stop-approval", "ana"), ("rollback-approval", "bob")):
        body = {"step": step, "decision": "approve", "approver": by, "digest": step}
        case.append("gate.answered", {**body, "reason": "why", "via": by})
    roll_back(case, judge(case)["candidate"])
    verify_served(case)
    rebaseline(case, "1.2")
    baseline = load_baseline(case.inventory, "demo")
    assert baseline.reason.endswith("approved by bob")
    assert (baseline.version, baseline.by) == ("1.2", "firebreak")


@pytest.mark.parametrize("approved", [None, {}, {"version": "1.2"}, "older", "forged"])
def test_only_the_approved_version_is_restored(attacked, case, approved):
    """The archive offers another one than people said yes to: nothing is changed."""
    offered = judge(case)["candidate"]
    if approved == "older":
        approved = {**offered, "version": "1.1"}
    elif approved == "forged":
        approved = {**offered, "manifest_sha256": "0" * 64}
    before = snapshot(attacked.model.path)
    with pytest.raises(RestoreError, match="nothing was changed"):
        roll_back(case, approved)
    assert (snapshot(attacked.model.path), actions(case, "action.started")) == (before, [])


def test_a_release_published_after_the_approval_is_not_slipped_in(attacked, case):
    """Newer and validly signed, yet nobody approved it."""
    approved = judge(case)["candidate"]
    attacked.publish("1.3")
    before = snapshot(attacked.model.path)
    with pytest.raises(RestoreError, match=r"1\.3"):
        roll_back(case, approved)
    assert snapshot(attacked.model.path) == before


def test_a_release_changed_after_the_approval_is_not_restored(attacked, case):
    """It does not verify any more; the older one was not approved."""
    approved = judge(case)["candidate"]
    (attacked.archive / "1.2" / "weights.safetensors").write_bytes(b"poison too")
    before = snapshot(attacked.model.path)
    with pytest.raises(RestoreError, match=r"1\.1"):
        roll_back(case, approved)
    assert snapshot(attacked.model.path) == before


@pytest.mark.parametrize("archive", ["empty", "gone", "unsigned"])
def test_without_a_verified_version_nothing_is_changed(attacked, case, archive):
    """The error explains each candidate."""
    approved = judge(case)["candidate"]
    shutil.rmtree(attacked.archive)
    if archive != "gone":
        attacked.archive.mkdir()
    if archive == "unsigned":
        attacked.publish("1.2", sign=False)
    assert judge(case)["candidate"] is None
    before = snapshot(attacked.model.path)
    with pytest.raises(NoKnownGoodError):
        roll_back(case, approved)
    assert (snapshot(attacked.model.path), actions(case, "action.started")) == (before, [])


def test_the_compromised_content_is_never_the_cure(world):
    """Signed poison in the archive: what lies in the model's place is not put there again."""
    world.publish("1.1")
    shutil.copytree(world.publish("1.2"), world.model.path)
    found = judge(world.case())
    assert found["candidate"]["version"] == "1.1"
    assert "compromised content" in found["candidates"][0]["reasons"][0]


@pytest.mark.parametrize("committed", [False, True], ids=["lost", "written"])
def test_killed_at_any_entry_the_rollback_is_completed(attacked, tmp_path, committed):
    """Also right after the exchange, when the good version lies where the poison was."""
    for number in range(1, 40):
        world = _copy_of(attacked, tmp_path / f"{committed}-{number}")
        with working_on("rollback"):
            case = world.case()
            approved = judge(case)["candidate"]
            finished = _killed_at(number, committed, lambda: _all(case, approved))  # noqa: B023
            _all(case, approved)
        assert contents(world.model.path) == contents(world.archive / "1.2"), number
        assert actions(case) == ["restore", "verify-served", "rebaseline"], number
        kept = [p.name for p in (case.folder / "compromised").iterdir()]
        assert kept == ["demo"], number
        assert detect(case.inventory, ["demo"]).findings == (), number
        if finished:
            break
    assert number > 6


def _all(case, approved):
    receipt = roll_back(case, approved)
    verify_served(case)
    rebaseline(case, receipt["version"])


def _killed_at(number, committed, work):
    """Whether the work ended before the n-th append."""
    real, count = Store.append, [0]

    def append(self, *args, **more):
        count[0] += 1
        if count[0] == number and not committed:
            raise Killed
        entry = real(self, *args, **more)
        if count[0] == number:
            raise Killed
        return entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "append", append)
        try:
            work()
        except Killed:
            return False
    return True


def _copy_of(world, root):
    shutil.copytree(world.root, root, symlinks=True)
    model = replace(world.model, path=root / "models" / "demo", archive=root / "archive")
    inventory = replace(
        world.inventory,
        home=root / "home",
        database_url=f"sqlite:///{root / 'home' / 'firebreak.db'}",
        models=(model,),
    )
    store = Store(inventory.database_url)
    return replace(world, root=root, model=model, inventory=inventory, store=store)


def test_restored_once_the_archive_is_not_asked_again(attacked, case):
    """The receipt is the answer, also when the archive is gone meanwhile."""
    approved = judge(case)["candidate"]
    receipt = roll_back(case, approved)
    shutil.rmtree(attacked.archive)
    assert roll_back(case, approved) == receipt


def test_an_earlier_restoring_is_no_answer_to_another_approval(attacked, case):
    """1.2 was restored, people then approve 1.1: its receipt must not be the old one."""
    roll_back(case, judge(case)["candidate"])
    other = next(c for c in judge(case)["candidates"] if c["version"] == "1.1")
    approved = {k: other[k] for k in ("version", "manifest_sha256")}
    with working_on("second-rollback"):
        receipt = roll_back(case, approved)
    assert receipt["version"] == "1.1"
    assert contents(attacked.model.path) == contents(attacked.archive / "1.1")


@pytest.mark.parametrize("exposure", [Exposure.GONE, Exposure.CONTAINED])
def test_a_service_that_does_not_serve_is_no_recovery(case, service, exposure):
    """The error names the target and what was seen."""
    case = with_target(case)
    roll_back(case, judge(case)["candidate"])
    service.exposure = exposure
    with pytest.raises(RestoreError, match="lab://chat does not serve: 503"):
        verify_served(case)
    service.exposure = Exposure.SERVING
    assert verify_served(case)["unproven"] == []


def test_what_cannot_be_proven_is_said_and_not_claimed(case, service):
    """A service without a probe is listed as unproven."""
    case = with_target(case)
    roll_back(case, judge(case)["candidate"])
    service.exposure = Exposure.UNPROVEN
    assert verify_served(case)["unproven"] == ["lab://chat"]


def test_tampered_with_after_the_swap_is_no_recovery(attacked, case):
    """The files are verified where they are served, not where they came from."""
    roll_back(case, judge(case)["candidate"])
    (attacked.model.path / "weights.safetensors").write_bytes(b"poison")
    with pytest.raises(RestoreError, match="after the swap: tampered"):
        verify_served(case)


def test_another_signed_version_in_place_is_no_recovery(attacked, case):
    """Somebody put the older release there: validly signed, and not what was approved."""
    roll_back(case, judge(case)["candidate"])
    shutil.rmtree(attacked.model.path)
    shutil.copytree(attacked.archive / "1.1", attacked.model.path)
    with pytest.raises(RestoreError, match="restored was manifest"):
        verify_served(case)


def test_files_changed_after_the_verification_become_no_baseline(attacked, case):
    """Else the poison would be what every later check compares with."""
    roll_back(case, judge(case)["candidate"])
    verify_served(case)
    (attacked.model.path / "weights.safetensors").write_bytes(b"poison")
    with pytest.raises(RestoreError, match="no baseline was made"):
        rebaseline(case, "1.2")
    assert load_baseline(case.inventory, "demo") is None


def test_nothing_is_sealed_that_was_not_verified(case):
    """The order of the sequence is not left to its caller."""
    roll_back(case, judge(case)["candidate"])
    with pytest.raises(RestoreError, match="no baseline was made"):
        rebaseline(case, "1.2")
    assert rollback.REBASELINE not in actions(case)
