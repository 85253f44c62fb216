"""Writing how attempts ended: many together, while sending goes on."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import structlog

from tocsin.channels.base import Delivered, Result
from tocsin.dispatch.base import Setup
from tocsin.dispatch.decisions import Health
from tocsin.dispatch.failures import Failure, Failures
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import RETRY, Settlement, Status
from tocsin.model import Notification
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)


class Recorder:
    """Counts outcomes, and writes them to the ledger. What is not written yet counts as being sent."""

    def __init__(self, setup: Setup, health: Health) -> None:
        self.delivered = 0
        self.failed = 0
        self.last_delivery: float | None = None
        self.failures = Failures()
        self.delays = 0
        """Deliveries whose delay is known."""
        self.delay_seconds = 0.0
        """The sum of their delays, from the change in the source to acceptance by the receiver."""
        self._setup = setup
        self._health = health
        self._dead = Repeats(log, "notification dead-lettered", monotonic=setup.monotonic)
        self._unrecorded = Repeats(log, "cannot record deliveries", level="error", monotonic=setup.monotonic)
        self._queue: list[Settlement] = []
        self._added = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether everything is written."""
        return not self._queue

    def add(self, notifications: Sequence[Notification], result: Result, settlements: Sequence[Settlement]) -> None:
        """Count the outcome of one message, and queue what is to be written."""
        for notification, settlement in zip(notifications, settlements, strict=True):
            self._count(notification, result, settlement)
        self._queue += settlements
        self._added.set()

    async def run(self, written: Callable[[bool], None]) -> None:
        """Write until cancelled. `written` is called after each transaction: whether there is more to send now."""
        attempt = 0
        while True:
            await self._added.wait()
            self._added.clear()
            try:
                while self._queue:
                    more = await self._write()
                    attempt = 0
                    written(more)
            except LedgerError as error:
                self._unrecorded.add(channel=self._setup.name, error=str(error))
                if error.reason is LedgerReason.FENCED:  # the process that has taken over sends it again
                    self._queue.clear()
                    written(False)
                    continue
                await asyncio.sleep(RETRY.delay(attempt, self._setup.chance, at_least=0.5))
                self._added.set()
                attempt += 1

    async def flush(self) -> None:
        """Write what is queued, if the ledger can. The rest is sent again."""
        if self._queue:
            with contextlib.suppress(Exception):
                await self._write()
        self._queue.clear()

    def close(self) -> None:
        """Log what was held back."""
        self._dead.flush()
        self._unrecorded.flush()

    async def _write(self) -> bool:
        """Write the queue in one transaction. What is cancelled stays queued: to settle it twice does no harm."""
        settlements = self._queue.copy()
        more = await self._setup.ledger.settle(settlements)
        del self._queue[: len(settlements)]
        return more

    def _count(self, notification: Notification, result: Result, settlement: Settlement) -> None:
        dead = settlement.status is Status.DEAD
        if self._health.settled(result, dead=dead):
            self._dead.flush()
        if isinstance(result, Delivered):
            self.last_delivery = settlement.at
            self.delivered += 1
            self._setup.metrics.delivered.inc()
            if result.sent:
                delay = max(0.0, settlement.at - _deliverable_since(notification))
                self._setup.metrics.delivery_seconds.observe(delay)
                self.delays += 1
                self.delay_seconds += delay
            return
        self.failed += 1
        self._setup.metrics.failures[result.reason].inc()
        alert = notification.transition.alert
        self.failures.add(
            Failure(
                reason=result.reason, detail=result.detail, at=settlement.at, alert=alert, notification=notification.id
            )
        )
        if dead:
            self._setup.metrics.dead_lettered.inc()
            self._dead.add(
                settlement.reason,
                alert,
                channel=self._setup.name,
                alert=alert,
                notification=notification.id,
                reason=settlement.reason,
                detail=settlement.detail,
            )


def _deliverable_since(notification: Notification) -> float:
    """When a notification could be delivered at the earliest: what is merged or silenced waits on purpose."""
    changed = notification.transition.at / 1000
    if notification.was_held:
        changed = max(changed, notification.created_at)
    return changed if notification.digest is None else max(changed, notification.not_before)
