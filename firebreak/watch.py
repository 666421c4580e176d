"""The plain daemon: check, wait, check again; back off after an error; stop cleanly on a signal."""

import os
import select
import signal
from collections.abc import Callable
from types import FrameType

BACK_OFF_S = 60.0


class Watch:
    """Runs a check at an interval until SIGTERM or SIGINT."""

    def __init__(
        self,
        check: Callable[[], int],
        interval_s: float,
        *,
        on_error: Callable[[Exception], None],
        back_off_s: float = BACK_OFF_S,
    ) -> None:
        self.check, self.interval_s, self.back_off_s = check, interval_s, back_off_s
        self.on_error = on_error
        self.stopping = False
        self.counters = {"checks": 0, "findings": 0, "errors": 0}

    def run(self) -> dict[str, int]:
        """Check until told to stop; returns the counters. A running check is finished first."""
        # A pipe, because a lock (threading.Event) taken in a signal handler may deadlock.
        wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {n: signal.signal(n, self._stop) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self.stopping:
                select.select([wake], [], [], self._once())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(self._waker)
        return self.counters

    def _once(self) -> float:
        """One check; returns how long to wait, in seconds."""
        try:
            self.counters["findings"] += self.check()
        except Exception as error:  # noqa: BLE001 - a watch that dies watches nothing
            self.counters["errors"] += 1
            self.on_error(error)
            return self.back_off_s
        self.counters["checks"] += 1
        return self.interval_s

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if not self.stopping:
            self.stopping = True
            os.write(self._waker, b"x")
