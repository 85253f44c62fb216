"""How a receiver does, as its answers tell, and when it may be tried next. No I/O, no clock."""

from collections.abc import Callable, Sequence
from enum import StrEnum

import structlog

from tocsin.channels import Delivered, Paused, Result, Retry
from tocsin.dispatch.policy import Policy
from tocsin.errors import Reason

log = structlog.get_logger(__name__)

_BREAK_AFTER = 5
"""Failed sends in a row after which the channel is tried with one send at a time, and with pauses."""
_OUTAGE = frozenset({Reason.CONNECTION, Reason.TIMEOUT, Reason.SERVER_ERROR})
_OWN = frozenset({Reason.INTERNAL, Reason.TEMPLATE, Reason.NO_RECIPIENTS, Reason.UNROUTED})
"""Failures on this side of the wire: they say nothing of the receiver."""


class Condition(StrEnum):
    """How a channel does."""

    UP = "up"
    FAILING = "failing"
    PAUSED = "paused"


class Health:
    """What the answers of a channel say of it as a whole. Times are seconds of a clock that does not jump.

    `message`: what is wrong, for people; empty while nothing is.
    """

    def __init__(self, name: str, policy: Policy, chance: Callable[[], float]) -> None:
        self.message = ""
        self._name = name
        self._policy = policy
        self._chance = chance
        self._failures = 0
        self._pauses = 0
        self._hold_until = 0.0
        self._next_send = 0.0

    @property
    def condition(self) -> Condition:
        """Paused (credentials or plan refused), failing (an outage of the receiver) or up."""
        if self._pauses:
            return Condition.PAUSED
        return Condition.FAILING if self._failures >= _BREAK_AFTER else Condition.UP

    @property
    def slots(self) -> int:
        """Sends that may be under way. While the receiver is down or refuses us, one finds out when it is back."""
        return self._policy.concurrency if self.condition is Condition.UP else 1

    @property
    def opens_at(self) -> float:
        """When the next send may begin."""
        return max(self._hold_until, self._next_send)

    def held(self, now: float) -> bool:
        """Whether a pause or an outage holds everything back now."""
        return now < self._hold_until

    def launched(self, count: int, now: float) -> None:
        """A send of so many notifications has begun."""
        if self._policy.rate_limit:
            self._next_send = max(now, self._next_send) + count / self._policy.rate_limit

    def judge(self, results: Sequence[Result], now: float) -> None:
        """Take in the results of one send."""
        telling = [result for result in results if isinstance(result, Delivered) or result.reason not in _OWN]
        if not telling:
            return
        self._heed(telling, now)
        paused = next((result for result in telling if isinstance(result, Paused)), None)
        outages = [result for result in telling if isinstance(result, Retry) and result.reason in _OUTAGE]
        if paused is not None:
            self._refused(paused, now)
        elif len(outages) == len(telling):
            self._failed(outages[0], now)
        else:
            if self._failures or self._pauses:
                log.info("channel delivers again", channel=self._name)
            self._failures = self._pauses = 0
            self.message = ""
            self._hold_until = now

    def _heed(self, results: Sequence[Result], now: float) -> None:
        # A limit on the rate is one of the channel: nothing else goes before the time that the receiver named.
        for result in results:
            if isinstance(result, Retry) and result.reason is Reason.RATE_LIMITED and result.after:
                self._next_send = max(self._next_send, now + result.after)

    # What was under way together fails together: that is one step of the waits, and not many.

    def _refused(self, paused: Paused, now: float) -> None:
        self.message = f"{paused.reason}: {paused.detail}"
        if not self._pauses:
            log.error("channel paused", channel=self._name, reason=paused.reason, detail=paused.detail)
        if not self._pauses or now >= self._hold_until:
            self._hold_until = now + self._policy.pause.ceiling(self._pauses)
            self._pauses += 1

    def _failed(self, outage: Retry, now: float) -> None:
        self.message = f"{outage.reason}: {outage.detail}"
        if self._failures >= _BREAK_AFTER and now < self._hold_until:
            return
        # Told once a streak: the same outage again and again is one piece of news.
        if not self._failures:
            log.warning("channel fails, trying again", channel=self._name, reason=outage.reason, detail=outage.detail)
        self._failures += 1
        if self._failures >= _BREAK_AFTER:
            wait = self._policy.backoff.delay(self._failures - _BREAK_AFTER, self._chance)
            self._hold_until = max(self._hold_until, now + wait)
