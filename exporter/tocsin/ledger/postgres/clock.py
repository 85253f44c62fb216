"""The wall clock of the server: times in the ledger are compared by several processes, whose clocks may differ by
minutes."""

import time
from collections.abc import Awaitable, Callable

EVERY = 60.0
"""Seconds between two measurements of a connection that stays."""


class ServerClock:
    """Seconds since the epoch by the server, from this process's monotonic clock. Until it is measured, and for the
    commands that never do, the wall clock of this process."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._measured_at: float | None = None

    def __call__(self) -> float:
        return self._monotonic() + self._offset

    @property
    def due(self) -> bool:
        """Whether it is to be measured: either clock may be wrong by some seconds a day."""
        return self._measured_at is None or self._monotonic() - self._measured_at >= EVERY

    async def measure(self, ask: Callable[[], Awaitable[float]]) -> None:
        """Ask the server for its time. The offset changes only if it cannot be right: an answer may take long."""
        before = self._monotonic()
        theirs = await ask()
        after = self._monotonic()
        lowest, highest = theirs - after, theirs - before
        if self._measured_at is None:
            self._offset = (lowest + highest) / 2
        self._offset = min(max(self._offset, lowest), highest)
        self._measured_at = after
