"""Clocks that a test moves."""

import asyncio
import time


class Clock:
    """Wall-clock seconds since the epoch, for an argument `clock`."""

    def __init__(self, now: float = 1_795_242_548.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class LoopClock(Clock):
    """A clock that also moves the timers of the event loop, so that no test waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._skipped = 0.0
        # Work in threads takes real time, so the loop's clock runs as well.
        loop.time = lambda: time.monotonic() + self._skipped  # type: ignore[method-assign]

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._skipped += seconds
