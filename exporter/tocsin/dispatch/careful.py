"""Sending through code that may end the process, such as a handler that exhausts its memory."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from tocsin.channels.base import Channel, Message, Rejected, Result, Retry
from tocsin.errors import LedgerError, Reason
from tocsin.faults import shielded
from tocsin.ledger.attempts import NotesAttempts

MOST = 3
"""Attempts during which the process ended, after which a notification is given up on."""

_ENDED = f"the process ended during {MOST} attempts to send this; correct what is called, then retry"
_UNWRITTEN = Retry(Reason.INTERNAL, "the ledger could not be written", free=True)


class Careful(Channel):
    """Writes down that an attempt begins before it does.

    Without that, the notification that ends a process would end the next one, too, which is sent it again, and so on.
    An attempt that has not ended ended the process, or others that ran at the same time did. Those are sent alone, so
    that only one of them is counted again.
    """

    def __init__(self, channel: Channel, ledger: NotesAttempts) -> None:
        self.needs_previous_ids = channel.needs_previous_ids
        self._channel = channel
        self._ledger = ledger
        self._turns = _Turns()

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return [await self._send(message) for message in messages]

    async def _send(self, message: Message) -> Result:
        try:
            async with self._turns.with_others(), self._attempt(message.id) as before:
                if not before:
                    return await self._call(message)
            async with self._turns.alone(), self._attempt(message.id) as before:
                return await self._call(message) if before < MOST else Rejected(Reason.CRASHED, _ENDED, unsent=True)
        except LedgerError:
            return _UNWRITTEN

    @asynccontextmanager
    async def _attempt(self, id_: str) -> AsyncIterator[int]:
        """An attempt. Yields how many before it never ended."""
        before = await self._ledger.begin(id_)
        try:
            yield before
        finally:  # also where it is cancelled: the process is still here
            await shielded(self._end(id_))

    async def _end(self, id_: str) -> None:
        with suppress(LedgerError):  # then it counts as one that has not ended
            await self._ledger.end(id_)

    async def _call(self, message: Message) -> Result:
        [result] = await self._channel.send([message])
        return result

    def preview(self, message: Message) -> Mapping[str, Any] | Rejected:
        return self._channel.preview(message)

    async def verify(self) -> Sequence[str]:
        return await self._channel.verify()

    async def close(self) -> None:
        await self._channel.close()


class _Turns:
    """Who may run: many together, or one alone. They begin in the order in which they ask."""

    def __init__(self) -> None:
        self._next = asyncio.Lock()
        self._running = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def with_others(self) -> AsyncIterator[None]:
        async with self._next:
            self._running += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._next:
            await self._empty.wait()
            yield
