"""The state of a channel, as the answers of its receiver show it, and when it may be tried next. No I/O, no clock."""

from collections.abc import Callable, Sequence
from enum import StrEnum

import structlog

from tocsin.channels.base import Delivered, Paused, Result, Retry
from tocsin.dispatch.policy import Policy
from tocsin.errors import Reason

log = structlog.get_logger(__name__)

_BREAK_AFTER = 5
"""Failed sends in a row after which the channel is tried with one send at a time, and with pauses."""
_OUTAGE = frozenset({Reason.CONNECTION, Reason.TIMEOUT, Reason.SERVER_ERROR})
_OWN = frozenset({Reason.INTERNAL, Reason.TEMPLATE, Reason.NO_RECIPIENTS, Reason.UNROUTED})
"""Failures on this side of the wire: they say nothing of the receiver."""


REFUSED_IN_A_ROW = 3
"""Notifications given up on, with no delivery in between, after which a channel is refusing. One or two may be bad rows
of a channel that is well."""


class Condition(StrEnum):
    """The state of a channel."""

    UP = "up"
    """What is sent is delivered, or nothing was sent yet."""

    FAILING = "failing"
    """Attempts fail, and are tried again."""

    REFUSING = "refusing"
    """What is sent is given up on, one notification after another: no one gets anything."""

    PAUSED = "paused"
    """The receiver refuses credentials or plan. Everything waits."""


class Streak:
    """What has happened since the last delivery. `count` notifications were given up on, `failures` attempts failed and
    are tried again."""

    def __init__(self) -> None:
        self.count = 0
        self.failures = 0
        self._given_up_for = ""
        self._failed_for = ""

    @property
    def refusing(self) -> bool:
        """Whether so many were given up on that it is not a matter of single notifications."""
        return self.count >= REFUSED_IN_A_ROW

    @property
    def failing(self) -> bool:
        """Whether so many attempts failed that it is not a matter of single attempts."""
        return self.failures >= _BREAK_AFTER

    @property
    def message(self) -> str:
        """What is wrong, for people; empty while nothing is."""
        if self.refusing:
            return f"the last {self.count} notifications were given up on, the latest for: {self._given_up_for}"
        return f"the last {self.failures} attempts failed, the latest for: {self._failed_for}" if self.failing else ""

    def delivered(self) -> None:
        """Something was delivered: the streak is over."""
        self.count = self.failures = 0

    def given_up(self, why: str) -> None:
        """One notification will never be delivered."""
        self.count += 1
        self._given_up_for = why

    def failed(self, why: str) -> None:
        """One attempt failed."""
        self.failures += 1
        self._failed_for = why


class Health:
    """What the answers of a channel say of it as a whole. Times are seconds of a clock that does not jump."""

    def __init__(self, name: str, policy: Policy, chance: Callable[[], float]) -> None:
        self._trouble = ""
        self._streak = Streak()
        self._name = name
        self._policy = policy
        self._chance = chance
        self._failures = 0
        self._pauses = 0
        self._reported = False  # the log says that the channel does not deliver, and not yet that it does again
        self._hold_until = 0.0
        self._next_send = 0.0

    @property
    def condition(self) -> Condition:
        """The state. What holds everything back comes before what became of the notifications."""
        if self._pauses:
            return Condition.PAUSED
        if self._broken:
            return Condition.FAILING
        if self._streak.refusing:
            return Condition.REFUSING
        return Condition.FAILING if self._streak.failing else Condition.UP

    @property
    def delivers(self) -> bool:
        """False while the channel is paused, or gives up on one notification after another."""
        return not self._pauses and not self._streak.refusing

    @property
    def message(self) -> str:
        """What is wrong, for people; empty while nothing is."""
        own = self._streak.message if self.condition is Condition.REFUSING else self._trouble
        return own or self._streak.message

    @property
    def _broken(self) -> bool:
        """Whether the receiver is taken to be down."""
        return self._failures >= _BREAK_AFTER

    @property
    def slots(self) -> int:
        """Sends that may be under way. While the receiver is down or refuses us, one finds out when it is back."""
        return 1 if self._pauses or self._broken else self._policy.concurrency

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
            self._failures = self._pauses = 0
            self._trouble = ""
            self._hold_until = now

    def concluded(self, result: Result, *, dead: bool) -> bool:
        """Record the outcome of one notification, and return whether the channel stopped refusing. `dead`: the
        notification was given up on."""
        refusing = self._streak.refusing
        if isinstance(result, Delivered):
            if result.sent:
                self._streak.delivered()
                if self._reported:
                    self._reported = False
                    log.info("channel delivers again", channel=self._name)
                return refusing
        elif dead:
            self._streak.given_up(f"{result.reason}: {result.detail}")
            if self._streak.refusing and not refusing:
                self._reported = True
                log.error("channel refusing", channel=self._name, error=self._streak.message)
        elif result.reason is not Reason.TOO_EARLY:  # a cancel is asked for again by design
            self._streak.failed(f"{result.reason}: {result.detail}")
        return False

    def _heed(self, results: Sequence[Result], now: float) -> None:
        # A limit on the rate is one of the channel: nothing else goes before the time that the receiver named.
        for result in results:
            if isinstance(result, Retry) and result.reason is Reason.RATE_LIMITED and result.after:
                self._next_send = max(self._next_send, now + result.after)

    # What was under way together fails together: that is one step of the waits, and not many.

    def _refused(self, paused: Paused, now: float) -> None:
        self._trouble = f"{paused.reason}: {paused.detail}"
        if not self._pauses:
            self._reported = True
            log.error("channel paused", channel=self._name, reason=paused.reason, detail=paused.detail)
        if not self._pauses or now >= self._hold_until:
            self._hold_until = now + self._policy.pause.ceiling(self._pauses)
            self._pauses += 1

    def _failed(self, outage: Retry, now: float) -> None:
        self._trouble = f"{outage.reason}: {outage.detail}"
        if self._failures >= _BREAK_AFTER and now < self._hold_until:
            return
        # Logged once per outage: the same outage again and again is one piece of news.
        if not self._failures:
            self._reported = True
            log.warning("channel fails, trying again", channel=self._name, reason=outage.reason, detail=outage.detail)
        self._failures += 1
        if self._failures >= _BREAK_AFTER:
            wait = self._policy.backoff.delay(self._failures - _BREAK_AFTER, self._chance)
            self._hold_until = max(self._hold_until, now + wait)
