"""How long to wait before another attempt. Pure: chance and time are arguments."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter: uniform between 0 and `initial * 2**attempt`, capped at `maximum` seconds.

    Full jitter spreads clients that failed together best for the work they cost (Brooker, "Exponential Backoff And
    Jitter", 2015).
    """

    initial: float
    maximum: float

    def ceiling(self, attempt: int) -> float:
        """The longest wait after the failure of attempt number `attempt`, counted from 0."""
        # 2**63 exceeds any sensible maximum; the bound keeps the float finite after years of failures.
        return min(self.maximum, self.initial * 2.0 ** min(attempt, 63))

    def delay(self, attempt: int, chance: Callable[[], float], *, at_least: float | None = None) -> float:
        """Seconds to wait. `chance` returns a number in [0, 1). `at_least`: what the server asked for (Retry-After).

        That is jittered upwards, so that clients which received the same do not return together. It only lengthens the
        wait: some servers ask for 0 seconds, however often they fail.
        """
        wait = chance() * self.ceiling(attempt)
        if at_least is None:
            return wait
        return max(wait, at_least + min(wait, 0.1 * at_least))
