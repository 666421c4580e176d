"""Stopping, ending and starting real processes; hostile pid files."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from firebreak.containment import process_tree, service
from firebreak.containment.driver import Exposure, Mode
from firebreak.containment.process import ProcessDriver
from firebreak.containment.process_tree import Member, member, read_pid_file
from firebreak.errors import ContainmentError
from firebreak.inventory import Target

DRIVER = ProcessDriver()
WAIT = "import signal\nprint('up', flush=True)\nwhile True: signal.pause()"
FARM = """
import os, signal, sys, time
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0: pass
        while True: signal.pause()
time.sleep(0.1)
print('up', flush=True)
while True: signal.pause()
"""
FAREWELL = """
import pathlib, signal, sys
def bye(*_): pathlib.Path(sys.argv[1]).write_text('ran again'); sys.exit()
signal.signal(signal.SIGTERM, bye)
signal.signal(signal.SIGCONT, bye)
print('up', flush=True)
while True: signal.pause()
"""


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """A target without `start`."""
    return Target(f"process://{tmp_path / 'x.pid'}")


@pytest.fixture
def run(spawn, target):
    """Starts code whose pid the target's pid file then holds, once it printed its first line."""

    def start(code: str, *arguments: str) -> Member:
        child = spawn(code, *arguments)
        child.stdout.readline()
        Path(target.rest).write_text(f"{child.pid}\n")
        found = member(child.pid)
        assert found is not None
        return found

    return start


def probe(target: Target) -> Exposure:
    return DRIVER.probe(target).exposure


def test_all_descendants_are_stopped_and_continued(case, target, run):
    """Children and grandchildren stop with the root and go on with it."""
    root = run(FARM)
    receipt = DRIVER.isolate(target, Mode.REVERSIBLE, case)
    assert len(receipt.undo["items"]) == 7
    assert all(Member.from_key(k).is_stopped for k in receipt.undo["items"])
    DRIVER.release(target, [receipt], case)
    assert not any(Member.from_key(k).is_stopped for k in receipt.undo["items"])
    assert root.state is not None


def test_a_child_stopped_by_somebody_else_is_not_continued(case, target, run):
    """Only what we stopped is continued."""
    root = run(FARM)
    child = psutil.Process(root.pid).children()[0]
    child.suspend()
    stopped = member(child.pid)
    assert stopped.wait_until("stopped")
    receipt = DRIVER.isolate(target, Mode.REVERSIBLE, case)
    assert receipt.undo["items"][stopped.key]["was_stopped"] is True
    DRIVER.release(target, [receipt], case)
    assert stopped.is_stopped
    assert not root.is_stopped


def test_ending_never_lets_the_program_run_again(case, target, run, tmp_path):
    """A program waiting for SIGTERM or SIGCONT to run its farewell does not get to run it."""
    root = run(FAREWELL, str(tmp_path / "farewell"))
    DRIVER.isolate(target, Mode.REVERSIBLE, case)
    DRIVER.isolate(target, Mode.DESTRUCTIVE, case)
    assert root.state is None
    assert not (tmp_path / "farewell").exists()


def test_orphans_of_a_dead_main_process_are_found_by_their_session(case, target, run):
    """The main process died before us; its workers still belong to the service."""
    root = run(FARM)
    os.kill(root.pid, signal.SIGKILL)
    assert root.wait_until("gone")
    assert probe(target) is Exposure.SERVING
    receipt = DRIVER.isolate(target, Mode.DESTRUCTIVE, case)
    assert len(receipt.undo["items"]) == 6
    assert probe(target) is Exposure.GONE


def test_orphans_of_a_crashed_ending_are_ended_by_the_next_run(case, target, run, monkeypatch):
    """The worker dies after it killed the root: the stopped children are still known."""
    root = run(FARM.replace("if pid == 0:", "if pid == 0:\n        os.setsid()"))
    frozen = DRIVER.isolate(target, Mode.REVERSIBLE, case).undo["items"]
    root.send(signal.SIGKILL)
    assert root.wait_until("gone")
    assert DRIVER.isolate(target, Mode.DESTRUCTIVE, case).done
    assert all(Member.from_key(key).state is None for key in frozen)


def test_the_receipt_keeps_no_secret(case, target, run):
    """Arguments are masked, of the environment only names are kept."""
    os.environ["FIREBREAK_TEST_SECRET"] = "hunter2-in-environment"
    try:
        run(WAIT, "--api-key", "hunter2-in-arguments")
    finally:
        del os.environ["FIREBREAK_TEST_SECRET"]
    receipt = DRIVER.isolate(target, Mode.REVERSIBLE, case)
    text = json.dumps(receipt.to_json()) + json.dumps([e.body for e in case.entries()])
    assert "hunter2" not in text
    assert "FIREBREAK_TEST_SECRET" in text
    assert "--api-key" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "one number"),
        (b"abc", "one number"),
        (b"-1", "one number"),
        (b"12 13", "one number"),
        (b"1" * 5000, "larger than"),
        (b"\xff\xfe", "one number"),
        (b"0", "process 0"),
        (b"1", "process 1"),
        (str(os.getpid()).encode(), "this process or above"),
        (str(os.getppid()).encode(), "this process or above"),
    ],
)
def test_a_hostile_pid_file_is_refused(case, target, content, problem):
    """Nothing is signalled; the probe proves nothing."""
    Path(target.rest).write_bytes(content)
    with pytest.raises(ContainmentError, match=problem):
        DRIVER.isolate(target, Mode.DESTRUCTIVE, case)
    assert probe(target) is Exposure.UNPROVEN


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_a_pid_file_that_is_no_file_is_refused(case, target, kind):
    """A FIFO does not block, a link is not followed."""
    path = Path(target.rest)
    {"fifo": os.mkfifo, "link": lambda p: p.symlink_to("/etc/passwd"), "folder": os.mkdir}[kind](
        path
    )
    with pytest.raises(ContainmentError, match="pid file"):
        DRIVER.isolate(target, Mode.REVERSIBLE, case)


def test_a_reused_process_id_is_not_signalled(case, target, run):
    """The process started long after its pid file was written: it is another program."""
    root = run(WAIT)
    os.utime(target.rest, (0, time.time() - 3600))
    with pytest.raises(ContainmentError, match="used again"):
        DRIVER.isolate(target, Mode.DESTRUCTIVE, case)
    assert root.state is not None
    assert probe(target) is Exposure.UNPROVEN
    assert not Member(root.pid, root.started + 1).send(signal.SIGKILL)
    assert root.state is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_pid_file_of_another_user_is_refused(case, target, run):
    """Whoever may write the file must not make us stop somebody else's process."""
    root = run(WAIT)
    os.chown(target.rest, 12345, 12345)
    with pytest.raises(ContainmentError, match="belongs to user 12345"):
        DRIVER.isolate(target, Mode.REVERSIBLE, case)
    assert not root.is_stopped


def test_a_zombie_counts_as_gone(target, run):
    """A killed child that nobody waited for runs nothing."""
    root = run(WAIT)
    os.kill(root.pid, signal.SIGKILL)
    assert root.wait_until("gone")
    assert psutil.Process(root.pid).status() == psutil.STATUS_ZOMBIE
    assert probe(target) is Exposure.GONE


def test_a_name_with_brackets_does_not_confuse_the_state(run):
    """The kernel's record holds the program's own name, which may look like the rest of it."""
    code = "open('/proc/self/comm', 'w').write('x) Z 1 (y')\n" + WAIT
    assert run(code).state in ("R", "S")


def test_a_url_that_answers_is_serving_whatever_the_pid_file_says(tmp_path, answering):
    """No process of it is known, yet somebody serves."""
    target = Target(f"process://{tmp_path / 'none.pid'}", probe=answering)
    assert probe(target) is Exposure.SERVING


def test_a_running_process_that_does_not_answer_is_unproven(target, run):
    """It runs, but nobody can say that it serves."""
    run(WAIT)
    silent = Target(target.uri, probe="http://127.0.0.1:9/")
    assert probe(silent) is Exposure.UNPROVEN


def test_release_without_start_says_what_to_do(case, target, run):
    """The service was ended and the inventory does not say how to start it."""
    run(WAIT)
    receipt = DRIVER.isolate(target, Mode.DESTRUCTIVE, case)
    with pytest.raises(ContainmentError, match="no `start` is listed"):
        DRIVER.release(target, [receipt], case)


def test_a_program_that_writes_no_pid_file_gets_one(case, tmp_path):
    """The pid file is written for it, and names the process that was started."""
    target = Target(
        f"process://{tmp_path / 'w.pid'}", start=(sys.executable, "-c", WAIT), cwd=tmp_path
    )
    found = service.start(target, case)
    try:
        assert read_pid_file(Path(target.rest)) == found.pid
        assert os.getsid(found.pid) == found.pid
        assert (case.folder / "service-1.log").read_text() == "up\n"
        assert DRIVER.release(target, [], case).done == ()
    finally:
        child = service._children.pop(found.pid)
        child.kill()
        child.wait()


def test_the_service_does_not_get_our_own_variables(case, tmp_path, monkeypatch):
    """The responder's API keys are not handed to a model server."""
    monkeypatch.setenv("PREFECT_API_KEY", "hunter2")
    monkeypatch.setenv("SERVICE_PORT", "80")
    code = "import os; print(sorted(os.environ), flush=True)\n" + WAIT
    target = Target(f"process://{tmp_path / 'e.pid'}", start=(sys.executable, "-c", code))
    found = service.start(target, case)
    child = service._children.pop(found.pid)
    child.kill()
    child.wait()
    log = (case.folder / "service-1.log").read_text()
    assert "SERVICE_PORT" in log
    assert "PREFECT_API_KEY" not in log


def test_a_daemon_that_leaves_its_first_process_is_serving(case, tmp_path, monkeypatch):
    """Exit status 0 followed by a pid file is a daemon, not a failure."""
    code = (
        "import os, pathlib, signal, sys\n"
        "if os.fork(): os._exit(0)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n" + WAIT
    )
    path = tmp_path / "d.pid"
    target = Target(f"process://{path}", start=(sys.executable, "-c", code, str(path)))
    service.start(target, case)
    found = member(int(path.read_text()))
    assert probe(target) is Exposure.SERVING
    DRIVER.isolate(target, Mode.DESTRUCTIVE, case)
    assert found.state is None


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        (("/nonexistent/server",), "cannot start"),
        (
            (sys.executable, "-c", "raise SystemExit('no: password=hunter2')"),
            r"service-1\.log ends",
        ),
    ],
)
def test_a_service_that_does_not_start_is_explained(case, tmp_path, start, problem):
    """The error carries the end of the log, secrets masked."""
    target = Target(f"process://{tmp_path / 'n.pid'}", start=start)
    with pytest.raises(ContainmentError, match=problem) as caught:
        service.start(target, case)
    assert "hunter2" not in str(caught.value)


def test_a_service_that_never_answers_is_given_up(case, tmp_path, monkeypatch):
    """The wait is bounded."""
    monkeypatch.setattr(service, "START_TIMEOUT_S", 0.2)
    target = Target(
        f"process://{tmp_path / 's.pid'}",
        start=(sys.executable, "-c", WAIT),
        probe="http://127.0.0.1:9/",
    )
    with pytest.raises(ContainmentError, match=r"does not answer at http://127\.0\.0\.1:9/"):
        service.start(target, case)
    (pid,) = [e.body["pid"] for e in case.entries() if e.kind == "containment.started"]
    child = service._children.pop(pid)
    child.kill()
    child.wait()


def test_a_start_that_was_cut_short_is_found_again(case, served, monkeypatch):
    """The worker died after starting the service: the next one starts no second service."""
    with monkeypatch.context() as patch:
        patch.setattr(service, "wait_until_serving", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            service.start(served, case)
    service.start(served, case)
    assert len([e for e in case.entries() if e.kind == "containment.started"]) == 1


def test_a_supervised_service_is_reported(case, target, run, monkeypatch):
    """Something starts it again each time it is killed: an error names the cause."""
    run(WAIT)
    real = process_tree.Member.send

    def respawning(self: Member, number: signal.Signals) -> bool:
        sent = real(self, number)
        if number is signal.SIGKILL:
            run(WAIT)
        return sent

    monkeypatch.setattr(process_tree.Member, "send", respawning)
    with pytest.raises(ContainmentError, match="started again 5 times"):
        DRIVER.isolate(target, Mode.DESTRUCTIVE, case)
