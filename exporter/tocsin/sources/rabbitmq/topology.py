"""Queues and exchanges: declared, or compared with existing ones."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity

from tocsin.errors import SourceError, SourceReason
from tocsin.sources.rabbitmq.connection import Link, connect, wire_of
from tocsin.sources.rabbitmq.faults import OF_AN_OBJECT, a_stream, answering
from tocsin.sources.rabbitmq.settings import Config

_LIMIT = "x-delivery-limit"
_LIMITLESS_FROM = 4
"""Major version of RabbitMQ from which a negative delivery limit means no limit."""


async def prepare(link: Link, channel: AbstractChannel, config: Config) -> None:
    """Declare what the source needs, or check that it exists. Existing queues and exchanges are not changed."""
    _refuse_limit(config, link.version)
    made: dict[tuple[str, str], Any] = {}
    for kind, name, given in _declarations(config):
        made[kind, name] = await _declare(channel, kind, name, passive=not config.declare, **given)
    if not config.declare:
        await _refuse_stream(link.connection, config)
        return
    dead = config.dead_letter_name
    await made["queue", dead].bind(made["exchange", dead], routing_key="")
    if config.exchange is not None:
        for key in config.keys or [""]:
            await made["queue", config.queue].bind(made["exchange", config.exchange], routing_key=key)


async def problems(source: str, config: Config) -> list[str]:
    """Return what would prevent messages, as far as it can be checked without creating or consuming anything: rights
    show only in use."""
    found: list[str] = []
    try:
        async with contextlib.AsyncExitStack() as stack, answering(config, SourceReason.CONNECT):
            link = await connect(stack, f"tocsin {source}", config)
            _refuse_limit(config, link.version)
            for kind, name, given in _declarations(config):
                try:
                    async with answering(config):
                        await _compare(link.connection, config, kind, name, given)
                except SourceError as error:
                    if error.reason not in OF_AN_OBJECT:
                        raise
                    found.append(str(error))
    except SourceError as error:
        found.append(str(error))
    return found


Kind = Literal["queue", "exchange"]


def _declarations(config: Config) -> Iterator[tuple[Kind, str, dict[str, Any]]]:
    """Yield what is declared, or must exist: kind, name, and arguments of the declaration."""
    dead = config.dead_letter_name
    if not config.declare:
        yield "queue", config.queue, {}
        yield "exchange", dead, {}
        return
    # The type also for a classic queue: without it, the server uses the default of the virtual host, which may change.
    type_ = {"x-queue-type": config.queue_type}
    yield "exchange", dead, {"type": "fanout", "durable": True}
    if config.exchange is not None:
        yield "exchange", config.exchange, {"type": config.exchange_type, "durable": config.exchange_durable}
    yield "queue", dead, {"durable": True, "arguments": type_}
    yield "queue", config.queue, {"durable": config.queue_durable, "arguments": {**type_, **config.queue_arguments}}


async def _declare(channel: AbstractChannel, kind: Kind, name: str, **given: Any) -> Any:
    return await (channel.declare_queue if kind == "queue" else channel.declare_exchange)(name, **given)


async def _compare(
    connection: AbstractConnection, config: Config, kind: Kind, name: str, given: dict[str, Any]
) -> None:
    """Raise the server's error where something is missing that will not be declared, or exists with other arguments."""
    try:
        # Separate channels: the server closes the one on which it refuses.
        async with connection.channel(publisher_confirms=False) as channel:
            await _declare(channel, kind, name, passive=True)
    except ChannelNotFoundEntity:
        if config.declare:
            return
        raise
    if config.declare:
        # It exists, so nothing is created; the server compares arguments only in a declaration that is not passive.
        async with connection.channel(publisher_confirms=False) as channel:
            await _declare(channel, kind, name, **given)
    elif kind == "queue":
        await _refuse_stream(connection, config)


async def _refuse_stream(connection: AbstractConnection, config: Config) -> None:
    """Raise SourceError if the existing queue is a stream.

    A passive declaration does not tell the type, and another one needs a right that the user may lack. Only a stream
    accepts a consumer with an offset; other queues refuse it before they deliver anything.
    """

    async def ignore(_: object) -> None: ...

    try:
        async with connection.channel(publisher_confirms=False) as channel:
            await channel.set_qos(prefetch_count=1)
            await (await wire_of(channel)).basic_consume(config.queue, ignore, arguments={"x-stream-offset": "next"})
    except AMQPError:
        return
    raise SourceError(a_stream(config.queue), SourceReason.SHAPE, server=config.display)


def _refuse_limit(config: Config, version: str) -> None:
    """Raise SourceError where a server of this version gives the declared delivery limit another meaning."""
    limit = config.queue_arguments.get(_LIMIT)
    major = version.partition(".")[0]
    old = not major.isdecimal() or int(major) < _LIMITLESS_FROM
    if config.declare and isinstance(limit, int) and limit < 0 and old:
        raise SourceError(
            f"RabbitMQ {version or 'of an unknown version'} drops a message at its first return if {_LIMIT} is "
            f"negative; only from {_LIMITLESS_FROM}.0 on that means no limit. Remove {_LIMIT} from queue_arguments: "
            "without it, older versions have no limit",
            SourceReason.SHAPE,
            server=config.display,
        )
