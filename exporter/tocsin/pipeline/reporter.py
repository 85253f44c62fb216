"""Whether a source works, and whether its rows are the right ones."""

import time
from collections.abc import Callable
from typing import Any

from tocsin.exposition import State


class Stall(Exception):  # noqa: N818 - not an error of the program but a reason to end it
    """A source stalled and its configuration says to end the process then."""


_AGAIN = 600.0
"""Seconds after which the same fault is logged again."""


class Reporter:
    """The state of something that can fail.

    `failed` logs only when the message differs from the one before, for the same fault over and over is one piece of
    news; and every ten minutes while it lasts.
    """

    def __init__(
        self,
        log: Any,
        *,
        down: str,
        up: str,
        state: State = State.STARTING,
        monotonic: Callable[[], float] = time.monotonic,
        **context: Any,
    ) -> None:
        """`log`: a structlog logger. `down`, `up`: the events that it logs, with `context`. `state`: the initial one;
        with UP, the first success is not logged."""
        self.state = state
        self.message = ""
        """Why it is down; empty while it is not."""
        self._log = log.bind(**context)
        self._down = down
        self._up = up
        self._monotonic = monotonic
        self._down_since = self._logged_at = monotonic()

    @property
    def up(self) -> bool:
        """Whether it works."""
        return self.state is State.UP

    @property
    def down_for(self) -> float:
        """Seconds since it last worked, or since the start; 0 while it works."""
        return 0.0 if self.up else self._monotonic() - self._down_since

    def failed(self, message: str, **details: Any) -> None:
        """It does not work. `details` go into the log."""
        now = self._monotonic()
        if self.up:
            self._down_since = now
        if message != self.message or now - self._logged_at >= _AGAIN:
            lasting = {"seconds": round(now - self._down_since)} if message == self.message else {}
            self._log.warning(self._down, error=message, **details, **lasting)
            self._logged_at = now
        self.state, self.message = State.ERROR, message

    def recovered(self, **details: Any) -> None:
        """It works. May be called again and again."""
        if not self.up:
            self._log.info(self._up, **details)
        self.state, self.message = State.UP, ""


_DOUBT_AFTER = 3
"""Failed checks in a row after which an alert is not ready."""


class NameChecks:
    """The outcome of a source's checks of a running subscription: whether the names in it still refer to the same
    objects, and whether the role may still read them."""

    def __init__(self, failed: Callable[[], None]) -> None:
        """`failed` is called for each check that failed."""
        self.doubt = ""
        """Why the rows may not be those of the configured relation, or may end; empty: nothing is wrong."""
        self._failed = failed
        self._failures = 0

    def checked(self, problem: str) -> None:
        """A check was made. `problem`: why it failed, empty if it did not."""
        if not problem:
            self.doubt, self._failures = "", 0
            return
        self._failures += 1
        self._failed()
        if self._failures >= _DOUBT_AFTER:
            self.doubt = problem
