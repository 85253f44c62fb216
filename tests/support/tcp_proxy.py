"""A TCP proxy that can break connections, delay or stop forwarding, and lose a connection that its client still has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from support.ports import free_port


class TcpProxy:
    """Listens on 127.0.0.1 for the length of an `async with`, at one port. `host`: also the directory of a socket of
    PostgreSQL."""

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self.delay = 0.0
        """Seconds that each piece of data is late."""
        self.left: int | None = None
        """Bytes after which the connection of the next one is broken."""
        self._host = host
        self._target = port
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._carriers: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Accept clients (again)."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)

    async def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for carrier in list(self._carriers):
            carrier.cancel()
        await asyncio.gather(*self._carriers, return_exceptions=True)

    def hold(self) -> None:
        """Keep every connection and forward nothing."""
        self._flowing.clear()

    def release(self) -> None:
        """Forward the held bytes."""
        self._flowing.set()

    def lose(self) -> asyncio.Event:
        """Forward nothing more on the present connections, which stay open. New ones work. What they were given is
        forwarded after all once the event is set."""
        self.hold()
        lost, self._flowing = self._flowing, asyncio.Event()
        self._flowing.set()
        return lost

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrier = asyncio.current_task()
        assert carrier is not None
        self._carriers.add(carrier)
        try:
            async with _connected(self._host, self._target) as (answers, requests), asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, requests, self._flowing))
                group.create_task(self._copy(answers, writer, self._flowing))
        except* OSError:
            pass
        finally:
            self._carriers.discard(carrier)
            writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            await flowing.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.left is not None:
                whole, self.left = len(data) <= self.left, self.left - len(data)
                if not whole:
                    self.left = None
                    raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        await flowing.wait()
        writer.close()  # the other direction ends with it


@asynccontextmanager
async def _connected(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    if host.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    else:
        reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
