"""The connection that consumes the queue and acknowledges its messages."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire

from tocsin.errors import SourceError, SourceReason
from tocsin.redaction import redactor
from tocsin.sources.rabbitmq import topology
from tocsin.sources.rabbitmq.connection import connect, wire_of
from tocsin.sources.rabbitmq.dead_letters import DeadLetters
from tocsin.sources.rabbitmq.faults import Redact, answering, translated
from tocsin.sources.rabbitmq.settings import Config

Receive = Callable[[DeliveredMessage], None]


class Broker:
    """A consumer of the queue."""

    def __init__(self, config: Config, wire: Wire, consumer: str, redact: Redact, dead_letters: DeadLetters) -> None:
        self._config = config
        self._wire = wire
        self._consumer = consumer
        self._redact = redact
        self.dead_letters = dead_letters

    def check(self) -> None:
        """Raise SourceError if no message can arrive any more."""
        if self._wire.is_closed:
            # The connection has a better reason than its channels.
            for ended in (self._wire.connection, self._wire):
                if ended.is_closed and not ended.closing.cancelled() and (error := ended.closing.exception()):
                    raise translated(error, self._config, self._redact, SourceReason.DISCONNECTED)
            raise SourceError(f"{self._config.display}: the connection is closed", SourceReason.DISCONNECTED)
        if self._consumer not in self._wire.consumers:
            raise SourceError(
                f"{self._config.display}: the server no longer delivers from the queue {self._config.queue}: it was "
                "deleted, or moved to another node",
                SourceReason.DROPPED,
            )

    async def acknowledge(self, last: int) -> None:
        """Acknowledge every message up to this delivery tag. Raises SourceError."""
        async with answering(self._config, self._redact):
            self.check()
            await self._wire.basic_ack(last, multiple=True)
        self.dead_letters.acknowledged(last)


@asynccontextmanager
async def connected(source: str, config: Config, receive: Receive) -> AsyncIterator[Broker]:
    """Consume the queue: each message is passed to `receive`. Raises SourceError."""
    redact = redactor(config.hidden())

    async def on_message(message: DeliveredMessage) -> None:
        receive(message)

    async with contextlib.AsyncExitStack() as stack:
        async with answering(config, redact, SourceReason.CONNECT):
            link = await connect(stack, f"tocsin {source}", config)
            channel = await link.connection.channel(publisher_confirms=False)
            if config.declare:
                topology.refuse_limit(config, link.version)
                await topology.declare(channel, config)
            else:
                await topology.check(channel, config)
                await topology.refuse_stream(link.connection, config)
            await channel.set_qos(prefetch_count=config.prefetch)
            wire = await wire_of(channel)
            consume = await wire.basic_consume(config.queue, on_message, consumer_tag=config.consumer_tag)
            assert consume.consumer_tag is not None
        dead_letters = DeadLetters(source, config, redact)
        stack.push_async_callback(dead_letters.close)
        yield Broker(config, wire, consume.consumer_tag, redact, dead_letters)
