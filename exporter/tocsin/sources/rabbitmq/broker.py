"""The connection over which messages are taken from the queue and acknowledged."""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire

from tocsin.errors import SourceError, SourceReason
from tocsin.redaction import redactor
from tocsin.sources.rabbitmq import topology
from tocsin.sources.rabbitmq.connection import connect, wire_of
from tocsin.sources.rabbitmq.dead_letters import Copy, DeadLetters
from tocsin.sources.rabbitmq.faults import Words, answering, translated
from tocsin.sources.rabbitmq.settings import Config

Take = Callable[[DeliveredMessage], None]


class Broker:
    """A consumer of the queue, and what it does with what it has got."""

    def __init__(self, config: Config, wire: Wire, consumer: str, words: Words, dead_letters: DeadLetters) -> None:
        self._config = config
        self._wire = wire
        self._consumer = consumer
        self._words = words
        self._dead_letters = dead_letters

    def check(self) -> None:
        """Raises SourceError if no message can come any more."""
        if self._wire.is_closed:
            # The connection knows better than its channels why it ended.
            for ended in (self._wire.connection, self._wire):
                if ended.is_closed and not ended.closing.cancelled() and (error := ended.closing.exception()):
                    raise translated(error, self._config, self._words, SourceReason.DISCONNECTED)
            raise SourceError(f"{self._config.display}: the connection is closed", SourceReason.DISCONNECTED)
        if self._consumer not in self._wire.consumers:
            raise SourceError(
                f"{self._config.display}: the server no longer delivers from the queue {self._config.queue}: it was "
                "deleted, or moved to another node",
                SourceReason.DROPPED,
            )

    async def acknowledge(self, last: int) -> None:
        """Every message up to this number is safe. Raises SourceError."""
        async with answering(self._config, self._words):
            self.check()
            await self._wire.basic_ack(last, multiple=True)
        self._dead_letters.acknowledged(last)

    async def bury(self, copies: Sequence[Copy]) -> None:
        """See `DeadLetters.keep`."""
        await self._dead_letters.keep(copies)

    def buried(self, number: int) -> bool:
        """See `DeadLetters.safe`."""
        return self._dead_letters.safe(number)


@asynccontextmanager
async def connected(source: str, config: Config, take: Take) -> AsyncIterator[Broker]:
    """A connection over which each message of the queue is given to `take`. Raises SourceError."""
    words = redactor(config.hidden())
    async with contextlib.AsyncExitStack() as stack:
        async with answering(config, words, SourceReason.CONNECT):
            link = await connect(stack, f"tocsin {source}", config)
            taking = await link.connection.channel(publisher_confirms=False)
            if config.declare:
                topology.refuse_limit(config, link.version)
                await topology.declare(taking, config)
            else:
                await topology.look(taking, config)
                await topology.refuse_stream(link.connection, config)
            await taking.set_qos(prefetch_count=config.prefetch)
            wire = await wire_of(taking)
            consume = await wire.basic_consume(config.queue, _taking(take), consumer_tag=config.consumer_tag)
            assert consume.consumer_tag is not None
        dead_letters = DeadLetters(source, config, words)
        stack.push_async_callback(dead_letters.close)
        yield Broker(config, wire, consume.consumer_tag, words, dead_letters)


def _taking(take: Take) -> Callable[[DeliveredMessage], Coroutine[None, None, None]]:
    async def taken(message: DeliveredMessage) -> None:
        take(message)

    return taken
