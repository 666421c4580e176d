"""The order, the budget and the failures of a capture."""

import dataclasses

import pytest

from firebreak.evidence import environment, files, processes, sockets
from firebreak.evidence.capture import capture
from firebreak.incidents.case import working_on
from firebreak.inventory import Target


def bodies(case, kind):
    """The bodies of the journal's entries of one kind."""
    return [e.body for e in case.entries() if e.kind == kind]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """This machine's processes and sockets are another test's subject."""
    monkeypatch.setattr(processes, "snapshot", lambda _=None: {"processes": []})
    monkeypatch.setattr(sockets, "snapshot", lambda: {"namespaces": []})


def test_the_most_volatile_comes_first_and_each_once(case):
    """Processes, sockets, packages, signature, files; a second capture takes nothing again."""
    (case.model.path / "model.sig").write_text("sig")
    expected = ["processes", "sockets", "packages", "signature", "files"]
    assert capture(case, case.model) == expected
    assert [b["class"] for b in bodies(case, "evidence.collected")] == expected
    assert capture(case, case.model) == expected
    assert len(bodies(case, "evidence.collected")) == len(expected)
    with working_on("later"):
        capture(case, case.model)
    assert len(bodies(case, "evidence.collected")) == 2 * len(expected)


def test_an_unsigned_model_has_no_signature_class(case):
    """A class without a blob is not captured."""
    assert "signature" not in capture(case, case.model)
    assert bodies(case, "evidence.warning")


def test_one_failing_collector_does_not_stop_the_others(case, monkeypatch):
    """The failure is journaled with its class, secrets masked, and can be retried."""
    with monkeypatch.context() as patch:
        patch.setattr(sockets, "snapshot", lambda: 1 / 0)
        patch.setattr(environment, "snapshot", fail_with_a_secret)
        assert capture(case, case.model) == ["processes", "files"]
    failed = bodies(case, "evidence.failed")
    assert [(b["class"], b["name"]) for b in failed] == [
        ("sockets", "sockets.json"),
        ("packages", "packages.json"),
    ]
    assert "ZeroDivisionError" in failed[0]["error"]
    assert "hunter2" not in failed[1]["error"]
    assert "sockets" in capture(case, case.model)


def fail_with_a_secret(_):
    raise OSError("cannot reach https://user:hunter2@hub/x")


def test_what_the_budget_leaves_no_time_for_is_journaled(case):
    """Nothing is silently missing."""
    assert capture(case, case.model, budget_s=-1.0) == []
    failed = bodies(case, "evidence.failed")
    assert [b["class"] for b in failed] == [
        "processes",
        "sockets",
        "packages",
        "signature",
        "files",
    ]
    assert all("budget of -1 s" in b["error"] for b in failed)


def test_hashing_a_large_model_is_broken_off_in_time(case, monkeypatch):
    """The budget ends inside the hashing of one file."""
    moments = iter([0.0, 0, 0, 0, 0, 0, 5.0, 5.0, 5.0, 5.0])
    monkeypatch.setattr("firebreak.evidence.capture.time.monotonic", lambda: next(moments, 5.0))
    assert "files" not in capture(case, case.model, budget_s=1.0)
    assert bodies(case, "evidence.failed")[-1]["class"] == "files"


def test_progress_is_passed_on(case):
    """The caller's progress bar gets the bytes hashed."""
    seen = []
    capture(case, case.model, seen.append)
    assert sum(seen) == len(b"weights")


def test_an_environment_incident_has_no_model_to_capture(case):
    """Processes, sockets and packages are all there is."""
    assert capture(case, None) == ["processes", "sockets", "packages"]


def test_a_missing_model_and_engine_are_journaled(case, monkeypatch, tmp_path):
    """The engine does not answer, the model is gone: the rest is still captured."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    model = dataclasses.replace(
        case.model, path=tmp_path / "gone", targets=(Target("docker://model=chat"),)
    )
    assert capture(case, model) == ["processes", "sockets", "packages"]
    failed = [b["class"] for b in bodies(case, "evidence.failed")]
    assert failed == ["filesystem", "files"]


def test_files_are_listed_with_the_real_collector(case):
    """The blob is the list that `file_list` makes."""
    capture(case, case.model)
    (body,) = [b for b in bodies(case, "evidence.collected") if b["class"] == "files"]
    assert b"weights.bin" in case.blobs.get(body["sha256"])
    assert files.file_list(case.model.path)["size"] == 7
