"""`firebreak detect`, once and as a daemon."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from firebreak.cli import detect as command
from firebreak.communication import alerts
from firebreak.errors import ServerError
from firebreak.incidents.store import Store


def test_a_clean_check_exits_0(cli, world):
    """Nothing on standard error, and the JSON says that there is no incident."""
    world.baseline()
    ran = cli("detect")
    assert (ran.code, ran.out, ran.err) == (0, "clean: nothing differs\n", "")
    summary = cli("detect", "--json").data
    assert (summary["incident_detected"], summary["started"]) == (False, [])


def test_findings_exit_1_and_open_an_incident(cli, world):
    """The table has severity, type and what; the incident is named."""
    world.baseline()
    (world.chat / "weights.safetensors").write_text("evil")
    ran = cli("detect")
    incident = Store(world.inventory.database_url).open_incident_of("chat")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        "critical\tmodel_file_tampered\tchat: weights.safetensors differs from its baseline",
        f"opened {incident} (chat)",
    ]
    again = cli("detect", "--json")
    assert again.code == 1
    assert again.data["incidents"] == [
        {"id": incident, "subject": "chat", "opened": False, "new_findings": 0}
    ]


def test_a_hostile_file_name_is_one_harmless_line(cli, world):
    """It neither clears the screen nor forges a row; the fixture refuses escape codes."""
    world.baseline()
    (world.chat / "x\x1b[2J\ncritical\tfake\trow").write_text("x")
    ran = cli("detect")
    assert len(ran.out.splitlines()) == 2
    assert r"x\x1b[2J\ncritical\tfake\trow is not in the baseline" in ran.out
    assert cli("detect", "--json").data["findings"]


def test_an_unknown_model_lists_the_known_ones(cli):
    """Exit 2 at once, with --watch too: waiting makes no id right."""
    for more in ((), ("--watch",)):
        ran = cli("detect", "nosuch", *more)
        assert ran.code == 2
        assert "unknown model 'nosuch'; the inventory lists: chat, fraud" in ran.err


def test_a_missing_model_path_is_named_with_its_place(cli, world):
    """Exit 2 with file, line and column; what else was found stands beside it."""
    world.baseline("fraud")
    (world.fraud / "payload.py").write_text("x")
    shutil.rmtree(world.chat)
    ran = cli("detect", "--json")
    assert ran.code == 2
    error = json.loads(ran.err)
    assert error["error"].startswith(f"{world.file}:6:11: model path")
    assert "1 new findings in INC-" in error["notes"][0]
    assert [f["evidence"]["file"] for f in ran.data["findings"]] == ["payload.py"]
    again = cli("detect")
    assert "also: 0 new findings" in again.err
    assert "payload.py" in again.out


def test_a_server_that_is_away_hides_no_finding(cli, world, monkeypatch):
    """The findings are printed, then the error: exit 2, and both streams are JSON."""

    def away(*_arguments):
        raise ServerError("http://127.0.0.1:1", "cannot be reached")

    monkeypatch.setattr(command, "_start", away)
    world.baseline()
    (world.chat / "payload.py").write_text("x")
    ran = cli("detect", "--json")
    assert ran.code == 2
    assert ran.data["total_findings"] == 1
    assert "cannot be reached" in json.loads(ran.err)["error"]


def corrupt_journals(world):
    with sqlite3.connect(world.inventory.home / "firebreak.db") as db:
        db.execute("update entries set entry = '{' where seq = 1")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_corrupt_journal_hides_no_finding_and_no_alert(cli, world, monkeypatch, as_json):
    """The new finding is printed and alerted, then the journal's error: exit 2."""
    alerted = []
    monkeypatch.setattr(alerts, "alert", lambda _channel, finding: alerted.append(finding.message))
    add_webhook(world)
    world.baseline()
    (world.chat / "payload.py").write_text("x")
    cli("detect")
    corrupt_journals(world)
    (world.chat / "weights.safetensors").write_text("evil")
    ran = cli("detect", *(["--json"] if as_json else []))
    assert ran.code == 2
    assert "weights.safetensors differs" in ran.out
    assert "journal of INC-" in ran.err
    assert alerted == ["chat: weights.safetensors differs from its baseline"]
    if as_json:
        assert (ran.data["incident_detected"], ran.data["unrecorded_findings"]) == (True, 2)
        assert "journal of INC-" in ran.data["errors"][0]


def add_webhook(world):
    world.file.write_text(
        world.file.read_text()
        + "channels:\n  - {id: hook, kind: webhook, url: 'http://127.0.0.1:9/'}\n"
    )


def test_responses_start_before_anything_is_printed_or_alerted(cli, world, monkeypatch):
    """Neither a reader that has gone nor a receiver that hangs delays a response."""
    order = []
    add_webhook(world)
    monkeypatch.setattr(command, "_start", lambda *_: order.append("start"))
    monkeypatch.setattr(command, "print_summary", lambda *_: order.append("print"))
    monkeypatch.setattr(alerts, "alert", lambda *_: order.append("alert"))
    world.baseline()
    (world.chat / "weights.safetensors").write_text("evil")
    assert cli("detect").code == 1
    assert order == ["start", "print", "alert"]


def test_a_watch_whose_reader_has_gone_keeps_watching(world):
    """As with `| head -1`: later findings still open an incident, and nothing dies."""
    world.baseline()
    daemon = watch(world)
    try:
        assert "watching 2 models" in daemon.stdout.readline()
        daemon.stdout.close()
        (world.chat / "payload.py").write_text("x")
        store, deadline = Store(world.inventory.database_url), time.monotonic() + 20
        while store.open_incident_of("chat") is None and time.monotonic() < deadline:
            time.sleep(0.1)
        (world.fraud / "payload.py").write_text("x")
        while store.open_incident_of("fraud") is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert store.open_incident_of("fraud") is not None
        daemon.terminate()
        assert daemon.wait(timeout=20) == 0
        assert daemon.stderr.read() == ""
    finally:
        daemon.kill()


def watch(world, *arguments: str) -> "subprocess.Popen[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    return subprocess.Popen(
        [sys.executable, "-m", "firebreak.cli", "detect", "--watch", *arguments],
        cwd=world.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_says_at_once_what_it_sees_and_stops_cleanly(world, number):
    """In a pipe its lines are not held back; a signal ends it with exit 0 and its counters."""
    world.baseline()
    daemon = watch(world)
    try:
        assert daemon.stdout.readline() == (
            "watching 2 models every 1 s; stop with SIGTERM or Ctrl-C\n"
        )
        assert daemon.stdout.readline() == "clean: nothing differs\n"
        (world.chat / "payload.py").write_text("x")
        assert "payload.py" in next(line for line in daemon.stdout if line.startswith("high"))
        daemon.send_signal(number)
        out, err = daemon.communicate(timeout=20)
    finally:
        daemon.kill()
    assert (daemon.returncode, err) == (0, "")
    counters = dict(part.split() for part in out.splitlines()[-1].split(", "))
    assert int(counters["checks"]) >= 2
    assert int(counters["findings"]) >= 1
    assert counters["errors"] == "0"


def test_the_daemon_speaks_json_lines_and_survives_an_inventory_broken_meanwhile(world):
    """One JSON document per line on both streams; an error is counted and backed off from."""
    world.baseline()
    daemon = watch(world, "--json")
    try:
        assert json.loads(daemon.stdout.readline())["total_findings"] == 0
        world.file.write_text("firebreak: [")
        error = json.loads(daemon.stderr.readline())
        before = time.monotonic()
        daemon.terminate()
        out, _ = daemon.communicate(timeout=20)
    finally:
        daemon.kill()
    assert "not valid YAML" in error["error"]
    assert daemon.returncode == 0
    assert time.monotonic() - before < 10
    assert json.loads(out.splitlines()[-1])["errors"] == 1
