"""One receiver of a level output: what it has been told, what it refuses, and when it is tried next."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence

import structlog

from tocsin.channels.base import Delivered, Level, Paused, Rejected, Result, Retry, Standing
from tocsin.dispatch.health import Condition, Streak
from tocsin.dispatch.policy import LevelPolicy
from tocsin.dispatch.standing import Picture, Told
from tocsin.errors import Reason
from tocsin.exposition import ChannelMetrics
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)


class Receiver:
    """One receiver, which may be down while others are not."""

    def __init__(
        self,
        channel: str,
        name: str,
        level: Level,
        policy: LevelPolicy,
        picture: Picture,
        metrics: ChannelMetrics,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.name = name
        self.condition = Condition.UP
        self.delivered = 0
        self.failed = 0
        self.last_delivery: float | None = None
        self.idle = asyncio.Event()
        self._channel = channel
        self._level = level
        self._policy = policy
        self._picture = picture
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._told = Told(resend=policy.resend)
        self._refused: dict[str, str] = {}
        self._streak = Streak()
        self._refusals = Repeats(log, "a receiver refuses an alert", monotonic=monotonic)
        self._defects = Repeats(log, "the output failed", level="error", monotonic=monotonic)
        self._trouble = ""
        self._failures = 0
        self._opens_at = -math.inf
        self._awake = asyncio.Event()

    @property
    def message(self) -> str:
        if self._trouble or not self._refused:
            return self._trouble
        return f"{len(self._refused)} alerts refused; one: {next(iter(self._refused.values()))}"

    @property
    def waiting(self) -> int:
        return self._told.waiting(self._picture)

    def wake(self) -> None:
        """Look at the picture again."""
        self.idle.clear()
        self._awake.set()

    async def run(self) -> None:
        while True:
            self._awake.clear()
            now = self._monotonic()
            due = self._told.due(self._picture, now)
            if due and now >= self._opens_at:
                await self._tell(due)
                continue
            self.idle.set()
            until = self._opens_at if due else self._told.next_due(self._picture)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if until is None else max(0.0, until - now)):
                    await self._awake.wait()

    async def _tell(self, standings: Sequence[Standing]) -> None:
        self._metrics.attempts.inc(len(standings))
        results = await self._pushed(standings)
        now = self._monotonic()
        accepted = any(isinstance(result, Delivered) for result in results)
        trouble = None
        for standing, result in zip(standings, results, strict=True):
            match result:
                case Delivered():
                    self.delivered += 1
                    self.last_delivery = self._clock()
                    self._metrics.delivered.inc()
                    self._refused.pop(standing.identity, None)
                    self._told.tell(standing, now)
                case Rejected(reason, detail):
                    self._count(reason)
                    self._refuse(standing, reason, detail)
                    self._told.tell(standing, now)
                case Retry() | Paused():
                    self._count(result.reason)
                    trouble = trouble or result
        self._refused = {identity: why for identity, why in self._refused.items() if identity in self._picture}
        if accepted:
            self._streak.delivered()
        if trouble is None:
            self._answered()
        else:
            self._failed(trouble, now)

    async def _pushed(self, standings: Sequence[Standing]) -> Sequence[Result]:
        try:
            results = await self._level.push(self.name, standings, self._clock())
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            self._defects.add(type(error).__name__, channel=self._channel, receiver=self.name, exc_info=True)
            return [Retry(Reason.INTERNAL, f"the output raised {type(error).__name__}")] * len(standings)
        if len(results) != len(standings):
            return [Retry(Reason.INTERNAL, "the output did not answer each firing once")] * len(standings)
        return results

    def _count(self, reason: Reason) -> None:
        self.failed += 1
        self._metrics.failed(reason)

    def _refuse(self, standing: Standing, reason: Reason, detail: str) -> None:
        why = f"{reason}: {detail}"
        self._streak.given_up(why)
        # Logged once for an alert, which is refused again each time that it is sent again.
        if self._refused.get(standing.identity) != why:
            self._refusals.add(
                reason,
                channel=self._channel,
                receiver=self.name,
                alert=standing.identity,
                error=why,
            )
        self._refused[standing.identity] = why

    def _answered(self) -> None:
        """The receiver answered, whatever it says of the alerts."""
        before, failed = self.condition, self._failures > 0
        self.condition = Condition.REFUSING if self._streak.refusing else Condition.UP
        self._trouble, self._failures = "", 0
        if self.condition is Condition.REFUSING:
            if before is not Condition.REFUSING:
                log.error("receiver refusing", channel=self._channel, receiver=self.name, error=self.message)
        elif failed or before is Condition.REFUSING:
            self._refusals.flush()
            log.info("receiver takes alerts again", channel=self._channel, receiver=self.name)

    def _failed(self, result: Retry | Paused, now: float) -> None:
        if not self._failures:
            log.warning(
                "receiver cannot be told what fires, trying again",
                channel=self._channel,
                receiver=self.name,
                reason=result.reason,
                detail=result.detail,
            )
        self._trouble = f"{result.reason}: {result.detail}"
        if isinstance(result, Paused):
            self.condition = Condition.PAUSED
            wait = self._policy.pause.ceiling(self._failures)
        else:
            self.condition = Condition.FAILING
            wait = self._policy.backoff.delay(self._failures, self._chance, at_least=result.after)
        if result.reason is Reason.CONNECTION:
            self._told.forget()  # it may be restarting, and then knows nothing any more
        self._failures += 1
        self._opens_at = now + wait
