"""Queues and exchanges: declared, or compared with existing ones."""

import contextlib
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity

from tocsin.errors import SourceError, SourceReason
from tocsin.redaction import redactor
from tocsin.sources.rabbitmq.connection import connect, wire_of
from tocsin.sources.rabbitmq.faults import BY_CODE, a_stream, answering, translating
from tocsin.sources.rabbitmq.settings import Config

_LIMIT = "x-delivery-limit"
_LIMITLESS_FROM = 4
"""Major version of RabbitMQ from which a negative delivery limit means no limit."""


class _Wide(int):
    """An integer that the library writes in at least two bytes: a negative number in one byte comes out wrong.

    pamqp 3 compares the value with -128 first, to choose one byte.
    """

    def __ge__(self, other: object) -> bool:
        return other != -128 and int(self) >= other  # type: ignore[operator]


def writable(value: Any) -> Any:
    """Return a value of a table as the library can write it."""
    return _Wide(value) if type(value) is int and value < 0 else value


async def problems(source: str, config: Config) -> list[str]:
    """Return what would prevent messages, as far as it can be checked without creating or consuming anything: rights
    show only in use."""
    redact = redactor(config.hidden())
    found: list[str] = []
    try:
        async with contextlib.AsyncExitStack() as stack, answering(config, redact, SourceReason.CONNECT):
            link = await connect(stack, f"tocsin {source}", config)
            if config.declare:
                refuse_limit(config, link.version)
            for kind, name, given in _parts(config):
                try:
                    with translating(config, redact, SourceReason.DISCONNECTED):
                        await _compare(link.connection, config, kind, name, given)
                except SourceError as error:
                    if error.reason not in BY_CODE.values():
                        raise
                    found.append(str(error))
    except SourceError as error:
        found.append(str(error))
    return found


def _parts(config: Config) -> list[tuple[str, str, dict[str, Any]]]:
    """Return what is declared, or must exist: kind, name, and arguments of the declaration."""
    if not config.declare:
        return [("queue", config.queue, {}), ("exchange", config.dead_letter_name, {})]
    exchanges = [("exchange", *each) for each in _exchanges(config).items()]
    return [*exchanges, *(("queue", *each) for each in _queues(config).items())]


async def _compare(connection: AbstractConnection, config: Config, kind: str, name: str, given: dict[str, Any]) -> None:
    """Raise the server's error where something is missing that will not be declared, or exists with other arguments."""

    async def declare(**how: Any) -> None:
        # A separate channel: the server closes it when it refuses.
        async with connection.channel(publisher_confirms=False) as channel:
            await (channel.declare_queue if kind == "queue" else channel.declare_exchange)(name, **how)

    try:
        await declare(passive=True)
    except ChannelNotFoundEntity:
        if config.declare:
            return
        raise
    if config.declare:
        # It exists, so nothing is created; the server compares arguments only in a declaration that is not passive.
        await declare(**given)
    elif kind == "queue":
        await refuse_stream(connection, config)


async def refuse_stream(connection: AbstractConnection, config: Config) -> None:
    """Raise SourceError if the existing queue is a stream.

    A passive declaration does not tell the type, and another one needs a right that the user may lack. Only a stream
    accepts a consumer with an offset; other queues refuse it before they deliver anything.
    """

    async def ignore(_: object) -> None: ...

    try:
        # A separate channel: the server closes it when it refuses.
        async with connection.channel(publisher_confirms=False) as channel:
            await channel.set_qos(prefetch_count=1)
            await (await wire_of(channel)).basic_consume(config.queue, ignore, arguments={"x-stream-offset": "next"})
    except AMQPError:
        return
    raise SourceError(f"{config.display}: {a_stream(config.queue)}", SourceReason.SHAPE)


def refuse_limit(config: Config, version: str) -> None:
    """Raise SourceError where a server of this version gives the delivery limit another meaning."""
    limit = config.queue_arguments.get(_LIMIT)
    major = version.partition(".")[0]
    old = not major.isdecimal() or int(major) < _LIMITLESS_FROM
    if isinstance(limit, int) and limit < 0 and old:
        raise SourceError(
            f"{config.display}: RabbitMQ {version or 'of an unknown version'} drops a message at its first return if "
            f"{_LIMIT} is negative; only from {_LIMITLESS_FROM}.0 on that means no limit. Remove {_LIMIT} from "
            "queue_arguments: without it, older versions have no limit",
            SourceReason.SHAPE,
        )


async def declare(channel: AbstractChannel, config: Config) -> None:
    """Create what does not exist. Existing queues and exchanges are not changed."""
    dead = config.dead_letter_name
    exchanges = {name: await channel.declare_exchange(name, **given) for name, given in _exchanges(config).items()}
    queues = {name: await channel.declare_queue(name, **given) for name, given in _queues(config).items()}
    await queues[dead].bind(exchanges[dead], routing_key="")
    if config.exchange is not None:
        for key in config.keys or [""]:
            await queues[config.queue].bind(exchanges[config.exchange], routing_key=key)


async def check(channel: AbstractChannel, config: Config) -> None:
    """Check that queue and exchange exist."""
    await channel.declare_queue(config.queue, passive=True)
    await channel.declare_exchange(config.dead_letter_name, passive=True)


def _exchanges(config: Config) -> dict[str, dict[str, Any]]:
    """Return name -> arguments of the declaration."""
    found: dict[str, dict[str, Any]] = {config.dead_letter_name: {"type": "fanout", "durable": True}}
    if config.exchange is not None:
        found[config.exchange] = {"type": config.exchange_type, "durable": config.exchange_durable}
    return found


def _queues(config: Config) -> dict[str, dict[str, Any]]:
    """Return name -> arguments of the declaration."""
    # Also for a classic queue: without a type, the server uses the default of the virtual host, which may change.
    kind = {"x-queue-type": config.queue_type}
    own = {name: writable(value) for name, value in config.queue_arguments.items()}
    return {
        config.dead_letter_name: {"durable": True, "arguments": {**kind}},
        config.queue: {"durable": config.queue_durable, "arguments": {**kind, **own}},
    }
