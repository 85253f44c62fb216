"""Dead letters: copies of messages that cannot be used, published over a connection of their own.

While RabbitMQ is short of memory or disk it reads nothing from a connection that has published, acknowledgements
included. So dead letters do not share the connection of the consumer.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import aio_pika
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as Wire
from pamqp.decode import embedded_value
from pamqp.encode import encode_table_value, field_table

from tocsin.errors import DeadLetterError, SourceError, SourceReason
from tocsin.sources.rabbitmq.connection import Link, connect, wire_of
from tocsin.sources.rabbitmq.faults import FAULTS, UNWRITABLE, answering, translated
from tocsin.sources.rabbitmq.messages import message_id, tag
from tocsin.sources.rabbitmq.settings import Config

_OTHER_PROPERTIES = 4096
"""Upper bound in bytes for the other properties of a message and its frame: a dozen short texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of a message. `headers`: added to those of the message."""

    message: DeliveredMessage
    headers: Mapping[str, str]


class DeadLetters:
    """Publishes copies. Connects with the first one, and again after the connection was lost."""

    def __init__(self, source: str, config: Config) -> None:
        self._name = f"tocsin {source} dead letters"
        self._config = config
        self._stack = contextlib.AsyncExitStack()
        self._link: Link | None = None
        self._wire: Wire | None = None
        self._sent: dict[int, asyncio.Task[None]] = {}
        """By delivery tag; a copy is confirmed when its task has ended without an error."""

    async def publish(self, copies: Sequence[Copy]) -> None:
        """Publish copies, and return when the server has confirmed them all. Called again, it publishes the rest; a
        copy that is published and not confirmed yet is awaited, not published twice.

        Raises DeadLetterError; `confirmed` then holds for those that are confirmed.
        """
        try:
            while turn := self._turn(copies):
                wire = await self._opened()
                for number, one in turn.items():
                    if number not in self._sent:
                        self._sent[number] = asyncio.create_task(self._send(wire, one))
                await asyncio.wait([self._sent[number] for number in turn], timeout=self._config.connect_timeout)
                self._check(turn)
        except SourceError as error:
            raise DeadLetterError(str(error), error.reason) from None

    def _turn(self, copies: Sequence[Copy]) -> dict[int, Copy]:
        """Return what to publish next, by delivery tag: copies that are not confirmed, one of each `message_id`.

        The library finds the message that the server returned by its `message_id`, so that of two under way with the
        same one it would confirm the wrong one.
        """
        first: dict[str | int, Copy] = {}
        for one in copies:
            if not self.confirmed(tag(one.message)):
                first.setdefault(message_id(one.message) or tag(one.message), one)
        return {tag(one.message): one for one in first.values()}

    def confirmed(self, number: int) -> bool:
        """Whether the server has confirmed the copy of the message with this delivery tag."""
        task = self._sent.get(number)
        return task is not None and task.done() and not task.cancelled() and task.exception() is None

    def acknowledged(self, last: int) -> None:
        """Forget messages up to this delivery tag."""
        self._sent = {number: task for number, task in self._sent.items() if number > last}

    async def close(self) -> None:
        """Close the connection, if there is one."""
        waiting = [task for task in self._sent.values() if not task.done()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        self._sent = {number: task for number, task in self._sent.items() if self.confirmed(number)}
        self._link = self._wire = None
        await self._stack.aclose()

    async def _opened(self) -> Wire:
        if self._wire is None or self._wire.is_closed:
            await self.close()
            async with answering(self._config, SourceReason.CONNECT):
                self._link = await connect(self._stack, self._name, self._config)
                self._wire = await wire_of(await self._link.connection.channel(on_return_raises=True))
        return self._wire

    def _check(self, numbers: Iterable[int]) -> None:
        """Raise SourceError unless all are confirmed. Those that failed are published again the next time."""
        failed: BaseException | None = None
        for number in numbers:
            task = self._sent[number]
            if task.done() and not self.confirmed(number):
                del self._sent[number]
                failed = failed or (asyncio.CancelledError() if task.cancelled() else task.exception())
        if isinstance(failed, (asyncio.CancelledError, *FAULTS)):
            name = self._config.dead_letter_name
            raise translated(failed, self._config, SourceReason.DISCONNECTED, queue=name)
        if failed is not None:
            raise failed
        if not all(self.confirmed(number) for number in numbers):
            why = f"no answer within {self._config.connect_timeout:g} s"
            if self._link is not None and self._link.frames.blocked:
                why = f"the server blocks publishing: {self._link.frames.blocked}"
            text = f"a dead letter cannot be published: {why}"
            raise SourceError(text, SourceReason.DISCONNECTED, server=self._config.display)

    async def _send(self, wire: Wire, one: Copy) -> None:
        message = one.message
        properties = copy(message.header.properties)
        properties.headers = _headers(one, wire.connection.connection_tune.frame_max)
        properties.delivery_mode = aio_pika.DeliveryMode.PERSISTENT
        properties.message_id = message_id(message) or None  # also one that was in a header
        properties.expiration = None  # dead letters stay
        properties.user_id = None  # must be that of the connection
        await wire.basic_publish(
            message.body,
            exchange=self._config.dead_letter_name,
            routing_key=message.routing_key or "",
            properties=properties,
            mandatory=True,
        )


def _headers(one: Copy, most: int) -> dict[str, Any]:
    """Return the headers of message and copy, or only the latter if they do not fit into one frame. `most`: bytes of a
    frame; 0: no limit."""
    theirs = one.message.header.properties.headers or {}
    headers = {**{name: _writable(value) for name, value in theirs.items()}, **one.headers}
    fit = not most or len(field_table(headers)) + _OTHER_PROPERTIES <= most
    return headers if fit else {**one.headers}


def _writable(value: Any) -> Any:
    """Return a value, or its text where the library writes another value or none: it reads more types than it
    writes."""
    try:
        _, written = embedded_value(encode_table_value(value))
    except UNWRITABLE:
        return repr(value)
    return value if written == value else repr(value)
