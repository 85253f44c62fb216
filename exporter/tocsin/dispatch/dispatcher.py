"""The loop of one channel: claim, send, record.

A notification goes through these steps:

1. `Claims` reads notifications that may be sent now from the ledger, before they are needed. What a silence matches
   goes back to the ledger (`screening.py`).
2. `_next` takes some of them if a slot is free and the channel may send now.
3. `Sender` makes messages of them, and sends them.
4. `Health` judges the answers: how many sends may run at the same time, and when the next one may begin.
5. `_record` has `decisions.settlements` decide about each notification: delivered, retry at a time, or dead letter.
6. `Recorder` writes the decisions to the ledger, many in one transaction.

`_serve` is the loop. Each `_work` is a task with a slot, which repeats the steps 2 to 5 while there is more to send.
"""

import asyncio
import contextlib

import structlog

from tocsin.channels.base import Channel
from tocsin.dispatch.base import Setup
from tocsin.dispatch.claims import Claims
from tocsin.dispatch.decisions import ChannelStatus, Health, Hold, is_unknown, settlements
from tocsin.dispatch.failures import Failures
from tocsin.dispatch.recorder import Recorder
from tocsin.dispatch.sending import Claim, Sender, Sending, Sent
from tocsin.dispatch.supervision import Supervisor
from tocsin.errors import LedgerError
from tocsin.ledger.sharing import Held

log = structlog.get_logger(__name__)

_AFTER_OTHERS = 2.0
"""Seconds after a pause that another process has found out."""
_UNTIL_VALID = 0.1
"""Seconds between two looks whether this process can reach the ledger again."""
_CLOSE_TIMEOUT = 5.0
"""Seconds that a channel has to close its connections."""


class Dispatcher:
    """Delivers what the ledger holds for one channel.

    The ledger is the queue. Memory holds the claimed notifications, and what is being sent and recorded.
    """

    def __init__(self, setup: Setup) -> None:
        self.name = setup.name
        self._setup = setup
        self._claims = Claims(setup)
        self._health = Health(setup)
        self._sender = Sender(setup)
        self._recorder = Recorder(setup, self._health)
        self._supervisor = Supervisor(
            name=setup.name, metrics=setup.metrics, backoff=setup.policy.backoff, chance=setup.chance
        )
        self._sending = 0
        """Slots that are taken: sends that run now."""
        self._changed_elsewhere = False
        self._held: Held | None = None
        self._closing = False
        """Whether no further send may begin."""
        self._wake = asyncio.Event()
        """Set when there may be something to do."""
        self._idle = asyncio.Event()
        """Set while there is nothing to do, see `_note_idle`."""

    async def run(self) -> None:
        """Send until cancelled. After an unexpected exception it starts again from the ledger."""
        try:
            await self._supervisor.run(self._serve, self._recorder.flush)
        finally:
            self._closing = True
            await self._recorder.flush()
            self._recorder.close()
            await self._close_channel()

    async def _serve(self) -> None:
        self._claims, self._sending = Claims(self._setup), 0
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._recorder.run(self._recorded), name=f"record deliveries of {self._setup.name}")
            while True:
                self._wake.clear()
                if self._changed_elsewhere:
                    self._changed_elsewhere = False
                    await self._claims.reread()
                if not self._closing:
                    await self._claims.refill()
                while claim := self._next():
                    tasks.create_task(self._work(claim), name=f"deliver to {self._setup.name}")
                if self._note_idle():
                    self._supervisor.works()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._wake.wait()

    def _next(self) -> Claim | None:
        """Take what is sent next, and a slot to do it in; None if nothing may be sent now."""
        now, health = self._setup.monotonic(), self._health
        if self._closing or not self._claims or not self._setup.ledger.sharing.valid:
            return None
        if not self._claims.screened():
            return None
        if self._sending >= health.slots:  # all are taken; while the receiver is down there is only one
            return None
        if now < health.opens_at:  # a pause, an outage or the rate limit
            return None
        # While the channel is paused, one notification or request finds out whether the receiver accepts again.
        claim = self._claims.take(probe=health.status is ChannelStatus.PAUSED)
        health.launched(len(claim.heads), now)
        self._sending += 1
        if self._claims.wants_more:
            self._wake.set()
        return claim

    async def _work(self, claim: Claim | None) -> None:
        """Send, and go on with what comes next: a task for each send costs more."""
        while claim:
            try:
                await self._turn(len(claim.heads))
                sending = await self._sender.send(claim, self._setup.metrics.attempts.inc)
            finally:
                self._sending -= 1
            self._health.judge(sending.answers, self._setup.monotonic())
            await self._pass_on()
            self._record(sending, sent_before=claim.sent_before)
            await self._claims.give_back(sending.unsent)
            await asyncio.sleep(0)  # a channel that never waits must not block the event loop
            claim = self._next()
        self._wake_if_needed()

    # With other processes that send to the channel.

    async def _turn(self, count: int) -> None:
        """Wait until so many may be sent under the rate limit of all processes together."""
        ledger, rate = self._setup.ledger, self._setup.policy.rate_limit
        if rate and len(ledger.sharing.instances) > 1:
            with contextlib.suppress(LedgerError):  # then this process keeps the limit by itself
                await asyncio.sleep(await ledger.turn(self._setup.name, count / rate))

    async def _pass_on(self) -> None:
        """Have other processes know that the channel is paused, or accepts again."""
        news, self._health.news = self._health.news, None
        if news is not None and len(self._setup.ledger.sharing.instances) > 1:
            with contextlib.suppress(LedgerError):  # then each finds out by itself
                seconds = max(0.0, news.until - self._setup.monotonic())
                await self._setup.ledger.hold(self._setup.name, seconds, news.why)

    def held(self, hold: Held | None) -> None:
        """What other processes of the ledger have found out about the channel."""
        if hold == self._held:
            return
        self._held = hold
        until, why = (0.0, "") if hold is None else hold
        # The process that was refused finds out first whether the receiver accepts again.
        seconds = until - self._setup.clock() + (_AFTER_OTHERS if why else 0.0)
        self._health.held_elsewhere(Hold(self._setup.monotonic() + seconds, why))
        self._wake.set()

    def _record(self, sending: Sending, *, sent_before: bool) -> None:
        """Decide about each message, and queue the decisions.

        After a timeout it is not known whether the request arrived. All its messages are then retried together, at one
        time, so that the repeat is the same request: a receiver detects repeats by the idempotency key of the request.
        `sent_before`: the request is such a repeat. Even if it fails, the request before may have arrived.
        """
        known, unknown = list(sending.separate), list[Sent]()
        for sent in sending.in_request:
            (unknown if is_unknown(sent.result, sent_before=sent_before) else known).append(sent)
        for sent in known:
            decided = settlements(sent.notifications, sent.result, self._setup)
            self._recorder.add(sent.notifications, sent.result, decided)
        if unknown:
            members = [one for sent in unknown for one in sent.notifications]
            # `repeat`: next time, too, they are sent as this request.
            each = iter(settlements(members, unknown[0].result, self._setup, repeat=True))
            for sent in unknown:
                self._recorder.add(sent.notifications, sent.result, [next(each) for _ in sent.notifications])

    def _recorded(self, more: bool) -> None:
        self._supervisor.works()
        if more:
            self._claims.changed()
        self._wake_if_needed()

    def _wake_if_needed(self) -> None:
        """Wake the loop if there is something for it to do."""
        if self._claims or self._claims.wants_more:
            self._wake.set()
        else:
            self._note_idle()

    def _note_idle(self) -> bool:
        """Set `_idle` if nothing is being sent or recorded, and nothing can be sent now. Returns whether it is set.

        Nothing can be sent during a pause or an outage, while another process may have taken over, and once `finish`
        was called.
        """
        has_more = not self._closing and (bool(self._claims) or self._claims.wants_more)
        can_send = has_more and self._setup.ledger.sharing.valid and not self._health.holds(self._setup.monotonic())
        if self._sending or not self._recorder.idle or can_send:
            self._idle.clear()
        else:
            self._idle.set()
        return self._idle.is_set()

    def _pause(self) -> float | None:
        """Seconds until there is something to do even if `_wake` is not set; None: only `_wake` ends the wait."""
        if self._closing:
            return None
        now, waits = self._setup.monotonic(), []
        if self._claims and self._claims.screened() and self._sending < self._health.slots:
            waits.append(self._health.opens_at - now if self._setup.ledger.sharing.valid else _UNTIL_VALID)
        if self._claims.wants_more:
            waits.append(self._claims.read_at - now)
        elif self._claims.next_at is not None:
            waits.append(self._claims.next_at - self._setup.clock())
        return max(0.0, min(waits)) if waits else None

    async def _close_channel(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._setup.channel.close()
        except Exception:  # what a channel cannot close ends with the process
            log.exception("the channel cannot be closed", channel=self._setup.name)

    # From outside.

    def wake(self) -> None:
        """The ledger has new notifications for the channel."""
        self._claims.changed()
        self._wake.set()
        self._note_idle()

    def inherit(self) -> None:
        """Another process of the ledger has ended."""
        self._claims.inherit()
        self.wake()

    def rescan(self) -> None:
        """Another process has changed the outbox."""
        self._changed_elsewhere = True
        self.wake()

    async def drained(self) -> None:
        """Return once nothing can be sent now and everything sent is recorded. Notifications that wait for a retry stay
        in the ledger."""
        self._note_idle()
        await self._idle.wait()

    async def finish(self) -> None:
        """Begin no further send, and return once all that is being sent is answered and recorded. What is claimed and
        not sent is released: other processes may send it."""
        self._closing = True
        await self._claims.reread()
        await self.drained()

    # Status.

    @property
    def fault(self) -> str:
        """The unexpected exception that stopped the loop a moment ago; empty while it works."""
        return self._supervisor.message

    @property
    def unread(self) -> str:
        """Why the outbox cannot be read; empty while it can."""
        return f"cannot read the outbox: {self._claims.fault}" if self._claims.fault else ""

    @property
    def status(self) -> ChannelStatus:
        """The state of the channel."""
        return ChannelStatus.FAILING if self.fault else self._health.status

    @property
    def delivers(self) -> bool:
        """False while the channel is paused, or gives up on one notification after another."""
        return self._health.delivers and not self.fault

    @property
    def message(self) -> str:
        """What is wrong with the channel, for people; empty while nothing is."""
        return self.fault or self._health.message or self.unread

    @property
    def channel(self) -> Channel:
        """What it sends with."""
        return self._setup.channel

    @property
    def opens_in(self) -> float:
        """Seconds until the next send may begin: a pause, an outage or a rate limit. 0: now."""
        return max(0.0, self._health.opens_at - self._setup.monotonic())

    @property
    def is_limited(self) -> bool:
        """Whether only the rate limit keeps the next send from beginning."""
        return self.opens_in > 0 and not self._health.holds(self._setup.monotonic())

    @property
    def delivered(self) -> int:
        """Notifications delivered since the start."""
        return self._recorder.delivered

    @property
    def failed(self) -> int:
        """Failed attempts since the start."""
        return self._recorder.failed

    @property
    def last_delivery(self) -> float | None:
        """When the last notification was delivered."""
        return self._recorder.last_delivery

    @property
    def failures(self) -> Failures:
        """The latest failed attempts since the start."""
        return self._recorder.failures

    @property
    def delays(self) -> tuple[int, float]:
        """How many delays of deliveries are known since the start, and their sum in seconds."""
        return self._recorder.delays, self._recorder.delay_seconds
