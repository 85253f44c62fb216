"""Dead letters: copies of messages that cannot be used, published over a connection of their own.

While RabbitMQ is short of memory or disk it reads nothing from a connection that has published, acknowledgements
included. So dead letters do not share the connection of the consumer.
"""

import asyncio
import contextlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire
from pamqp.commands import Basic
from pamqp.encode import encode_table_value, field_table

from tocsin.errors import DeadLetterError, SourceError, SourceReason
from tocsin.sources.rabbitmq.connection import Link, connect, wire_of
from tocsin.sources.rabbitmq.faults import Redact, answering, translated
from tocsin.sources.rabbitmq.messages import delivered, tag
from tocsin.sources.rabbitmq.settings import Config
from tocsin.sources.rabbitmq.topology import writable

_OTHER_PROPERTIES = 4096
"""Upper bound in bytes for the other properties of a message and its frame: a dozen short texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of a message. `headers`: added to those of the message."""

    message: DeliveredMessage
    headers: Mapping[str, str]


class DeadLetters:
    """Publishes copies. Connects with the first one, and again after the connection was lost."""

    def __init__(self, source: str, config: Config, redact: Redact) -> None:
        self._source = source
        self._config = config
        self._redact = redact
        self._stack = contextlib.AsyncExitStack()
        self._link: Link | None = None
        self._wire: Wire | None = None
        self._publishing: dict[int, asyncio.Task[None]] = {}
        self._confirmed: set[int] = set()

    async def publish(self, copies: Sequence[Copy]) -> None:
        """Publish copies, and return when the server has confirmed them all. Called again, it publishes the rest.

        Raises DeadLetterError; `confirmed` then holds those that are confirmed.
        """
        left = [copy for copy in copies if tag(copy.message) not in self._confirmed]
        if not left:
            return
        try:
            await self._publish(left)
        except SourceError as error:
            raise DeadLetterError(str(error), error.reason) from None

    def confirmed(self, number: int) -> bool:
        """Whether the server has confirmed the copy of the message with this delivery tag."""
        return number in self._confirmed

    def acknowledged(self, last: int) -> None:
        """Forget messages up to this delivery tag."""
        self._confirmed = {number for number in self._confirmed if number > last}

    async def close(self) -> None:
        """Close the connection, if there is one."""
        for task in self._publishing.values():
            task.cancel()
        await asyncio.gather(*self._publishing.values(), return_exceptions=True)
        self._publishing.clear()
        self._link = self._wire = None
        await self._stack.aclose()

    async def _publish(self, copies: Sequence[Copy]) -> None:
        wire = await self._opened()
        for copy in copies:
            # A copy that is published and not confirmed yet is awaited, not published twice.
            if tag(copy.message) not in self._publishing:
                self._publishing[tag(copy.message)] = asyncio.create_task(self._send(wire, copy))
        tasks = {tag(copy.message): self._publishing[tag(copy.message)] for copy in copies}
        await asyncio.wait(tasks.values(), timeout=self._config.connect_timeout)
        failed: BaseException | None = None
        for number, task in tasks.items():
            if not task.done():
                continue
            del self._publishing[number]
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is None:
                self._confirmed.add(number)
            failed = failed or error
        if failed is not None:
            raise self._fault(failed)
        if any(number in self._publishing for number in tasks):
            raise self._unanswered()

    def _fault(self, error: BaseException) -> SourceError:
        if isinstance(error, asyncio.CancelledError):
            # The library cancels calls on a lost connection.
            return SourceError(f"{self._config.display}: the connection is lost", SourceReason.DISCONNECTED)
        if isinstance(error, (*CONNECTION_EXCEPTIONS, ValueError)):
            return translated(error, self._config, self._redact, SourceReason.DISCONNECTED)
        raise error

    def _unanswered(self) -> SourceError:
        if self._link is not None and self._link.blocked():
            why = f"the server blocks publishing: {self._link.blocked()}"
        else:
            why = f"no answer within {self._config.connect_timeout:g} s"
        return SourceError(
            f"{self._config.display}: a dead letter cannot be published: {why}", SourceReason.DISCONNECTED
        )

    async def _opened(self) -> Wire:
        if self._wire is None or self._wire.is_closed:
            await self.close()
            async with answering(self._config, self._redact, SourceReason.CONNECT):
                self._link = await connect(self._stack, f"tocsin {self._source} dead letters", self._config)
                self._wire = await wire_of(await self._link.connection.channel(on_return_raises=True))
        return self._wire

    async def _send(self, wire: Wire, copy: Copy) -> None:
        message, old = copy.message, copy.message.header.properties
        properties = Basic.Properties(
            headers=_headers(copy, wire.connection.connection_tune.frame_max),
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
            # No `expiration`, since dead letters stay; no `user_id`, which must be that of the connection.
        )
        await wire.basic_publish(
            message.body,
            exchange=self._config.dead_letter_name,
            routing_key=delivered(message).routing_key or "",
            properties=properties,
            mandatory=True,
        )


def _headers(copy: Copy, most: int) -> dict[str, Any]:
    """Return the headers of message and copy, or only the latter if they do not fit into one frame. `most`: bytes of a
    frame; 0: no limit."""
    headers = {**_writable(copy.message.header.properties.headers or {}), **copy.headers}
    fit = not most or len(field_table(headers)) + _OTHER_PROPERTIES <= most
    return headers if fit else {**copy.headers}


def _writable(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return headers that the library can write: it reads more types than it writes."""
    kept = {}
    for name, value in headers.items():
        kept[name] = writable(value)
        try:
            encode_table_value(kept[name])
        except (TypeError, ValueError, struct.error):
            kept[name] = repr(value)
    return kept
