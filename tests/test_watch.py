"""The plain daemon: interval, back-off, counters, and a clean stop."""

import gc
import os
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

from firebreak.errors import StoreError
from firebreak.watch import Watch


def test_it_checks_at_the_interval_until_told_to_stop():
    """A check that asks for the end is finished, counted, and the last one."""
    seen: list[float] = []

    def check() -> int:
        seen.append(time.monotonic())
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return 2

    counters = Watch(check, 0.05, on_error=lambda _: None).run()
    assert counters == {"checks": 3, "findings": 6, "errors": 0}
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(seen))


def test_it_waits_longer_after_an_error_and_goes_on():
    """The error is reported, the back-off is kept, and the next check runs."""
    times: list[float] = []
    errors: list[Exception] = []

    def check() -> int:
        times.append(time.monotonic())
        if len(times) == 1:
            raise StoreError("db", "is away")
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    counters = Watch(check, 0.01, on_error=errors.append, back_off_s=0.3).run()
    assert counters == {"checks": 1, "findings": 0, "errors": 1}
    assert times[1] - times[0] >= 0.3
    assert str(errors[0]) == "incident store db: is away"


def test_an_error_nobody_expected_does_not_end_the_watch():
    """A watch that dies watches nothing; even a defect of ours is only an error of one check."""
    calls = iter([ZeroDivisionError("defect"), None])

    def check() -> int:
        error = next(calls)
        if error:
            raise error
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    counters = Watch(check, 0.01, on_error=lambda _: None, back_off_s=0.01).run()
    assert counters == {"checks": 1, "findings": 0, "errors": 1}


def test_a_signal_during_the_wait_ends_it_at_once():
    """An operator does not wait an hour for an idle daemon to stop."""
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    before = time.monotonic()
    Watch(lambda: 0, 3600, on_error=lambda _: None).run()
    assert time.monotonic() - before < 5


def open_files() -> set[str]:
    """Descriptors of this process; what earlier tests left for the collector is closed first."""
    gc.collect()
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_many_signals_are_one_stop_and_the_handlers_are_put_back():
    """A supervisor that repeats itself does no harm, and the process is left as it was."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def check() -> int:
        for _ in range(50):
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    descriptors = open_files()
    assert Watch(check, 60, on_error=lambda _: None).run()["checks"] == 1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert open_files() <= descriptors, "it left a descriptor open"
