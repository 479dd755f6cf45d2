"""Stopping on request: a signal is remembered, and whoever trains looks for it where it can stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """A training ended on request, after everything was saved.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class Stop:
    """A request to stop; nobody asks at first.

    Attributes:
        signal: number of the signal that asked, or None.
    """

    signal: int | None = None

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Inside, SIGTERM and SIGINT ask to stop; the second one ends the process as usual (main thread only)."""
        before = {number: signal.signal(number, self._asked) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
