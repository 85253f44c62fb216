"""Tocsin's process: started, and started again when it ends, as an operating system's supervisor would."""

import asyncio
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import aiohttp

from tocsin_demo.database.server import Server
from tocsin_demo.stack.errors import DemoError
from tocsin_demo.stack.ports import ATTEMPTS, HOST, free
from tocsin_demo.stack.processes import Process, Processes, told
from tocsin_demo.stack.workspace import write_tocsin

PORT = 8627

_LISTEN_FAILED = 4  # `tocsin --help`
_READY_TIMEOUT = 30.0
_LOOK_EVERY = 0.05
_PAUSE = 1.0
_MOST_FAILURES = 5


class Supervisor:
    """Runs `tocsin run` on the demo's configuration.

    Args:
        report: told what happens to the process, in a line for people.
    """

    def __init__(
        self,
        processes: Processes,
        session: aiohttp.ClientSession,
        *,
        database: Server,
        inbox: str,
        report: Callable[[str], None],
    ) -> None:
        self._processes = processes
        self._session = session
        self._database = database
        self._inbox = inbox
        self._report = report
        self._process: Process | None = None
        self.port = free(PORT)
        self.config = self._write()

    @property
    def url(self) -> str:
        """Where it serves its pages."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The present process, which must have been started."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        """What it says; the file goes on over its restarts."""
        assert self._process is not None
        return self._process.log

    async def start(self) -> None:
        """Start it for the first time, and return when it is ready.

        Raises:
            DemoError: it ends instead, or is not ready in time.
        """
        for _ in range(ATTEMPTS):
            process = await self._started()
            if await self._ready(process):
                return
            if process.status != _LISTEN_FAILED:
                raise _failure(process)
            # Somebody was quicker.
            self.port = free(PORT, taken=self.port)
            self.config = self._write()
        raise _failure(process)

    async def keep(self) -> None:
        """Start it again whenever it ends, for ever.

        Raises:
            DemoError: it ended several times in a row without having been ready.
        """
        failures = 0
        while True:
            assert self._process is not None
            status = await self._process.ended()
            self._report(f"Tocsin {told(status)}; starting it again")
            if failures:
                await asyncio.sleep(_PAUSE)
            process = await self._started()
            if await self._ready(process):
                failures = 0
                self._report(f"Tocsin is back as process {process.pid}, and goes on where it was")
            elif process.status is None:
                self._report(f"Tocsin is back as process {process.pid} but not ready; its page says why: {self.url}/")
            else:
                failures += 1
                if failures == _MOST_FAILURES:
                    raise _failure(process)

    async def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            await self._processes.stop(self._process)

    def _write(self) -> Path:
        return write_tocsin(self._processes.directory, port=self.port, database=self._database, inbox=self._inbox)

    async def _started(self) -> Process:
        command = (sys.executable, "-m", "tocsin", "run", "--config", self.config)
        self._process = await self._processes.start("tocsin", *command)
        return self._process

    async def _ready(self, process: Process) -> bool:
        """Wait until it is ready; False if it ends instead, or takes too long."""
        try:
            async with asyncio.timeout(_READY_TIMEOUT):
                while process.status is None:
                    if await self._answers():
                        return True
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            pass
        return False

    async def _answers(self) -> bool:
        try:
            async with self._session.get(f"{self.url}/api/v1/status") as response:
                if response.status != HTTPStatus.OK:
                    return False
                status = await response.json()
                # The channels start after the alerts.
                return bool(status["ready"] and status["channels"])
        except (aiohttp.ClientError, OSError):
            return False


def _failure(process: Process) -> DemoError:
    happened = f"is not ready after {_READY_TIMEOUT:g} s" if process.status is None else told(process.status)
    return DemoError(f"Tocsin {happened}. The last that it said:\n{process.last_words()}")
