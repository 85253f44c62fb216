"""What a test does to connections: cut them at a byte, slow them down, leave them without an answer."""

import asyncio
from collections import deque
from dataclasses import dataclass, field


class ConnectionCutError(Exception):
    """The double closed the connection, as it was told to."""


@dataclass(slots=True)
class Faults:
    """The faults in force. They are asked for through `MaterializeDouble`.

    Attributes:
        cuts: for each of the next COPY streams, the number of bytes after which its connection is closed.
        deaf: new connections are accepted and never answered.
        bytes_per_second: speed of every connection, ``None`` for as fast as the socket takes.
        ahead: milliseconds that the first progress row of a fresh subscription lies in the future.
    """

    cuts: deque[int] = field(default_factory=deque)
    deaf: bool = False
    bytes_per_second: float | None = None
    ahead: int = 0


class Outlet:
    """The way out of one connection, with the faults applied."""

    def __init__(self, writer: asyncio.StreamWriter, faults: Faults) -> None:
        self._writer = writer
        self._faults = faults
        self._left: int | None = None

    def begin_copy(self) -> None:
        """From the next byte on a cut may count: it is the first byte of the CopyOutResponse."""
        if self._faults.cuts:
            self._left = self._faults.cuts.popleft()

    def end_copy(self) -> None:
        self._left = None

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait while the socket is full.

        Raises:
            ConnectionCutError: the byte was reached after which the connection was to be closed. It is closed.
        """
        left = self._left
        if left is not None and len(data) >= left:
            await self._write(data[:left])
            self._writer.close()
            raise ConnectionCutError
        if left is not None:
            self._left = left - len(data)
        await self._write(data)

    async def _write(self, data: bytes) -> None:
        speed = self._faults.bytes_per_second
        if speed is None:
            self._writer.write(data)
            await self._writer.drain()
            return
        step = max(1, int(speed / 50))
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(len(piece) / speed)
