"""The demo's inbox as a process of its own, which can be stopped like a server that hangs."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator

import aiohttp


class InboxProcess:
    """A running `tocsin-inbox`. `url`: its address."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self._process = process

    def freeze(self) -> None:
        """Stop the process: connections stay open, nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process go on."""
        self._process.send_signal(signal.SIGCONT)

    async def counters(self) -> dict[str, int]:
        """Its counters: `events` accepted, `doubles` delivered twice, `replays` answered from memory, ..."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/control/state") as response:
            counters: dict[str, int] = (await response.json())["counters"]
            return counters


@contextlib.asynccontextmanager
async def inbox_process() -> AsyncIterator[InboxProcess]:
    """Start one on a free port."""
    command = (sys.executable, "-m", "tocsin_demo.inbox", "--port", "0")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield InboxProcess(process, line.removeprefix("inbox: ").strip().rstrip("/"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
