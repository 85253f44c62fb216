"""The loop of one channel: claim, send, record."""

import asyncio
import contextlib

import structlog

from tocsin.dispatch.base import Setup
from tocsin.dispatch.claims import Claims
from tocsin.dispatch.decisions import ChannelStatus, Health, is_unknown, settlements
from tocsin.dispatch.recorder import Recorder
from tocsin.dispatch.sending import Claim, Sender, Sending, Sent
from tocsin.dispatch.supervision import Supervisor

log = structlog.get_logger(__name__)

_CLOSING = 5.0
"""Seconds that a channel has to close its connections."""


class Dispatcher:
    """Delivers what the ledger holds for one channel.

    The ledger is the queue. Memory holds a page of claimed notifications, and what is being sent and recorded.
    """

    def __init__(self, setup: Setup) -> None:
        self.name = setup.name
        self._setup = setup
        self._claims = Claims(setup)
        self._health = Health(setup)
        self._sender = Sender(setup)
        self._recorder = Recorder(setup, self._health)
        self._supervisor = Supervisor(setup.name, setup.metrics, setup.policy.backoff, setup.chance)
        self._sending = 0
        self._changed_elsewhere = False
        self._closing = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()

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
        if self._closing or not self._claims or self._sending >= health.slots or now < health.opens_at:
            return None
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
                sending = await self._sender.send(claim, self._setup.metrics.attempts.inc)
            finally:
                self._sending -= 1
            self._health.judge(sending.answers, self._setup.monotonic())
            self._record(sending, repeated=claim.repeated)
            await self._claims.give_back(sending.unsent)
            await asyncio.sleep(0)  # a channel that never waits must not block the event loop
            claim = self._next()
        self._stir()

    def _record(self, sending: Sending, *, repeated: bool) -> None:
        """Decide about each message. What shares a request of unknown outcome has one time and one end."""
        known, unknown = list(sending.apart), list[Sent]()
        for sent in sending.request:
            (unknown if is_unknown(sent.result, repeated=repeated) else known).append(sent)
        for sent in known:
            self._recorder.add(sent.together, sent.result, settlements(sent.together, sent.result, self._setup))
        if unknown:
            everything = [one for sent in unknown for one in sent.together]
            decided = iter(settlements(everything, unknown[0].result, self._setup, repeat=True))
            for sent in unknown:
                self._recorder.add(sent.together, sent.result, [next(decided) for _ in sent.together])

    def _recorded(self, more: bool) -> None:
        self._supervisor.works()
        if more:
            self._claims.changed()
        self._stir()

    def _stir(self) -> None:
        """Wake the loop if there is something for it to do."""
        if self._claims or self._claims.wants_more:
            self._wake.set()
        else:
            self._note_idle()

    def _note_idle(self) -> bool:
        """Set `_idle` where nothing is to be sent now, or may be."""
        waiting = not self._closing and (bool(self._claims) or self._claims.wants_more)
        if self._sending or not self._recorder.idle or (waiting and not self._health.holds(self._setup.monotonic())):
            self._idle.clear()
        else:
            self._idle.set()
        return self._idle.is_set()

    def _pause(self) -> float | None:
        """Seconds until there may be something to do without being woken; None for "not before"."""
        if self._closing:
            return None
        now, waits = self._setup.monotonic(), []
        if self._claims and self._sending < self._health.slots:
            waits.append(self._health.opens_at - now)
        if self._claims.wants_more:
            waits.append(self._claims.read_at - now)
        elif self._claims.next_at is not None:
            waits.append(self._claims.next_at - self._setup.clock())
        return max(0.0, min(waits)) if waits else None

    async def _close_channel(self) -> None:
        try:
            async with asyncio.timeout(_CLOSING):
                await self._setup.channel.close()
        except Exception:  # what a channel cannot close ends with the process
            log.exception("the channel cannot be closed", channel=self._setup.name)

    # From outside.

    def wake(self) -> None:
        """The ledger has new notifications for the channel."""
        self._claims.changed()
        self._wake.set()
        self._note_idle()

    def rescan(self) -> None:
        """Another process has changed the outbox."""
        self._changed_elsewhere = True
        self.wake()

    async def drained(self) -> None:
        """Return once nothing can be sent now and everything sent is recorded. Notifications that wait for a retry stay
        in the ledger."""
        self._note_idle()
        await self._idle.wait()

    async def settled(self) -> None:
        """Begin no further send, and return once all that is being sent is answered and recorded."""
        self._closing = True
        await self.drained()

    # Status.

    @property
    def fault(self) -> str:
        """The unexpected exception that stopped the loop a moment ago; empty while it works."""
        return self._supervisor.message

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
        return self.fault or self._health.message

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
