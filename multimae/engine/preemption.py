"""Signals that ask a run to stop: noted at once, acted on at the next step boundary, by all processes together."""

import signal
import threading
from types import FrameType, TracebackType

# SIGTERM: kill, scancel, a time limit. SIGINT: Ctrl-C. SIGUSR2: what submitit asks SLURM to send before the limit.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Preemption:
    """While entered, the first signal is kept in `signal` (0: none) and no signal does anything else: a second Ctrl-C,
    or the scheduler's second warning, cannot break the save that the first one asked for.
    """

    def __init__(self):
        self.signal = 0
        self._previous = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number

    @staticmethod
    def name(number: int) -> str:
        return signal.Signals(number).name
