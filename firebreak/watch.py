"""The plain daemon: check, wait, check again; back off after an error; stop cleanly on a signal."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

from firebreak.errors import FirebreakError

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
        self.stopping = threading.Event()
        self.counters = {"checks": 0, "findings": 0, "errors": 0}

    def run(self) -> dict[str, int]:
        """Check until told to stop; returns the counters. A running check is finished first."""
        before = {n: signal.signal(n, self._stop) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self.stopping.is_set():
                self.stopping.wait(self._once())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.counters

    def _once(self) -> float:
        """One check; returns how long to wait, in seconds."""
        try:
            self.counters["findings"] += self.check()
        except (FirebreakError, OSError) as error:
            self.counters["errors"] += 1
            self.on_error(error)
            return self.back_off_s
        self.counters["checks"] += 1
        return self.interval_s

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping.set()
