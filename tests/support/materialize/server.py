"""A server on 127.0.0.1 that speaks PostgreSQL's protocol and answers as Materialize does."""

import asyncio
import contextlib
import secrets
import struct
import time
from collections.abc import Callable, Iterable
from typing import Self

from support.materialize import errors, messages
from support.materialize.model import Model
from support.materialize.relation import Relation
from support.materialize.session import DisconnectedError, Session

_HOST = "127.0.0.1"


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class MaterializeDouble(Model):
    """The server. All methods belong to the event loop in which it was started.

    The model outlasts the listening socket: `kill` and `start` are a crash and a restart.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int] = wall_clock,
        progress_interval: float = 1.0,
        clusters: Iterable[str] = ("quickstart",),
        release: str = "v26.8",
    ) -> None:
        """Make a server that does not listen yet.

        Args:
            clock: source time in milliseconds. The write frontiers follow it.
            progress_interval: seconds between two progress rows of a quiet relation.
            release: whose messages it sends, a key of `RELEASES`.
        """
        super().__init__(clock, release, clusters)
        self.progress_interval = progress_interval
        self.port = 0
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._sessions: dict[bytes, Session] = {}
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def dsn(self) -> str:
        """Where it listens, for role `materialize` and without a password."""
        return f"postgresql://materialize@{_HOST}:{self.port}/materialize?sslmode=disable"

    async def start(self) -> int:
        """Listen, and return the port: that of the last time, at first a free one."""
        assert self._server is None, "it listens already"
        self.tick()
        self._server = await asyncio.start_server(self.accept, _HOST, self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        self._ticker = asyncio.create_task(self._tick())
        return self.port

    async def kill(self) -> None:
        """Stop listening and break every connection, as a killed process does. The model stays."""
        if self._server is not None and self._ticker is not None:
            self._server.close()
            self._server = None
            self._ticker.cancel()
            await asyncio.wait({self._ticker})
        self.disconnect()
        if self._connections:
            await asyncio.wait(set(self._connections))

    def disconnect(self) -> None:
        """Break every open connection and go on listening."""
        for writer in self._connections.values():
            writer.transport.abort()

    def fall_behind(self, relation: Relation) -> None:
        """End the running streams of a relation as those of a client that does not read. What was not sent is lost."""
        for stream in relation.streams:
            stream.failure = errors.fell_behind()
        self.wake()

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def subscribed(self, relation: Relation, n: int = 1) -> None:
        """Wait until so many streams of a relation were sent their first row."""
        await self._until(lambda: sum(stream.started for stream in relation.streams) >= n)

    async def unsubscribed(self, relation: Relation) -> None:
        """Wait until a relation has no open stream."""
        await self._until(lambda: not relation.streams)

    async def caught_up(self, relation: Relation) -> None:
        """Wait until every open stream of a relation was sent all that is known."""
        await self._until(lambda: all(stream.caught_up for stream in relation.streams))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.moved.clear()
            await self.moved.wait()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.progress_interval)
            self.tick()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            await self._serve(reader, writer)
        except (DisconnectedError, OSError, asyncio.IncompleteReadError):
            pass  # the client is gone, or a fault closed the connection
        finally:
            del self._connections[task]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.deaf:
            await reader.read()
            return
        code, body = await _startup(reader)
        while code in messages.ENCRYPTION_REQUESTS:
            writer.write(b"N")
            code, body = await _startup(reader)
        if code == messages.CANCEL_REQUEST:
            if body in self._sessions:
                self._sessions[body].cancel()
            return
        others = len(self._connections) - 1
        if self.connection_limit is not None and others >= self.connection_limit:
            writer.write(messages.error(errors.too_many_connections(self.connection_limit, others)))
            return
        key = struct.pack("!I", len(self._sessions)) + secrets.token_bytes(4)
        self._sessions[key] = Session(self, reader, writer, key, messages.startup_parameters(body))
        try:
            await self._sessions[key].run()
        finally:
            del self._sessions[key]


async def _startup(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The code of the first packet of a connection, and the rest of it."""
    length = int.from_bytes(await reader.readexactly(4), "big")
    packet = await reader.readexactly(length - 4)
    return int.from_bytes(packet[:4], "big"), packet[4:]
