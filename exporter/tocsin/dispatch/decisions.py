"""What the answers of a receiver mean: for a notification, and for the channel as a whole. No I/O, no clock."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import structlog

from tocsin.channels.base import Delivered, Paused, Rejected, Reschedule, Result, Retry
from tocsin.dispatch.base import Setup
from tocsin.errors import Reason
from tocsin.ledger.base import Settlement, Status
from tocsin.model import Notification

log = structlog.get_logger(__name__)


# Notifications.


def settlements(
    notifications: Sequence[Notification],
    result: Result,
    setup: Setup,
    *,
    repeat: bool = False,
) -> list[Settlement]:
    """Decide about the notifications of one message, or of one request: delivered, pending until one common time, or
    dead. `repeat`: if pending, they are sent again as the same request.

    They are given up together, when the youngest reaches `max_attempts` or `max_age`. Without the oldest, the rest
    would be another message or another request, which the receiver may take as new.
    """
    now, attempts = setup.clock(), min(one.attempts for one in notifications)
    age = now - max(one.created_at for one in notifications)
    decision = _decide(result, attempts, age, now, setup)
    release_key = isinstance(result, Reschedule) and len(notifications) == 1 and notifications[0].digest is None
    return [
        Settlement(
            seq=one.seq,
            channel=one.channel,
            ordering_key=one.ordering_key,
            status=decision.status,
            attempts=one.attempts + decision.counts,
            not_before=decision.not_before,
            reason=decision.reason,
            detail=decision.detail,
            at=now,
            repeat=repeat,
            release_key=release_key,
        )
        for one in notifications
    ]


class _Decision(NamedTuple):
    status: Status
    reason: str = ""
    detail: str = ""
    not_before: float = 0.0
    counts: bool = True
    """Whether the attempt counts."""


def _decide(result: Result, attempts: int, age: float, now: float, setup: Setup) -> _Decision:
    """`attempts`: those before this one."""
    policy = setup.policy
    match result:
        case Delivered(note, _, answer):
            return _Decision(Status.DELIVERED, detail=note or answer)
        case Paused(reason, detail):
            return _Decision(Status.PENDING, reason, detail, counts=False)
        case Rejected(reason, detail):
            return _Decision(Status.DEAD, reason, detail)
        case Retry(reason, detail, after, free):
            made, why = attempts + (not free), f"{reason}: {detail}"
            if policy.max_attempts is not None and made >= policy.max_attempts:
                why = f"{made} attempt{'' if made == 1 else 's'}; the last: {why}"
                return _Decision(Status.DEAD, Reason.EXHAUSTED, why)
            if age > policy.max_age:
                return _Decision(Status.DEAD, Reason.EXPIRED, f"older than max_age; the last attempt: {why}")
            if isinstance(result, Reschedule):
                wait = after or 0.0
            else:
                wait = policy.backoff.delay(attempts, setup.chance, at_least=after)
            return _Decision(Status.PENDING, reason, detail, now + wait, counts=not free)


def is_unknown(result: Result, *, sent_before: bool) -> bool:
    """Whether the receiver may have accepted a request: now, or when it was `sent_before` and no answer came."""
    if isinstance(result, Reschedule):
        return False
    if isinstance(result, Retry) and result.unknown:
        return True
    return sent_before and isinstance(result, Retry | Paused)


# The channel.

REFUSED_IN_A_ROW = 3
"""Dead letters without a delivery in between after which a channel is refusing. One or two may be bad rows."""

_BREAK_AFTER = 5
"""Failed sends in a row after which one send at a time is tried, with pauses."""
_OUTAGE = frozenset({Reason.CONNECTION, Reason.TIMEOUT, Reason.SERVER_ERROR})
_OWN = frozenset({Reason.INTERNAL, Reason.TEMPLATE, Reason.NO_RECIPIENTS, Reason.UNROUTED})
"""Failures before anything was sent: they say nothing about the receiver."""


class ChannelStatus(StrEnum):
    """The state of a channel."""

    UP = "up"
    """Notifications are delivered, or none was sent yet."""
    FAILING = "failing"
    """Attempts fail and are repeated."""
    REFUSING = "refusing"
    """One notification after another becomes a dead letter."""
    PAUSED = "paused"
    """The receiver refuses credentials or plan. Everything waits."""


class Streak:
    """What happened since the last delivery."""

    def __init__(self) -> None:
        self.dead = 0
        self.failed = 0
        self._dead_for = ""
        self._failed_for = ""

    @property
    def status(self) -> ChannelStatus:
        """Ignores single notifications and attempts."""
        if self.dead >= REFUSED_IN_A_ROW:
            return ChannelStatus.REFUSING
        return ChannelStatus.FAILING if self.failed >= _BREAK_AFTER else ChannelStatus.UP

    @property
    def message(self) -> str:
        match self.status:
            case ChannelStatus.REFUSING:
                return f"the last {self.dead} notifications were given up on, the latest for: {self._dead_for}"
            case ChannelStatus.FAILING:
                return f"the last {self.failed} attempts failed, the latest for: {self._failed_for}"
        return ""

    def add(self, why: str, *, dead: bool) -> None:
        """Count a dead letter or a failed attempt."""
        if dead:
            self.dead, self._dead_for = self.dead + 1, why
        else:
            self.failed, self._failed_for = self.failed + 1, why


class Hold(NamedTuple):
    """That nothing may be sent to a channel for a time."""

    until: float
    """Seconds of a clock that does not jump."""
    why: str
    """Why the receiver refuses; empty for a rate limit."""


class Health:
    """What the answers say about a channel as a whole, and when it may send next.

    Times are seconds of a clock that does not jump.
    """

    def __init__(self, setup: Setup) -> None:
        self._name = setup.name
        self._policy = setup.policy
        self._chance = setup.chance
        self._streak = Streak()
        self._outages = 0
        self._pauses = 0
        self._limits = 0
        self._slow_until = 0.0
        self._trouble = ""
        self._logged = False  # that the channel does not deliver, and not yet that it does again
        self._hold_until = 0.0
        self._next_send = 0.0
        self._held_elsewhere = Hold(0.0, "")
        self._announced = False
        self.news: Hold | None = None
        """What other processes that send to the channel do not know yet; its caller passes it on."""

    @property
    def status(self) -> ChannelStatus:
        """The state. What holds everything back has precedence over what became of the notifications."""
        if self._pauses or self._held_elsewhere.why:
            return ChannelStatus.PAUSED
        return ChannelStatus.FAILING if self._is_down else self._streak.status

    @property
    def delivers(self) -> bool:
        """False while the channel is paused or refusing."""
        return self.status is not ChannelStatus.PAUSED and self._streak.status is not ChannelStatus.REFUSING

    @property
    def message(self) -> str:
        """What is wrong, for people; empty while nothing is."""
        if self.status is ChannelStatus.REFUSING:
            return self._streak.message
        return self._trouble or self._held_elsewhere.why or self._streak.message

    @property
    def _is_down(self) -> bool:
        return self._outages >= _BREAK_AFTER

    @property
    def slots(self) -> int:
        """Sends that may run at the same time. While the receiver is down or refuses us, one send at a time finds out
        when it is back."""
        return 1 if self.status is ChannelStatus.PAUSED or self._is_down else self._policy.concurrency

    @property
    def opens_at(self) -> float:
        """When the next send may begin."""
        return max(self._hold_until, self._held_elsewhere.until, self._next_send)

    def holds(self, now: float) -> bool:
        """Whether a pause or an outage holds everything back now."""
        return now < max(self._hold_until, self._held_elsewhere.until)

    def held_elsewhere(self, hold: Hold) -> None:
        """What another process has found out."""
        self._held_elsewhere = hold

    def launched(self, count: int, now: float) -> None:
        """A send of `count` notifications has begun."""
        if self._policy.rate_limit:
            self._next_send = max(now, self._next_send) + count / self._policy.rate_limit

    def judge(self, results: Sequence[Result], now: float) -> None:
        """Take the results of one send into account."""
        answers = [result for result in results if isinstance(result, Delivered) or result.reason not in _OWN]
        if not answers:
            return
        limited = [one for one in answers if isinstance(one, Retry) and one.reason is Reason.RATE_LIMITED]
        if limited:
            self._slow_down(limited, now)
        elif any(isinstance(one, Delivered) for one in answers):
            self._limits = 0
        paused = next((result for result in answers if isinstance(result, Paused)), None)
        outages = [result for result in answers if isinstance(result, Retry) and result.reason in _OUTAGE]
        if paused is not None:
            self._pause(paused, now)
        elif len(outages) == len(answers):
            self._fail(outages[0], now)
        else:
            self._outages = self._pauses = 0
            self._trouble = ""
            self._hold_until = now
            if self._announced:
                self._announced, self.news = False, Hold(self._next_send, "")

    # Sends that run at the same time fail together: that is one step of the waits, not many.

    def _slow_down(self, limited: Sequence[Retry], now: float) -> None:
        """A rate limit is one of the channel: nothing is sent before the time that the receiver named. Where it named
        none, the waits grow, since these attempts do not count."""
        asked = max(one.after or 0.0 for one in limited)
        if not asked:
            if now < self._slow_until:
                return
            asked = self._policy.backoff.delay(self._limits, self._chance)
            self._limits += 1
            self._slow_until = now + asked
        self._next_send = max(self._next_send, now + asked)
        self.news = Hold(self._next_send, "")

    def _pause(self, paused: Paused, now: float) -> None:
        self._trouble = f"{paused.reason}: {paused.detail}"
        if not self._pauses:
            self._logged = True
            log.error("channel paused", channel=self._name, reason=paused.reason, detail=paused.detail)
        if not self._pauses or now >= self._hold_until:
            self._hold_until = now + self._policy.pause.ceiling(self._pauses)
            self._pauses += 1
            self._announced, self.news = True, Hold(self._hold_until, self._trouble)

    def _fail(self, outage: Retry, now: float) -> None:
        self._trouble = f"{outage.reason}: {outage.detail}"
        if self._is_down and now < self._hold_until:
            return
        if not self._outages:  # logged once an outage
            self._logged = True
            log.warning("channel fails, trying again", channel=self._name, reason=outage.reason, detail=outage.detail)
        self._outages += 1
        if self._is_down:
            wait = self._policy.backoff.delay(self._outages - _BREAK_AFTER, self._chance)
            self._hold_until = max(self._hold_until, now + wait)

    def settled(self, result: Result, *, dead: bool) -> bool:
        """Count the outcome of one notification. Returns whether the channel has stopped refusing."""
        before = self._streak.status
        if isinstance(result, Delivered):
            if not result.sent:
                return False
            self._streak = Streak()
            if self._logged:
                self._logged = False
                log.info("channel delivers again", channel=self._name)
            return before is ChannelStatus.REFUSING
        if dead or result.reason is not Reason.TOO_EARLY:  # a cancel is repeated by design
            self._streak.add(f"{result.reason}: {result.detail}", dead=dead)
        if self._streak.status is ChannelStatus.REFUSING and before is not ChannelStatus.REFUSING:
            self._logged = True
            log.error("channel refusing", channel=self._name, error=self._streak.message)
        return False
