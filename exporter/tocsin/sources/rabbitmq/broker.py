"""The connection to RabbitMQ: what is declared, what is published and acknowledged on it, and what its errors mean."""

import asyncio
import contextlib
import re
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, DeliveryError, PublishError
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire
from aiormq.connection import TransportFactory
from aiormq.exceptions import AuthenticationError, ProbableAuthenticationError
from pamqp.commands import Basic, Channel, Connection
from pamqp.encode import encode_table_value, field_table
from yarl import URL

from tocsin.channels.base import redactor
from tocsin.errors import SourceError, SourceReason
from tocsin.sources.rabbitmq.frames import ReadableFrames
from tocsin.sources.rabbitmq.messages import delivered
from tocsin.sources.rabbitmq.settings import Config, Server

Words = Callable[[str], str]
"""Takes the secrets out of a text."""

Take = Callable[[DeliveredMessage], None]

_CLOSING = 5.0
_OTHERS = 4096
"""Bytes that the other properties of a message and its frame take at most: a dozen short texts."""
_DIFFERS = re.compile(
    r"inequivalent arg '([^']+)' for (queue|exchange) '(.*?)' in vhost .*?: received (.*) but current is (.*)"
)
_SETTINGS: Mapping[tuple[str, str], str] = {
    ("queue", "durable"): "queue_durable",
    ("queue", "x-queue-type"): "queue_type",
    ("exchange", "durable"): "exchange_durable",
    ("exchange", "type"): "exchange_type",
}
_BY_CODE: Mapping[int, SourceReason] = {
    403: SourceReason.PERMISSION,
    404: SourceReason.MISSING,
    405: SourceReason.PERMISSION,  # another connection has the queue to itself
    406: SourceReason.SHAPE,
}
_CODE = re.compile(r"([A-Z_]{6,}) - ")
_CODES: Mapping[str, int] = {
    "ACCESS_REFUSED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_LOCKED": 405,
    "PRECONDITION_FAILED": 406,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A message for the dead letters. `headers` come on top of those that it has."""

    message: DeliveredMessage
    headers: Mapping[str, str]


class Broker:
    """One connection with two channels: one to take messages from the queue, one to publish dead letters."""

    def __init__(self, config: Config, taking: Wire, publishing: Wire, consumer: str, words: Words) -> None:
        self._config = config
        self._taking = taking
        self._publishing = publishing
        self._consumer = consumer
        self._words = words

    def check(self) -> None:
        """Raises SourceError if no message can come any more."""
        if self._taking.is_closed:
            # The connection knows better than its channels why it ended.
            for ended in (self._taking.connection, self._taking):
                if ended.is_closed and not ended.closing.cancelled() and (error := ended.closing.exception()):
                    raise translated(error, self._config, self._words, SourceReason.DISCONNECTED)
            raise SourceError(f"{self._config.display}: the connection is closed", SourceReason.DISCONNECTED)
        if self._consumer not in self._taking.consumers:
            raise SourceError(
                f"{self._config.display}: the server no longer delivers from the queue {self._config.queue}: it was "
                "deleted, or moved to another node",
                SourceReason.DROPPED,
            )

    async def acknowledge(self, last: int) -> None:
        """Every message up to this number is safe. Raises SourceError."""
        async with answering(self._config, self._words):
            self.check()
            await self._taking.basic_ack(last, multiple=True)

    async def bury(self, copies: Sequence[Copy]) -> None:
        """Publish copies to the dead letters, and return when the server has them safe. Raises SourceError."""
        async with answering(self._config, self._words):
            done = await asyncio.gather(*map(self._publish, copies), return_exceptions=True)
            for error in done:
                if isinstance(error, BaseException):
                    raise error

    async def _publish(self, copy: Copy) -> None:
        message, old = copy.message, copy.message.header.properties
        properties = Basic.Properties(
            headers=self._headers(copy),
            content_type=old.content_type,
            content_encoding=old.content_encoding,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            priority=old.priority,
            correlation_id=old.correlation_id,
            reply_to=old.reply_to,
            message_id=old.message_id,
            timestamp=old.timestamp,
            message_type=old.message_type,
            app_id=old.app_id,
            # Neither `expiration`, since dead letters are to stay, nor `user_id`, which must be our own.
        )
        await self._publishing.basic_publish(
            message.body,
            exchange=self._config.dead_letter_name,
            routing_key=delivered(message).routing_key or "",
            properties=properties,
            mandatory=True,
        )

    def _headers(self, copy: Copy) -> dict[str, Any]:
        """Those of the message and of the copy, or only the latter where all would not fit into one frame."""
        headers = {**_writable(copy.message.header.properties.headers or {}), **copy.headers}
        most = self._publishing.connection.connection_tune.frame_max  # 0: no limit
        fit = not most or len(field_table(headers)) + _OTHERS <= most
        return headers if fit else {**copy.headers}


def _writable(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as the library can write them: it reads more types than it writes."""
    kept = {}
    for name, value in headers.items():
        try:
            encode_table_value(value)
        except (TypeError, ValueError, struct.error):
            value = repr(value)  # noqa: PLW2901
        kept[name] = value
    return kept


class _Door(TransportFactory):
    """Opens the transport, with frames that can all be read, and closes it for certain: the library drops one over
    which a server did not answer."""

    def __init__(self, server: Server, context: ssl.SSLContext | None) -> None:
        self._server = server
        self._context = context
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **others: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        del url, others
        server, loop = self._server, asyncio.get_running_loop()
        reader = ReadableFrames(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, server.host, server.port, ssl=self._context)
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


@asynccontextmanager
async def connected(source: str, config: Config, take: Take) -> AsyncIterator[Broker]:
    """A connection over which each message of the queue is given to `take`. Raises SourceError."""
    words = redactor(config.hidden())
    async with contextlib.AsyncExitStack() as stack:
        async with answering(config, words, SourceReason.CONNECT):
            connection = await _connect(stack, source, config)
            taking = await connection.channel(publisher_confirms=False)
            publishing = await connection.channel(on_return_raises=True)
            if config.declare:
                await _declare(taking, config)
            else:
                await _look(taking, config)
            await taking.set_qos(prefetch_count=config.prefetch)
            # The layer below aio-pika, since only that tells whether the server has ended the consumer.
            wire = await _wire(taking)
            consume = await wire.basic_consume(config.queue, _taking(take), consumer_tag=config.consumer_tag)
            assert consume.consumer_tag is not None
            broker = Broker(config, wire, await _wire(publishing), consume.consumer_tag, words)
        yield broker


async def problems(source: str, config: Config) -> list[str]:
    """What would keep messages from coming, as far as the server tells without making or taking anything: a right shows
    only in use."""
    words = redactor(config.hidden())
    found: list[str] = []
    try:
        async with contextlib.AsyncExitStack() as stack, answering(config, words, SourceReason.CONNECT):
            connection = await _connect(stack, source, config)
            for kind, name, given in _parts(config):
                try:
                    with _translating(config, words, SourceReason.DISCONNECTED):
                        await _compare(connection, config, kind, name, given)
                except SourceError as error:
                    if error.reason not in _BY_CODE.values():
                        raise
                    found.append(str(error))
    except SourceError as error:
        found.append(str(error))
    return found


def _parts(config: Config) -> list[tuple[str, str, dict[str, Any]]]:
    """What is made, or else what has to be there: its kind, its name, and with what it is declared."""
    if not config.declare:
        return [("queue", config.queue, {}), ("exchange", config.dead_letter_name, {})]
    exchanges = [("exchange", *each) for each in _exchanges(config).items()]
    return [*exchanges, *(("queue", *each) for each in _queues(config).items())]


async def _compare(connection: AbstractConnection, config: Config, kind: str, name: str, given: dict[str, Any]) -> None:
    """Raises what the server says where something is missing that will not be made, or is there and differs."""

    async def declare(**how: Any) -> None:
        # A channel of its own, which the server closes with its refusal.
        async with connection.channel(publisher_confirms=False) as channel:
            await (channel.declare_queue if kind == "queue" else channel.declare_exchange)(name, **how)

    try:
        await declare(passive=True)
    except ChannelNotFoundEntity:
        if config.declare:
            return
        raise
    if config.declare:
        # It is there, so nothing is made; only a declaration that is not passive has its arguments compared.
        await declare(**given)


async def _connect(stack: contextlib.AsyncExitStack, source: str, config: Config) -> AbstractConnection:
    """A connection for as long as the stack lasts."""
    server = config.server
    url = make_url(
        host=server.host,
        port=server.port,
        login=server.user,
        password=server.password,
        virtualhost=server.vhost,
        ssl=server.tls,
        heartbeat=round(config.heartbeat),
        name=f"tocsin {source}",
    )
    door = _Door(server, _context(config) if server.tls else None)
    stack.callback(door.close)
    connection = aio_pika.Connection(url)
    connection.kwargs["transport_factory"] = door
    stack.push_async_callback(_close, connection)
    await connection.connect()
    return connection


async def _wire(channel: AbstractChannel) -> Wire:
    wire = await channel.get_underlay_channel()
    assert isinstance(wire, Wire)
    return wire


def _taking(take: Take) -> Callable[[DeliveredMessage], Coroutine[None, None, None]]:
    async def taken(message: DeliveredMessage) -> None:
        take(message)

    return taken


async def _close(connection: AbstractConnection) -> None:
    # A server that has stopped answering must not keep us.
    with contextlib.suppress(TimeoutError, *CONNECTION_EXCEPTIONS):
        async with asyncio.timeout(_CLOSING):
            await connection.close()


def _context(config: Config) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
    except OSError as error:
        why = error.strerror or "there are none in it"
        raise SourceError(f"cannot read certificates from {config.tls_ca}: {why}", SourceReason.OTHER) from None
    if not config.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _declare(channel: AbstractChannel, config: Config) -> None:
    """Make what is not there yet. What is there stays as it is."""
    dead = config.dead_letter_name
    exchanges = {name: await channel.declare_exchange(name, **given) for name, given in _exchanges(config).items()}
    queues = {name: await channel.declare_queue(name, **given) for name, given in _queues(config).items()}
    await queues[dead].bind(exchanges[dead], routing_key="")
    if config.exchange is not None:
        for key in config.keys or [""]:
            await queues[config.queue].bind(exchanges[config.exchange], routing_key=key)


def _exchanges(config: Config) -> dict[str, dict[str, Any]]:
    """Name -> with what it is declared."""
    found: dict[str, dict[str, Any]] = {config.dead_letter_name: {"type": "fanout", "durable": True}}
    if config.exchange is not None:
        found[config.exchange] = {"type": config.exchange_type, "durable": config.exchange_durable}
    return found


def _queues(config: Config) -> dict[str, dict[str, Any]]:
    """Name -> with what it is declared."""
    kind = {"x-queue-type": "quorum"} if config.queue_type == "quorum" else {}
    return {
        config.dead_letter_name: {"durable": True, "arguments": {**kind}},
        config.queue: {"durable": config.queue_durable, "arguments": {**kind, **config.queue_arguments}},
    }


async def _look(channel: AbstractChannel, config: Config) -> None:
    """Find out whether everything is there."""
    await channel.declare_queue(config.queue, passive=True)
    await channel.declare_exchange(config.dead_letter_name, passive=True)


# Errors.


@asynccontextmanager
async def answering(
    config: Config, words: Words, otherwise: SourceReason = SourceReason.DISCONNECTED
) -> AsyncIterator[None]:
    """What the server has to answer in time; its errors become SourceErrors."""
    with _translating(config, words, otherwise):
        async with asyncio.timeout(config.connect_timeout):
            yield


@contextmanager
def _translating(config: Config, words: Words, otherwise: SourceReason) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise SourceError(f"{config.display}: no answer within {config.connect_timeout:g} s", otherwise) from None
    except asyncio.CancelledError:
        # The library cancels what waits on a connection that is lost; that is not meant for us.
        if (task := asyncio.current_task()) is None or task.cancelling():
            raise
        raise SourceError(f"{config.display}: the connection is lost", otherwise) from None
    except (*CONNECTION_EXCEPTIONS, ValueError) as error:
        raise translated(error, config, words, otherwise) from None


def translated(error: BaseException, config: Config, words: Words, otherwise: SourceReason) -> SourceError:
    """What the library raised, in our words."""
    text = _said(error)
    if isinstance(error, PublishError):
        return SourceError(
            f"{config.display}: a dead letter gets to no queue from the exchange {config.dead_letter_name}; bind one",
            SourceReason.MISSING,
        )
    if isinstance(error, DeliveryError):
        return SourceError(
            f"{config.display}: the server does not take dead letters in {config.dead_letter_name}", SourceReason.OTHER
        )
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        return SourceError(f"{config.display}: {words(text)}", SourceReason.AUTH)
    if (differs := _DIFFERS.search(text)) is not None:
        return SourceError(f"{config.display}: {words(_difference(config, differs))}", SourceReason.SHAPE)
    code = _CODES.get(match[1]) if (match := _CODE.search(text)) else None
    if "NOT_ALLOWED - vhost" in text or "NOT_ALLOWED - access to vhost" in text:
        code = 404 if "not found" in text else 403
    return SourceError(f"{config.display}: {words(text)}", _BY_CODE.get(code or 0, otherwise))


def _said(error: BaseException) -> str:
    closing = [part.reply_text for part in error.args if isinstance(part, Connection.Close | Channel.Close)]
    texts = closing or [part for part in error.args if isinstance(part, str) and part]
    return texts[-1] if texts else str(error) or type(error).__name__


def _difference(config: Config, differs: re.Match[str]) -> str:
    argument, kind, name, ours, theirs = differs.groups()
    if name == config.dead_letter_name:
        remedy = "give dead_letters another name"
    else:
        setting = _SETTINGS.get((kind, argument), "queue_arguments" if kind == "queue" else "exchange")
        remedy = f"change {setting} to what is there"
    return (
        f"the {kind} {name} is there already with another {argument}: {theirs} there, {ours} here; "
        f"{remedy}, or delete the {kind}"
    )
