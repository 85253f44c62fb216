"""A minimal receiver of webhooks in a process of its own, so that the senders are measured:
`python -m bench.receiving`."""

import asyncio
import gc
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What arrived at one path: wall-clock seconds and JSON body of each request, in order. `busy`: CPU seconds of the
    receiver from the first to the last."""

    requests: list[tuple[float, Any]]
    busy: float

    @property
    def first(self) -> float:
        return self.requests[0][0]

    @property
    def last(self) -> float:
        return self.requests[-1][0]

    @property
    def load(self) -> float:
        """The part of one core that the receiver needed."""
        return self.busy / (self.last - self.first)


class ReceiverProcess:
    """A running receiver."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = process

    async def holds(self, path: str, count: int) -> None:
        """Wait until so many requests have come to a path."""
        await self._ask("holds", path, count)

    async def take(self, path: str) -> Arrivals:
        """Return what arrived at a path since the last call."""
        found = await self._ask("take", path)
        return Arrivals([(at, json.loads(body)) for at, body in found["requests"]], found["busy"])

    async def _ask(self, *command: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return await _answer(self._process)


@asynccontextmanager
async def receiver_process() -> AsyncIterator[ReceiverProcess]:
    """A receiver for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.receiving",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        limit=1 << 28,
    )
    try:
        yield ReceiverProcess(process, await _answer(process))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _answer(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    return json.loads(await process.stdout.readline())


# In the process of its own.


@dataclass(slots=True)
class _Path:
    requests: list[tuple[float, bytes]] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    awaited: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, body: bytes) -> None:
        self.requests.append((time.time(), body))
        self.busy.append(time.process_time())
        if len(self.requests) == self.awaited:
            self.enough.set()

    async def holds(self, count: int) -> None:
        self.enough.clear()
        self.awaited = count
        if len(self.requests) < count:
            await self.enough.wait()

    def take(self) -> dict[str, Any]:
        requests, busy = self.requests, self.busy
        self.requests, self.busy = [], []
        return {"requests": [(at, body.decode()) for at, body in requests], "busy": busy[-1] - busy[0] if busy else 0.0}


class _Connection(asyncio.Protocol):
    def __init__(self, paths: dict[str, _Path]) -> None:
        self._paths = paths
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(data, 0, end + 2)
            assert length is not None, data[:end]
            after = end + 4 + int(length[1])
            if len(data) < after:
                break
            self._paths[data.split(b" ", 2)[1].decode()].add(data[end + 4 : after])
            self._transport.write(_ANSWER)
            data = data[after:]
        self._rest = data


async def _serve() -> None:
    gc.disable()  # a pause here would count as one of the sender
    paths: dict[str, _Path] = defaultdict(_Path)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(paths), "127.0.0.1", 0, backlog=16_384)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command, path, *arguments = json.loads(line)
        if command == "holds":
            await paths[path].holds(*arguments)
            print("null", flush=True)
        else:
            print(json.dumps(paths[path].take()), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
