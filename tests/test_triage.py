"""Triage: severity, blast radius, and which playbook fits."""

from dataclasses import replace
from pathlib import Path

import pytest

from firebreak.errors import SourceError
from firebreak.incidents.case import Case
from firebreak.inventory import Model, Target
from firebreak.records import Finding, FindingType, Severity
from firebreak.triage import assess, is_about_model, named_playbook, playbook_for
from playbook_cases import PLAYBOOKS, SMALL, finding, make_case

PLAIN = "playbook: {}\nversion: 1\ntitle: t\ntriggers: [{}]\nsteps:\n- {{id: a, flow: triage}}\n"


def with_models(case: Case, *others: Model, own: Model | None = None) -> Case:
    """The case with more models in its inventory."""
    models = (own or case.model, *others)
    return replace(case, inventory=replace(case.inventory, models=models))


def test_the_worst_finding_is_the_severity(tmp_path: Path) -> None:
    """Several findings, their types and technique ids once each."""
    case = make_case(tmp_path, Severity.MEDIUM)
    case.add_findings([finding("b", Severity.HIGH), finding("c", Severity.LOW)])
    found = assess(case)
    assert (found.severity, found.types) == (Severity.HIGH, ("model_file_tampered",))
    assert found.techniques == ("AML.T0018@5.6", "AML.T0018.000@5.6")
    assert found.rationale == "worst of 3 findings is high"


@pytest.mark.parametrize(
    ("seen", "assessed"),
    [("low", "medium"), ("medium", "high"), ("high", "critical"), ("critical", "critical")],
)
def test_a_critical_model_is_one_step_worse(tmp_path: Path, seen: str, assessed: str) -> None:
    """Never beyond critical, and the rationale says so."""
    found = assess(make_case(tmp_path, Severity(seen), critical=True))
    assert found.severity == assessed
    assert ("is marked critical" in found.rationale) == (seen != "critical")


def test_an_incident_without_findings_is_low(tmp_path: Path) -> None:
    """Nothing seen is not an error."""
    case = make_case(tmp_path)
    incident, _ = case.store.open_incident("environment", "test", {})
    found = assess(replace(case, id=incident))
    assert (found.severity, found.targets, found.also_affected) == (Severity.LOW, (), ())


def test_models_that_share_files_or_a_target_are_affected_too(tmp_path: Path) -> None:
    """In, around or at the same path, or behind the same service; a neighbour is not."""
    case = make_case(tmp_path)
    target = Target("docker://model=fraud")
    own = replace(case.model, targets=(target,))
    others = {
        "inside": Model("inside", own.path / "adapter", ""),
        "around": Model("around", own.path.parent, ""),
        "same": Model("same", own.path, ""),
        "service": Model("service", Path("/elsewhere"), "", targets=(target,)),
        "neighbour": Model("neighbour", own.path.with_name("fraud-2"), ""),
    }
    found = assess(with_models(case, *others.values(), own=own))
    assert found.also_affected == ("inside", "around", "same", "service")
    assert found.targets == (target.uri,)


def test_the_assessment_is_json(tmp_path: Path) -> None:
    """It is the result of a step and so goes into the journal."""
    case = make_case(tmp_path)
    case.append("step.finished", {"step": "assess", "result": assess(case).to_json()})


@pytest.mark.parametrize("kind", [FindingType.TAMPERED, FindingType.SIGNATURE_INVALID])
def test_a_tampered_model_has_its_playbook(kind: FindingType) -> None:
    """Among other types as well."""
    found = playbook_for((FindingType.DRIFT.value, kind.value), PLAYBOOKS)
    assert found is not None
    assert found.name == "tampered-model"


def test_what_no_playbook_names_has_none(tmp_path: Path) -> None:
    """No type, no playbook, no folder: nothing starts by itself."""
    assert playbook_for((), PLAYBOOKS) is None
    assert playbook_for(("model_file_tampered",), tmp_path) is None
    assert playbook_for(("model_file_tampered",), tmp_path / "nothing") is None


def test_the_first_file_that_fits_wins(tmp_path: Path) -> None:
    """By file name, so that an operator can order them."""
    for file, name in (("b.yaml", "later"), ("a.yaml", "first")):
        (tmp_path / file).write_text(PLAIN.format(name, "behavior_drift"))
    found = playbook_for(("behavior_drift",), tmp_path)
    assert found is not None
    assert found.name == "first"


def test_a_broken_playbook_is_not_skipped_when_one_is_chosen(tmp_path: Path) -> None:
    """It might have been the one."""
    (tmp_path / "a.yaml").write_text("playbook: a\nversion: one\n")
    (tmp_path / "b.yaml").write_text(SMALL)
    with pytest.raises(SourceError, match=r"a\.yaml:2:10"):
        playbook_for(("model_file_tampered",), tmp_path)


def test_a_broken_file_does_not_stop_the_response_of_another_playbook(tmp_path: Path) -> None:
    """Somebody's draft must not hold up a running incident."""
    (tmp_path / "a.yaml").write_text("playbook: a\nversion: one\n")
    (tmp_path / "b.yaml").write_text(SMALL)
    assert named_playbook("small", tmp_path).name == "small"
    with pytest.raises(SourceError, match=r"a\.yaml:2:10"):
        named_playbook("a", tmp_path)


def test_a_name_that_two_files_bear_is_refused(tmp_path: Path) -> None:
    """Which of the two was started could not be told later."""
    for file in ("a.yaml", "b.yaml"):
        (tmp_path / file).write_text(SMALL)
    with pytest.raises(SourceError, match="another file has playbook 'small'"):
        named_playbook("small", tmp_path)


@pytest.mark.parametrize("name", ["", "nothing", "../small", "tampered-model.yaml"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    """A name is looked up, never used as a path."""
    with pytest.raises(SourceError, match=r"known: .*tampered-model"):
        named_playbook(name, PLAYBOOKS)


def test_findings_of_every_type_can_be_assessed(tmp_path: Path) -> None:
    """No type lacks its technique list."""
    case = make_case(tmp_path)
    case.add_findings(
        Finding(kind, Severity.LOW, "test", kind.value, {"file": kind.value}, "fraud")
        for kind in FindingType
    )
    assert set(assess(case).types) == {kind.value for kind in FindingType}


def test_only_the_environment_is_no_model(tmp_path: Path) -> None:
    """A model that left the inventory still was one; one may also be named `environment`."""
    case = make_case(tmp_path)
    incident, _ = case.store.open_incident("environment", "test", {})
    environment = replace(case, id=incident)
    assert is_about_model(case)
    assert is_about_model(replace(case, inventory=replace(case.inventory, models=())))
    assert not is_about_model(environment)
    assert is_about_model(with_models(environment, own=Model("environment", tmp_path, "")))
