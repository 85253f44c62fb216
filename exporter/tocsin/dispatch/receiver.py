"""One receiver of a level output: what it has, what it refuses, and when it is sent something next. No I/O."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import structlog

from tocsin.backoff import Backoff
from tocsin.channels.base import ActiveAlert, Delivered, Paused, Rejected, Result, Retry
from tocsin.dispatch.decisions import REFUSED_IN_A_ROW, ChannelStatus
from tocsin.errors import Reason
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelPolicy:
    """How a level output is treated. Times in seconds."""

    resend: float
    """How often everything is sent again."""
    backoff: Backoff
    limit: int
    """The most firing alerts that are sent."""
    retention: float = 900.0
    """How long the end of an alert is sent again; 15 minutes, as in Prometheus."""
    compare: float = 300.0
    """How often a receiver is asked what it knows."""
    debounce: float = 0.2
    """How long changes are gathered before they are sent."""
    pause: Backoff = Backoff(initial=30.0, maximum=300.0)  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class _Outage:
    """Failed requests in a row."""

    status: ChannelStatus
    message: str
    failures: int
    retry_at: float


class Receiver:
    """Decides what one receiver is sent: changes at once, and everything every `resend` seconds.

    `alerts` are always all that it should have, by identity. Times are seconds of a clock that does not jump.
    """

    def __init__(self, channel: str, name: str, policy: LevelPolicy, chance: Callable[[], float]) -> None:
        self.name = name
        self.changed = asyncio.Event()
        """Set when it should check again what is due."""
        self.idle = asyncio.Event()
        """Set while nothing is due."""
        self._policy = policy
        self._chance = chance
        self._log = log.bind(channel=channel, receiver=name)
        self._refusals = Repeats(self._log, "receiver refuses an alert")
        self._has: Mapping[str, ActiveAlert] = {}
        self._refused: dict[str, str] = {}  # why, by identity
        self._resend_at = -math.inf
        self._outage: _Outage | None = None
        self._unknown: frozenset[str] = frozenset()  # accepted, and not known to it when it was asked last
        self._missing: frozenset[str] = frozenset()  # not known twice in succession

    @property
    def missing(self) -> int:
        """How many firing alerts it has accepted and does not know."""
        return len(self._missing)

    @property
    def status(self) -> ChannelStatus:
        """The state. Refusing: it answers and refuses everything."""
        if self._outage is not None:
            return self._outage.status
        refusing = len(self._refused) >= REFUSED_IN_A_ROW and self._refused.keys() >= self._has.keys()
        return ChannelStatus.REFUSING if refusing else ChannelStatus.UP

    @property
    def message(self) -> str:
        """What is wrong, for people; empty while nothing is."""
        if self._outage is not None:
            return self._outage.message
        examples = [*self._refused.values()][:1]
        if examples:
            return f"{len(self._refused)} alerts refused, for example: {examples[0]}"
        return f"{self.missing} firing alerts were accepted, and are not known there" if self._missing else ""

    def pending(self, alerts: Mapping[str, ActiveAlert]) -> list[ActiveAlert]:
        """The alerts that the receiver does not have as they are now."""
        return [alert for identity, alert in alerts.items() if self._has.get(identity) != alert]

    def due(self, alerts: Mapping[str, ActiveAlert], now: float) -> list[ActiveAlert]:
        """What to send now."""
        if self._outage is not None and now < self._outage.retry_at:
            return []
        return [*alerts.values()] if now >= self._resend_at else self.pending(alerts)

    def next_at(self, alerts: Mapping[str, ActiveAlert]) -> float | None:
        """When something is due if nothing changes; None: never."""
        if self._outage is not None:
            return self._outage.retry_at
        return self._resend_at if alerts else None

    def sent(
        self, due: Sequence[ActiveAlert], results: Sequence[Result], alerts: Mapping[str, ActiveAlert], now: float
    ) -> None:
        """Record the results of what was due; `alerts`: what the receiver should have had then."""
        before = self.status
        for alert, result in zip(due, results, strict=True):
            if isinstance(result, Rejected):
                self._refuse(alert.identity, result)
            elif isinstance(result, Delivered):
                self._refused.pop(alert.identity, None)
        self._refused = {identity: why for identity, why in self._refused.items() if identity in alerts}
        trouble = next((result for result in results if isinstance(result, Retry | Paused)), None)
        if trouble is not None:
            self._fail(trouble, now)
            return
        self._has, self._outage = alerts, None
        if now >= self._resend_at:
            self._resend_at = now + self._policy.resend
        if self.status is ChannelStatus.REFUSING and before is not ChannelStatus.REFUSING:
            self._log.error("receiver refusing", error=self.message)
        elif self.status is not before:
            self._refusals.flush()
            self._log.info("receiver accepts alerts again")

    def accepted(self) -> frozenset[str]:
        """The firing alerts that it has accepted."""
        if self._outage is not None:
            return frozenset()
        firing = (identity for identity, alert in self._has.items() if alert.ended_at is None)
        return frozenset(firing) - self._refused.keys()

    def compared(self, unknown: AbstractSet[str]) -> None:
        """It was asked, and does not know these of the accepted alerts. Only what it does not know twice in succession
        is missing: it may just have restarted."""
        before, now = self._missing, frozenset(unknown)
        self._missing, self._unknown = now & self._unknown, now
        if self._missing and not before:
            self._log.warning("receiver accepted alerts that it does not know", alerts=len(self._missing))

    def _refuse(self, identity: str, result: Rejected) -> None:
        why = f"{result.reason}: {result.detail}"
        # Logged once for an alert, which is refused again at every resend.
        if self._refused.get(identity) != why:
            self._refusals.add(result.reason, alert=identity, error=why)
        self._refused[identity] = why

    def _fail(self, result: Retry | Paused, now: float) -> None:
        failures = self._outage.failures if self._outage else 0
        if not failures:
            self._log.warning("receiver failing, trying again", reason=result.reason, detail=result.detail)
        if isinstance(result, Paused):
            status, wait = ChannelStatus.PAUSED, self._policy.pause.ceiling(failures)
        else:
            status = ChannelStatus.FAILING
            wait = self._policy.backoff.delay(failures, self._chance, at_least=result.after)
        if result.reason is Reason.CONNECTION:
            self._has, self._resend_at = {}, -math.inf  # it may be restarting with an empty memory
        self._outage = _Outage(status, f"{result.reason}: {result.detail}", failures + 1, now + wait)
