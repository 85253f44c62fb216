"""Messages of a queue as a source of events."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from aiormq.abc import DeliveredMessage

from tocsin.errors import DeadLetterError, SourceError
from tocsin.model import Event
from tocsin.sources.base import EventBatch, EventStream, Refused
from tocsin.sources.rabbitmq import messages
from tocsin.sources.rabbitmq.broker import Broker, connected
from tocsin.sources.rabbitmq.dead_letters import Copy
from tocsin.sources.rabbitmq.limit import Returns
from tocsin.sources.rabbitmq.messages import Identities, Unreadable
from tocsin.sources.rabbitmq.settings import Config
from tocsin.sources.rabbitmq.topology import problems

log = structlog.get_logger(__name__)

_BATCH = 500
"""Messages in one batch."""
_CHECK_EVERY = 1.0
"""Seconds between checks that messages can still arrive. The library does not report that the server cancelled a
consumer."""
_NAMED = 5
"""Names listed in the reason of a dead letter."""


class RabbitMQ:
    """See `tocsin.sources.base.EventSource`."""

    def __init__(
        self,
        name: str,
        config: Config,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now`: the wall clock in seconds, for messages without a time. `monotonic`: for the time between
        connections."""
        self.name = name
        self._config = config
        self._now = now
        self._returns = Returns(config, monotonic)
        self._identities = Identities()

    def __repr__(self) -> str:
        return f"RabbitMQ({self.name!r})"

    @asynccontextmanager
    async def open(self, names: Sequence[str], *, position: Mapping[str, int]) -> AsyncIterator[EventStream]:
        # Every message is read, so that unmatched ones become dead letters; the server stores what is acknowledged.
        del names, position
        self._identities.reconnected()
        inbox = _Inbox()
        try:
            async with connected(self.name, self._config, inbox.put) as broker:
                self._returns.connected()
                yield _Stream(self.name, self._config, broker, inbox, self._identities, self._returns, self._now)
        except SourceError as error:
            error.wait = max(error.wait, self._returns.wait())
            raise

    async def verify(self, names: Sequence[str]) -> list[str]:
        """See `tocsin.sources.base.EventSource`. A queue may hold events of any name."""
        del names
        return await problems(self.name, self._config)


class _Inbox:
    """Delivered messages that are not processed yet. The prefetch bounds it."""

    def __init__(self) -> None:
        self._waiting: deque[DeliveredMessage] = deque()
        self._arrived = asyncio.Event()

    def put(self, message: DeliveredMessage) -> None:
        self._waiting.append(message)
        self._arrived.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a message, at most this long."""
        if not self._waiting:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()

    def take(self, most: int) -> list[DeliveredMessage]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


@dataclass(slots=True, kw_only=True)
class _Received:
    """A message with its events, or why it has none."""

    message: DeliveredMessage
    events: Sequence[Event] = ()
    fault: Unreadable | None = None


class _Stream:
    """Batches of one queue over one connection. Several may wait for `acknowledge`, up to the prefetch."""

    def __init__(
        self,
        source: str,
        config: Config,
        broker: Broker,
        inbox: _Inbox,
        identities: Identities,
        returns: Returns,
        now: Callable[[], float],
    ) -> None:
        self._source = source
        self._config = config
        self._broker = broker
        self._inbox = inbox
        self._identities = identities
        self._returns = returns
        self._now = now
        self._acknowledged = 0

    async def batches(self) -> AsyncIterator[EventBatch]:
        while True:
            await self._inbox.wait(_CHECK_EVERY)
            # Messages of a lost connection cannot be acknowledged: they will be delivered again.
            self._broker.check()
            if delivered := self._inbox.take(_BATCH):
                yield self._batch([self._read(message) for message in delivered])

    async def prepare(self, batch: EventBatch) -> None:
        """Do nothing: RabbitMQ delivers unacknowledged messages again."""

    async def hold(self) -> bool:
        # The library answers heartbeats, and RabbitMQ waits for the acknowledgement.
        self._broker.check()
        return True

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:
        assert isinstance(batch.receipt, list)
        unmatched_ids = {event.id for event in unmatched}
        copies = {
            messages.tag(received.message): copy
            for received in batch.receipt
            if (copy := self._copy(received, unmatched_ids)) is not None
        }
        try:
            await self._broker.dead_letters.publish(list(copies.values()))
        except DeadLetterError:
            await self._acknowledge_before(batch.receipt, copies)
            raise
        await self._acknowledge(messages.tag(batch.receipt[-1].message))

    async def _acknowledge_before(self, received: Sequence["_Received"], copies: Mapping[int, Copy]) -> None:
        """Acknowledge the messages before the first one whose copy is not confirmed."""
        last = 0
        for one in received:
            number = messages.tag(one.message)
            if number in copies and not self._broker.dead_letters.confirmed(number):
                break
            last = number
        if last > self._acknowledged:
            await self._acknowledge(last)

    async def _acknowledge(self, last: int) -> None:
        # Batches are acknowledged in the order of delivery, so everything up to here is safe.
        await self._broker.acknowledge(last)
        self._acknowledged = last
        self._identities.acknowledged(last)
        self._returns.acknowledged(last)

    def _read(self, message: DeliveredMessage) -> _Received:
        id_ = self._identities.of(message)
        self._returns.delivered(message)
        try:
            found = messages.events(message, id_, self._config, self._now)
        except Unreadable as fault:
            return _Received(message=message, fault=fault)
        return _Received(message=message, events=found)

    def _batch(self, received: list[_Received]) -> EventBatch:
        return EventBatch(
            events=[event for one in received for event in one.events],
            refused=[
                Refused(id=self._place(one.message), reason=one.fault.reason, detail=one.fault.detail)
                for one in received
                if one.fault is not None
            ],
            receipt=received,
            returns=self._returns.highest,
            near_limit=self._returns.near,
            warning=self._returns.warning,
        )

    def _place(self, message: DeliveredMessage) -> str:
        """Return where a refused message can be found."""
        own = message.header.properties.message_id
        return f"{self._config.dead_letter_name}/{own}" if own else self._config.dead_letter_name

    def _copy(self, received: _Received, unmatched_ids: set[str]) -> Copy | None:
        """Return the dead letter of a message, if it has one."""
        if received.fault is not None:
            reason, detail = received.fault.reason.value, received.fault.detail
        else:
            names = [event.name for event in received.events if event.id in unmatched_ids]
            if not names:
                return None
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            reason, detail = "unmatched", f"no alert takes {', '.join(name[:100] for name in names[:_NAMED])}{more}"
        delivery = messages.delivered(received.message)
        return Copy(
            message=received.message,
            headers={
                "x-tocsin-source": self._source,
                "x-tocsin-reason": reason,
                "x-tocsin-detail": detail,
                "x-tocsin-exchange": delivery.exchange or "",
                "x-tocsin-routing-key": delivery.routing_key or "",
            },
        )
