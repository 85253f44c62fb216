"""A TCP proxy that can break connections or stop forwarding."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self


class TcpProxy:
    """Listens on 127.0.0.1 for the length of an `async with`, at one port."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self._host = host
        self._target = port
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._carriers: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Accept clients (again)."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

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
                group.create_task(self._copy(reader, requests))
                group.create_task(self._copy(answers, writer))
        except* OSError:
            pass
        finally:
            self._carriers.discard(carrier)
            writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()  # the other direction ends with it


@asynccontextmanager
async def _connected(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
