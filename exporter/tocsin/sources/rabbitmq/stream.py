"""Messages of a queue as a source of events."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire

from tocsin.errors import DeadLetterError, SourceError, SourceReason
from tocsin.model import Event
from tocsin.sources.base import EventBatch, EventStream, Refused
from tocsin.sources.documents import Unreadable
from tocsin.sources.rabbitmq import messages
from tocsin.sources.rabbitmq.connection import connect, wire_of
from tocsin.sources.rabbitmq.dead_letters import Copy, DeadLetters
from tocsin.sources.rabbitmq.faults import answering, translated
from tocsin.sources.rabbitmq.limit import Returns
from tocsin.sources.rabbitmq.messages import Identities
from tocsin.sources.rabbitmq.settings import Config
from tocsin.sources.rabbitmq.topology import prepare, problems

_BATCH = 500
"""Messages in one batch."""
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
        try:
            async with contextlib.AsyncExitStack() as stack:
                yield await self._stream(stack)
        except SourceError as error:
            error.wait = max(error.wait, self._returns.wait())
            raise

    async def verify(self, names: Sequence[str]) -> list[str]:
        """See `tocsin.sources.base.EventSource`. A queue may hold events of any name."""
        del names
        return await problems(self.name, self._config)

    async def _stream(self, stack: contextlib.AsyncExitStack) -> "_Stream":
        """Consume the queue, until the stack ends."""
        config = self._config
        inbox: _Inbox = asyncio.Queue()
        async with answering(config, SourceReason.CONNECT):
            link = await connect(stack, f"tocsin {self.name}", config)
            channel = await link.connection.channel(publisher_confirms=False)
            await prepare(link, channel, config)
            await channel.set_qos(prefetch_count=config.prefetch)
            wire = await wire_of(channel)
            for ended in (wire.on_consumer_cancel_callbacks.add, wire.closing.add_done_callback):
                ended(lambda _: inbox.put_nowait(None))
            consume = await wire.basic_consume(config.queue, inbox.put, consumer_tag=config.consumer_tag)
        assert consume.consumer_tag is not None
        dead_letters = DeadLetters(self.name, config)
        stack.push_async_callback(dead_letters.close)
        self._returns.connected()
        consumer = _Consumer(config, wire, consume.consumer_tag, inbox)
        return _Stream(self.name, config, consumer, dead_letters, self._identities, self._returns, self._now)


_Inbox = asyncio.Queue[DeliveredMessage | None]
"""Delivered messages that are not processed yet; the prefetch bounds it. None: no more can arrive."""


class _Consumer:
    """A consumer of the queue."""

    def __init__(self, config: Config, wire: Wire, tag: str, inbox: _Inbox) -> None:
        self._config = config
        self._wire = wire
        self._tag = tag
        self._inbox = inbox

    async def receive(self) -> list[DeliveredMessage]:
        """Wait for messages, and return those that have arrived. Raises SourceError if none can arrive."""
        found = [await self._inbox.get()]
        # Messages of a lost connection cannot be acknowledged: they will be delivered again.
        self.check()
        while len(found) < _BATCH and not self._inbox.empty():
            found.append(self._inbox.get_nowait())
        return [message for message in found if message is not None]

    def check(self) -> None:
        """Raise SourceError if no message can arrive any more."""
        wire, server = self._wire, self._config.display
        if wire.is_closed:
            # The connection has a better reason than its channels.
            for ended in (wire.connection, wire):
                if ended.is_closed and not ended.closing.cancelled() and (error := ended.closing.exception()):
                    raise translated(error, self._config, SourceReason.DISCONNECTED)
            raise SourceError("the connection is closed", SourceReason.DISCONNECTED, server=server)
        if self._tag not in wire.consumers:
            text = f"the server no longer delivers from the queue {self._config.queue}: it was deleted, or moved to "
            text += "another node, or a message was held for longer than x-consumer-timeout"
            raise SourceError(text, SourceReason.DROPPED, server=server)

    async def acknowledge(self, last: int) -> None:
        """Acknowledge every message up to this delivery tag. Raises SourceError."""
        async with answering(self._config):
            self.check()
            await self._wire.basic_ack(last, multiple=True)


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
        consumer: _Consumer,
        dead_letters: DeadLetters,
        identities: Identities,
        returns: Returns,
        now: Callable[[], float],
    ) -> None:
        self._source = source
        self._config = config
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._identities = identities
        self._returns = returns
        self._now = now
        self._acknowledged = 0

    async def batches(self) -> AsyncIterator[EventBatch]:
        while True:
            found = await self._consumer.receive()
            yield self._batch([self._read(message) for message in found])

    async def prepare(self, batch: EventBatch) -> None:
        """Do nothing: RabbitMQ delivers unacknowledged messages again."""

    async def hold(self) -> bool:
        # The library answers heartbeats, and RabbitMQ waits for the acknowledgement.
        self._consumer.check()
        return True

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:
        assert isinstance(batch.receipt, list)
        unmatched_ids = {event.id for event in unmatched}
        copies = [(one.message, self._copy(one, unmatched_ids)) for one in batch.receipt]
        try:
            await self._dead_letters.publish([copy for _, copy in copies if copy is not None])
        except DeadLetterError:
            # The messages before the first one whose copy is not kept.
            last = 0
            for message, copy in copies:
                if copy is not None and not self._dead_letters.confirmed(messages.tag(message)):
                    break
                last = messages.tag(message)
            if last > self._acknowledged:
                await self._acknowledge(last)
            raise
        await self._acknowledge(messages.tag(batch.receipt[-1].message))

    async def _acknowledge(self, last: int) -> None:
        # Batches are acknowledged in the order of delivery, so everything up to here is safe.
        await self._consumer.acknowledge(last)
        self._acknowledged = last
        for one in (self._dead_letters, self._identities, self._returns):
            one.acknowledged(last)

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
        own = messages.message_id(message)
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
        message = received.message
        return Copy(
            message=message,
            headers={
                "x-tocsin-source": self._source,
                "x-tocsin-reason": reason,
                "x-tocsin-detail": detail,
                "x-tocsin-exchange": message.exchange or "",
                "x-tocsin-routing-key": message.routing_key or "",
            },
        )
