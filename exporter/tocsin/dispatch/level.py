"""A level output: sends what fires now, and what ended a short while ago, to every receiver, again and again.

It needs no outbox: whatever is lost is sent again soon.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import structlog

from tocsin.channels.base import ActiveAlert, Delivered, Level, Result, Retry
from tocsin.dispatch.decisions import ChannelStatus
from tocsin.dispatch.failures import Failure, Failures
from tocsin.dispatch.receiver import LevelPolicy, Receiver
from tocsin.dispatch.supervision import Supervisor
from tocsin.envelope import Envelope
from tocsin.errors import Reason
from tocsin.exposition import ChannelMetrics
from tocsin.faults import must_end
from tocsin.model import Transition
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_CLOSE_TIMEOUT = 5.0
"""Seconds that an output has to close its connections."""
_MANY = 200
"""Firings from which they are rendered in a thread."""

Current = Callable[[], Mapping[str, Sequence[Transition] | None]]
"""What fires now, by alert, each as the transition with which it began to fire. None: not known now. Does no I/O."""

Shape = Callable[[Transition], Envelope | None]
"""The envelope of a firing; None where its condition does not hold. May be called in a thread."""


_Rendered = dict[tuple[str, str], tuple[Transition, ActiveAlert | None]]
"""By alert and fingerprint: a firing and what it became; None: it is not sent."""

_Seen = Mapping[str, Sequence[ActiveAlert] | None]
"""What fires now, by alert. None: not known now."""


class ActiveAlerts:
    """What the receivers of an output should have. Outlives the loop when the configuration changes.

    An alert that is not known now (its source is starting, or has been silent for too long) is neither sent again nor
    resolved: the receivers let it expire.
    """

    def __init__(self) -> None:
        self.alerts: Mapping[str, ActiveAlert] = {}
        """By identity: what has ended, then what fires."""
        self.unknown: frozenset[str] = frozenset()
        """The alerts that are not known now."""
        self.dropped = 0
        """Firings beyond the limit, which are not sent."""
        self._seen: Mapping[str, Mapping[str, ActiveAlert]] = {}  # by alert, as it was when last known
        self._reported: dict[str, ActiveAlert] = {}  # sent as firing and not resolved
        self._ended: dict[str, tuple[ActiveAlert, float]] = {}  # with the monotonic time of its end

    def update(self, seen: _Seen, now: float, wall: float, policy: LevelPolicy) -> None:
        """Take what fires now, by alert; None: not known. What an alert that is not in it reported has ended. `now`:
        monotonic seconds, by which ends are forgotten; `wall`: wall-clock seconds, for the end time."""
        self.unknown = frozenset(alert for alert, active in seen.items() if active is None)
        self._seen = {
            alert: self._seen.get(alert, {}) if active is None else _by_identity(active)
            for alert, active in seen.items()
        }
        firing = _by_identity(
            one for alert, active in self._seen.items() if alert not in self.unknown for one in active.values()
        )
        hidden = {identity for alert in self.unknown for identity in self._seen[alert]}
        for identity, one in self._reported.items():
            if identity not in firing and identity not in hidden:
                self._ended[identity] = replace(one, ended_at=max(wall, one.started_at)), now
        self._ended = {
            identity: (one, at)
            for identity, (one, at) in self._ended.items()
            if identity not in firing and now - at <= policy.retention
        }
        # Beyond the limit, what was sent before stays.
        ordered = sorted(firing, key=lambda identity: identity not in self._reported) if firing else []
        sent = {identity: firing[identity] for identity in ordered[: policy.limit]}
        self.dropped = len(firing) - len(sent)
        self._reported = {identity: one for identity, one in self._reported.items() if identity in hidden} | sent
        self.alerts = {identity: one for identity, (one, _) in self._ended.items()} | sent


class LevelLoop:
    """Keeps the receivers of one level output up to date until it is cancelled.

    `active`: what the loop before this one reported; what no longer fires is then sent as ended. `clock`: wall-clock
    seconds, for what is sent and shown; `monotonic`: seconds of a clock that does not jump, for all waiting.
    """

    def __init__(
        self,
        name: str,
        level: Level,
        policy: LevelPolicy,
        *,
        current: Current,
        shape: Shape,
        metrics: ChannelMetrics,
        active: ActiveAlerts,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.delivered = 0
        """Alerts accepted since the start, repeats included."""
        self.failed = 0
        """Alerts not accepted since the start, repeats included."""
        self.last_delivery: float | None = None
        """Wall-clock seconds."""
        self.failures = Failures()
        self.delays = 0, 0.0
        """As those of a dispatcher: not known, since everything is sent again and again."""
        self._level = level
        self._policy = policy
        self._current = current
        self._shape = shape
        self._metrics = metrics
        self._active = active
        self._clock = clock
        self._monotonic = monotonic
        self._supervisor = Supervisor(name=name, metrics=metrics, backoff=policy.backoff, chance=chance)
        self._unusable = Repeats(log, "cannot render a firing", level="error")
        self._defects = Repeats(log, "the output failed", level="error")
        self._rendered: _Rendered = {}
        self._changed = asyncio.Event()
        self._updating = asyncio.Lock()
        self._receivers = [Receiver(name, receiver, policy, chance) for receiver in level.receivers]

    @property
    def fault(self) -> str:
        """The unexpected exception that stopped the loop a moment ago; empty while it works."""
        return self._supervisor.message

    @property
    def unread(self) -> str:
        """Empty: it has no outbox."""
        return ""

    @property
    def status(self) -> ChannelStatus:
        """The state: that of the receivers where all have the same, else failing."""
        statuses = {one.status for one in self._receivers}
        return statuses.pop() if len(statuses) == 1 and not self.fault else ChannelStatus.FAILING

    @property
    def delivers(self) -> bool:
        """False while every receiver is paused or refusing."""
        refusals = (ChannelStatus.PAUSED, ChannelStatus.REFUSING)
        return not self.fault and any(one.status not in refusals for one in self._receivers)

    @property
    def message(self) -> str:
        """What is wrong, for people; empty while nothing is."""
        if self.fault:
            return self.fault
        wrong = [f"{one.name}: {one.message}" for one in self._receivers if one.message]
        if self._active.dropped:
            wrong.append(f"{self._active.dropped} firing alerts are not sent: more fire than max_alerts allows")
        return "; ".join(wrong)

    @property
    def level(self) -> Level:
        """What it sends with."""
        return self._level

    def accepted(self, alert: str, fingerprint: str) -> Mapping[str, bool]:
        """By receiver, whether it has accepted a firing."""
        _, active = self._rendered.get((alert, fingerprint), (None, None))
        return {one.name: active is not None and active.identity in one.accepted() for one in self._receivers}

    @property
    def pending(self) -> int:
        """The most alerts that one of the receivers does not have as they are now."""
        return max(len(one.pending(self._active.alerts)) for one in self._receivers)

    @property
    def missing(self) -> int:
        """The most firing alerts that one of the receivers has accepted and does not know."""
        return max(one.missing for one in self._receivers)

    def changed(self, alert: str, *, news: bool = True) -> None:
        """A batch of an alert was committed. One without news matters only if the alert was not known."""
        if news or alert in self._active.unknown:
            self._changed.set()

    async def run(self) -> None:
        """Run until cancelled. After an unexpected exception the loop starts again."""
        try:
            await self._supervisor.run(self._follow, _nothing)
        finally:
            await self._close()

    async def caught_up(self) -> None:
        """Return when every receiver that can be reached has what fires now. Call within a time limit."""
        await self._update()
        await asyncio.gather(*(one.idle.wait() for one in self._receivers))

    async def retired(self) -> None:
        """As `caught_up`, for an output that is no longer configured: everything it reported is sent as ended."""
        self._current = dict
        await self.caught_up()

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for one in self._receivers:
                tasks.create_task(self._serve(one), name=f"{self.name}: {one.name}")
                tasks.create_task(self._compare(one), name=f"{self.name}: {one.name}: compare")
            while True:
                self._changed.clear()
                await self._update()
                # At the latest before anything is sent again: an alert may have become unknown meanwhile.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._policy.resend / 2):
                        await self._changed.wait()
                        await asyncio.sleep(self._policy.debounce)
                self._supervisor.works()

    # Sending.

    async def _serve(self, one: Receiver) -> None:
        """Send one receiver what is due, whatever becomes of the others."""
        while True:
            one.changed.clear()
            alerts, now = self._active.alerts, self._monotonic()
            if due := one.due(alerts, now):
                results = await self._push(one.name, due)
                self._count(results)
                one.sent(due, results, alerts, self._monotonic())
                continue
            one.idle.set()
            until = one.next_at(alerts)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if until is None else max(0.0, until - now)):
                    await one.changed.wait()

    async def _push(self, receiver: str, due: Sequence[ActiveAlert]) -> Sequence[Result]:
        self._metrics.attempts.inc(len(due))
        try:
            return await self._level.push(receiver, due, self._clock())
        except (Exception, asyncio.CancelledError) as error:
            if must_end(error):
                raise
            self._defects.add(type(error).__name__, channel=self.name, receiver=receiver, exc_info=True)
            return [Retry(Reason.INTERNAL, f"the output raised {type(error).__name__}")] * len(due)

    async def _compare(self, one: Receiver) -> None:
        """Ask one receiver from time to time what it knows. Nothing else depends on the answer."""
        while True:
            await asyncio.sleep(self._policy.compare)
            before = one.accepted()
            known = await self._known(one.name) if before else frozenset()
            if known is not None:
                one.compared(before - known)

    async def _known(self, receiver: str) -> AbstractSet[str] | None:
        try:
            return await self._level.known(receiver)
        except (Exception, asyncio.CancelledError) as error:
            if must_end(error):
                raise
            self._defects.add(type(error).__name__, channel=self.name, receiver=receiver, exc_info=True)
            return None

    def _count(self, results: Sequence[Result]) -> None:
        for result in results:
            if isinstance(result, Delivered):
                self.delivered += 1
                self.last_delivery = self._clock()
                self._metrics.delivered.inc()
            else:
                self.failed += 1
                self._metrics.failures[result.reason].inc()
                self.failures.add(Failure(reason=result.reason, detail=result.detail, at=self._clock()))

    # What fires.

    async def _update(self) -> None:
        async with self._updating:
            current, wall = self._current(), self._clock()
            if sum(len(transitions or ()) for transitions in current.values()) > _MANY:
                seen = await asyncio.to_thread(self._render, current, wall)
            else:
                seen = self._render(current, wall)
            dropped = self._active.dropped
            self._active.update(seen, self._monotonic(), wall, self._policy)
            if self._active.dropped and not dropped:
                log.warning("more alerts fire than max_alerts allows", channel=self.name, unsent=self._active.dropped)
        for one in self._receivers:
            one.idle.clear()
            one.changed.set()

    def _render(self, current: Mapping[str, Sequence[Transition] | None], wall: float) -> _Seen:
        """Render what is new or changed, and keep the rest as it is."""
        rendered: _Rendered = {}
        for firing in (one for transitions in current.values() for one in transitions or ()):
            known = self._rendered.get((firing.alert, firing.fingerprint))
            if known is None or known[0] != firing:
                known = firing, self._active_alert(firing, wall)
            rendered[firing.alert, firing.fingerprint] = known
        self._rendered = rendered
        return {
            alert: None
            if transitions is None
            else [one for firing in transitions if (one := rendered[alert, firing.fingerprint][1]) is not None]
            for alert, transitions in current.items()
        }

    def _active_alert(self, firing: Transition, wall: float) -> ActiveAlert | None:
        try:
            envelope = self._shape(firing)
            return None if envelope is None else self._level.active(envelope, wall)
        except Exception:  # noqa: BLE001 - one bad row must not hide the others
            self._unusable.add(firing.alert, channel=self.name, alert=firing.alert, exc_info=True)
            return None

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._level.close()
        except Exception:  # the run is over: what an output cannot close ends with the process
            log.exception("the output cannot be closed", channel=self.name)


def _by_identity(alerts: Iterable[ActiveAlert]) -> dict[str, ActiveAlert]:
    """Of several firings that are one alert at the receiver, keep the one that began first."""
    found: dict[str, ActiveAlert] = {}
    for one in alerts:
        known = found.get(one.identity)
        if known is None or one.started_at < known.started_at:
            found[one.identity] = one
    return found


async def _nothing() -> None:
    """Nothing to forget before the loop starts again."""
