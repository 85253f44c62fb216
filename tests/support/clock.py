"""Clocks that move only when told to."""

import asyncio
import time


class Clock:
    """Wall-clock seconds since the epoch, as the argument `clock` of whatever takes one."""

    def __init__(self, now: float = 1_795_242_548.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class LoopClock(Clock):
    """A clock that takes the event loop's timers along, so that nobody has to wait for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._skipped = 0.0
        # Work in threads still takes its time, so the loop's clock goes on as well.
        loop.time = lambda: time.monotonic() + self._skipped  # type: ignore[method-assign]

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._skipped += seconds
