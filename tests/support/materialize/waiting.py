"""How a running statement waits: for news of what it reads, for its cancellation, or for its client to leave."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from support.materialize import errors
from support.materialize.catalog import Watched

Message = tuple[bytes, bytes]
"""The type byte and the body of a message from the client."""


class DisconnectedError(Exception):
    """The client went away."""


class Interrupts:
    """What may wake the running statement of one connection.

    Attributes:
        wake: set whenever there may be something to do.
        gone: the client closed its side.
    """

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.gone = False
        self._running = False
        self._cancelled = False
        self._notices: list[bytes] = []

    def cancel(self) -> None:
        """End the running statement with 57014. Where none runs, nothing happens."""
        if self._running:
            self._cancelled = True
            self.wake.set()

    def notify(self, notice: bytes) -> None:
        """Send a notice in the middle of the running statement. Where none runs, it is lost."""
        if self._running:
            self._notices.append(notice)
            self.wake.set()

    def leave(self) -> None:
        """The client closed its side."""
        self.gone = True
        self.wake.set()

    @contextmanager
    def watching(self, *sources: Watched) -> Iterator[None]:
        """Be woken by these while the block runs, which is the running statement."""
        for source in sources:
            source.watchers.add(self.wake)
        self._running = True
        try:
            yield
        finally:
            self._running = self._cancelled = False
            self._notices.clear()
            for source in sources:
                source.watchers.discard(self.wake)

    def check(self) -> bytes:
        """Begin a round of waiting, and return the notices to be sent.

        Raises:
            ServerError: 57014, the statement was cancelled.
            DisconnectedError: nobody is there any more.
        """
        self.wake.clear()
        if self._cancelled:
            self._cancelled = False
            raise errors.cancelled()
        if self.gone:
            raise DisconnectedError
        notices = b"".join(self._notices)
        self._notices.clear()
        return notices

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for the next wake-up, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            return


class Inbox:
    """Messages of the client, read ahead so that a client that leaves is noticed while a statement runs."""

    def __init__(self, reader: asyncio.StreamReader, interrupts: Interrupts) -> None:
        self._reader = reader
        self._interrupts = interrupts
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()

    async def pump(self) -> None:
        """Read until the connection ends."""
        try:
            while True:
                kind = await self._reader.readexactly(1)
                length = int.from_bytes(await self._reader.readexactly(4), "big")
                self._queue.put_nowait((kind, await self._reader.readexactly(length - 4)))
        except (asyncio.IncompleteReadError, OSError):
            self._interrupts.leave()
            self._queue.put_nowait(None)

    async def next(self) -> Message | None:
        """The next message, ``None`` when the client has left."""
        return await self._queue.get()
