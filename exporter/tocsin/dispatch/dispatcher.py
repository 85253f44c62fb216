"""The loop of one channel."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace

import structlog

from tocsin.channels.base import Channel, Delivered, Reschedule, Result
from tocsin.dispatch.concluding import Concluded, bulks_of, conclude
from tocsin.dispatch.health import Condition, Health
from tocsin.dispatch.lanes import Bulk, Lanes
from tocsin.dispatch.policy import Policy
from tocsin.dispatch.sending import Compose, Sender, Sending
from tocsin.dispatch.supervision import Supervisor
from tocsin.errors import LedgerError
from tocsin.exposition import ChannelMetrics
from tocsin.ledger.base import MOST_MERGED, Bulks, Ledger, Settlement, Status
from tocsin.model import Notification
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_CLOSING = 5.0
"""Seconds that a channel is given to let go of its connections."""


class Dispatcher:
    """Takes what the ledger holds for one channel to the channel."""

    def __init__(
        self,
        name: str,
        channel: Channel,
        policy: Policy,
        *,
        ledger: Ledger,
        compose: Compose,
        metrics: ChannelMetrics,
        since: float | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`since`: when this process, or this way of sending, began; what was written before may have been sent by
        another one. Without it, now. `clock` tells the times that the ledger keeps, `monotonic` those of waits that end
        with the process: it must not jump."""
        self.name = name
        self.last_delivery: float | None = None
        self.delivered = 0
        self.failed = 0
        self._channel = channel
        self._policy = policy
        self._ledger = ledger
        self._sender = Sender(name, channel, ledger, compose, policy.timeout)
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._lanes = Lanes()
        self._health = Health(name, policy, chance)
        self._parked = Repeats(log, "notification parked", monotonic=monotonic)
        self._supervisor = Supervisor(name, metrics, policy.backoff, chance)
        self._working: set[asyncio.Task[None]] = set()
        self._slots = 0
        self._concluded: list[Concluded] = []
        self._recording = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        # Everything pending is in the ledger; memory holds it up to a number. Spilled: more may be there than is held.
        self._spilled = True
        self._read_through = 0
        self._missed = False
        self._rescans = 0
        self._doubted: set[int] = set()
        self._unreadable = 0
        self._read_not_before = 0.0
        self._finished: set[int] = set()
        self._closing = False
        self._defect: BaseException | None = None
        self._since = clock() if since is None else since
        self._recover_until = 0.0

    @property
    def fault(self) -> str:
        """The unexpected exception that stopped the loop a moment ago; empty while it works."""
        return self._supervisor.message

    @property
    def condition(self) -> Condition:
        """The state of the channel."""
        return Condition.FAILING if self.fault else self._health.condition

    @property
    def delivers(self) -> bool:
        """False while the channel is paused, or gives up on one notification after another."""
        return self._health.delivers and not self.fault

    @property
    def message(self) -> str:
        """What is wrong with the channel, for people; empty while nothing is."""
        return self.fault or self._health.message

    def offer(self, notifications: Sequence[Notification]) -> None:
        """Hand over what has just been committed. Never waits: what memory does not hold is read from the ledger
        later."""
        fresh = [notification for notification in notifications if notification.seq > self._read_through]
        if not fresh:
            return
        if self._spilled or len(self._lanes) + len(fresh) > self._policy.limit:
            self._spilled = self._missed = True
        else:
            self._lanes.add(fresh)
            try:
                self._launch()
            except Exception as error:  # noqa: BLE001 - of this channel, and not of the source that offers
                self._defect = error
                self._wake.set()
        self._stir()

    def rescan(self) -> None:
        """Read the ledger again from the start: another process has changed it."""
        # What is on its way may have been dropped by a person: a retry of it is the ledger's to say.
        self._doubted |= self._lanes.under_way()
        self._read_afresh()

    def _read_afresh(self) -> None:
        self._lanes.forget_waiting()
        self._spilled, self._read_through = True, 0
        self._rescans += 1
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled. An exception that no code expected makes it start over from the ledger."""
        self._recover_until = self._clock() + self._policy.recovery_delay
        try:
            await self._supervisor.run(self._serve, self._forget)
        finally:
            self._closing = True
            await self._abandon()
            self._parked.flush()
            await self._leave()

    async def _serve(self) -> None:
        while True:
            self._wake.clear()
            if self._defect is not None:
                raise self._defect
            await self._refill()
            self._launch()
            self._note_idle()
            if not self._spilled and not self._lanes.busy:
                self._supervisor.works()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_length()):
                    await self._wake.wait()

    async def _forget(self) -> None:
        """Drop all that is in memory: the ledger has everything that is not delivered."""
        await self._abandon()
        if self._concluded:
            with contextlib.suppress(Exception):  # what cannot be written down is sent again
                await self._write(self._concluded)
            self._concluded.clear()
        self._lanes, self._slots, self._defect = Lanes(), 0, None
        self._doubted.clear()
        self._read_afresh()

    async def _abandon(self) -> None:
        """End all that is under way."""
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    async def _leave(self) -> None:
        if self._concluded:
            with contextlib.suppress(Exception):  # what cannot be written down is sent again
                await self._write(self._concluded)
        if self._sender.bulking:
            with contextlib.suppress(Exception):
                # What was being written when a task was cancelled is on disk before another dispatcher reads.
                await self._ledger.bind(Bulks(channel=self.name))
        try:
            async with asyncio.timeout(_CLOSING):
                await self._channel.close()
        except Exception:  # the run is over: what a channel cannot let go of ends with the process
            log.exception("the channel cannot be closed", channel=self.name)

    async def drained(self) -> None:
        """Return once nothing is ready or on its way (what waits for a retry stays in the ledger)."""
        self._note_idle()
        await self._idle.wait()

    async def settled(self) -> None:
        """Launch nothing any more, and return once all that is on its way has been answered and written down."""
        self._closing = True
        while self._working:
            await asyncio.wait(self._working)

    def _stir(self) -> None:
        """Wake the loop if there is anything for it: to read the ledger, or to wait for a time."""
        if self._spilled or self._lanes.waits:
            self._wake.set()
        self._note_idle()

    def _note_idle(self) -> None:
        if self._lanes.busy or self._spilled or (self._lanes.ready and not self._health.held(self._monotonic())):
            self._idle.clear()
        else:
            self._idle.set()

    # Claiming.

    async def _refill(self) -> None:
        while self._spilled and self._wants_more() and self._monotonic() >= self._read_not_before:
            self._missed = False
            self._finished.clear()
            room, rescans = self._policy.limit - len(self._lanes), self._rescans
            try:
                from_the_start = not self._read_through and self._sender.bulking
                bulks = await self._ledger.bound(self.name) if from_the_start else []
                found = await self._ledger.pending(self.name, self._read_through, room)
            except LedgerError as error:
                log.error("cannot read the outbox", channel=self.name, error=str(error))
                wait = self._policy.backoff.delay(self._unreadable, self._chance, at_least=0.5)
                self._unreadable, self._read_not_before = self._unreadable + 1, self._monotonic() + wait
                return
            self._unreadable = 0
            if rescans != self._rescans:
                continue  # this page follows on what has just been forgotten
            self._add_bulks(bulks)
            if found:
                self._read_through = found[-1].seq
                # What was settled while the ledger was being read may still look pending in what was read.
                self._lanes.add(self._recovered(one) for one in found if one.seq not in self._finished)
            elif not self._missed:
                self._spilled = False

    def _add_bulks(self, bulks: Sequence[Sequence[Notification]]) -> None:
        """Requests whose outcome is not known go before anything else of their lanes."""
        for members in bulks:
            left = tuple(self._recovered(one) for one in members if one.seq not in self._finished)
            if left:
                self._lanes.add_bulk(Bulk(left, stored=True, sent=True))

    def _wants_more(self) -> bool:
        """Whether memory is half empty; or all of it waits for a time, while others could go."""
        held, limit = len(self._lanes), self._policy.limit
        return held <= limit // 2 or (held < limit and not self._lanes.ready and not self._lanes.busy)

    def _recovered(self, notification: Notification) -> Notification:
        if notification.created_at > self._since:
            return notification
        return replace(notification, not_before=max(notification.not_before, self._recover_until))

    def _launch(self) -> None:
        while claim := self._claim():
            self._begin(self._work(claim), f"deliver to {self.name}")

    def _claim(self) -> list[Notification] | Bulk | None:
        """What is to be sent next, and a slot to do it in; None, if nothing is ready or may go."""
        if self._closing:
            return None
        now, health = self._monotonic(), self._health
        self._lanes.promote(self._clock())
        if not self._lanes.ready or self._slots >= health.slots or now < health.opens_at:
            return None
        bulk = self._lanes.take_bulk()
        probing = health.condition is Condition.PAUSED
        claim = bulk or self._lanes.take(1 if probing else max(1, self._channel.batch_size(self._lanes.free)))
        health.launched(len(claim.members if isinstance(claim, Bulk) else claim), now)
        self._slots += 1
        return claim

    def _begin(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._working.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._defect = task.exception()
            self._wake.set()

    def _pause_length(self) -> float | None:
        """Seconds until there may be something to do without being woken; None for "not before"."""
        if self._closing:
            return None
        now = self._monotonic()
        gates = (self._health.opens_at, self._read_not_before) if self._lanes.ready or self._spilled else ()
        waits = [gate - now for gate in gates if gate > now]
        due = self._lanes.next_due()
        if due is not None:
            waits.append(max(0.0, due - self._clock()))
        return min(waits, default=None)

    # Sending.

    async def _work(self, claim: list[Notification] | Bulk | None) -> None:
        """Send, and go on with what is ready next for as long as there is something: a task for each costs more."""
        while claim:
            try:
                sending = await self._sender.send(claim, self._metrics.attempts.inc)
            finally:
                self._slots -= 1
            self._health.judge(sending.answers, self._monotonic())
            self._put_back(sending)
            self._conclude(sending, claim)
            await asyncio.sleep(0)  # a channel that never waits must not hold the loop
            claim = self._claim()
        self._stir()

    def _put_back(self, sending: Sending) -> None:
        """What is to be sent in other requests than the one that was made for it goes at once."""
        for bulk in sending.later:
            self._lanes.again_together(bulk)
        for head, rest in sending.cut:
            self._lanes.cut(head, rest)
        if sending.later:
            self._launch()

    # Writing down.

    def _conclude(self, sending: Sending, claim: Sequence[Notification] | Bulk) -> None:
        """Say what each result means, and have it written."""
        concluded = conclude(sending, claim, self._policy, self._clock(), self._chance)
        for one in concluded:
            for sent, settlements in zip(one.sent, one.settlements, strict=True):
                for notification, settlement in zip(sent.together, settlements, strict=True):
                    self._note(notification, sent.result, settlement)
        self._concluded += concluded
        if self._concluded and not self._recording:
            self._recording = True
            self._begin(self._record(), f"record deliveries of {self.name}")

    def _note(self, notification: Notification, result: Result, settlement: Settlement) -> None:
        """Count a result, and log that a notification is given up."""
        if self._health.concluded(result, dead=settlement.status is Status.DEAD):
            self._parked.flush()
        if isinstance(result, Delivered):
            self.last_delivery = settlement.at
            self.delivered += 1
            self._metrics.delivered.inc()
            if result.sent:
                self._metrics.delivery_seconds.observe(max(0.0, settlement.at - _news_since(notification)))
            return
        self.failed += 1
        self._metrics.failed(result.reason)
        if settlement.status is Status.DEAD:
            self._metrics.dead_lettered.inc()
            self._parked.add(
                settlement.reason,
                notification.transition.alert,
                channel=self.name,
                alert=notification.transition.alert,
                notification=notification.id,
                reason=settlement.reason,
                detail=settlement.detail,
            )

    async def _record(self) -> None:
        """Write down what has been concluded, together with what is concluded meanwhile, and again while the ledger
        cannot: until then it counts as being sent."""
        attempt = 0
        try:
            while self._concluded:
                concluded, self._concluded = self._concluded, []
                try:
                    await self._write(concluded)
                except LedgerError as error:
                    log.error("cannot record deliveries", channel=self.name, error=str(error))
                    self._concluded[:0] = concluded
                    await asyncio.sleep(self._policy.backoff.delay(attempt, self._chance, at_least=0.5))
                    attempt += 1
                    continue
                attempt = 0
                self._supervisor.works()
                for one in concluded:
                    self._settled(one)
                if not self._spilled:
                    self._finished.clear()
                self._launch()
                self._stir()
        finally:
            self._recording = False

    async def _write(self, concluded: Sequence[Concluded]) -> None:
        settlements = [one for each in concluded for part in each.settlements for one in part]
        bulks = bulks_of(self.name, concluded)
        if bulks is None:
            await self._ledger.settle(settlements)
        else:
            await self._ledger.settle(settlements, bulks)

    def _settled(self, concluded: Concluded) -> None:
        """What is written is sent no more, or again at its time."""
        heads = [
            (sent.head, settlements[0]) for sent, settlements in zip(concluded.sent, concluded.settlements, strict=True)
        ]
        doubted = self._doubted.intersection(head.seq for head, _ in heads)
        self._doubted -= doubted
        pending = [head for head, settlement in heads if settlement.status is Status.PENDING]
        if concluded.again is not None and pending and not doubted:
            self._lanes.again_together(concluded.again)
            heads = []
        aside = any(isinstance(sent.result, Reschedule) for sent in concluded.sent)
        for head, settlement in heads:
            if settlement.status is not Status.PENDING:
                self._finished.add(head.seq)
                self._lanes.done(head)
            elif doubted:
                self._lanes.done(head)
            else:
                self._lanes.again(head, attempts=settlement.attempts, not_before=settlement.not_before, aside=aside)
        # A person may have dropped some of them; a digest may hold more than went into one message.
        long = any(len(settlements) >= MOST_MERGED for settlements in concluded.settlements)
        if long or (doubted and pending):
            self._read_afresh()


def _news_since(notification: Notification) -> float:
    """From when on a notification could have been delivered: what is merged waits on purpose."""
    changed = notification.transition.at / 1000
    return changed if notification.digest is None else max(changed, notification.not_before)
