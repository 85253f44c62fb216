"""Tocsin's process: started, and started again when it ends, as a service manager would."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path

import aiohttp

from tocsin_demo.stack.errors import DemoError
from tocsin_demo.stack.ports import ATTEMPTS, HOST, free
from tocsin_demo.stack.processes import Process, Processes
from tocsin_demo.stack.workspace import write

PORT = 8627

_LISTEN_FAILED = 4  # `tocsin --help`
_READY_TIMEOUT = 30.0
_POLL_EVERY = 0.05
_PAUSE = 1.0
_MOST_FAILURES = 5


class Tocsin:
    """Runs `tocsin run` on the demo's configuration.

    Args:
        places: what tocsin.yaml refers to, except the port.
        report: called with a line for people when the process ends or is back.
    """

    def __init__(
        self,
        processes: Processes,
        session: aiohttp.ClientSession,
        places: Mapping[str, str],
        report: Callable[[str], None],
    ) -> None:
        self._processes = processes
        self._session = session
        self._places = places
        self._report = report
        self._process: Process | None = None
        self.port = 0
        self.config = processes.directory / "tocsin.yaml"

    @property
    def url(self) -> str:
        """Where it serves its pages."""
        return f"http://{HOST}:{self.port}"

    @property
    def process(self) -> Process:
        """The current process. It must have been started."""
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Start it for the first time, and return when it is ready.

        Raises:
            DemoError: it ends instead, or is not ready in time.
        """
        for _ in range(ATTEMPTS):
            self.port = free(PORT)
            # Nothing refers to the environment any more: any shell can run `tocsin outbox list -c` with it.
            write(self.config, "tocsin.yaml", {**self._places, "TOCSIN_PORT": str(self.port)})
            if await self._started():
                return
            if self.process.status != _LISTEN_FAILED:  # another program took the port first
                break
        raise self._failure()

    async def keep(self) -> None:
        """Start it again whenever it ends, for ever.

        Raises:
            DemoError: it ended several times in a row without having been ready.
        """
        failures = 0
        while failures < _MOST_FAILURES:
            await self.process.ended()
            self._report(f"Tocsin {self.process.outcome}; starting it again")
            await asyncio.sleep(_PAUSE if failures else 0)
            if await self._started():
                failures = 0
                self._report(f"Tocsin is back as process {self.process.pid}, and goes on where it was")
            elif self.process.status is None:
                self._report(f"Tocsin is back as process {self.process.pid}, but not ready; see {self.url}/")
            else:
                failures += 1
        raise self._failure()

    async def _started(self) -> bool:
        """Start it, and wait until it is ready; False if it ends instead, or takes too long."""
        command: tuple[str | Path, ...] = (sys.executable, "-m", "tocsin", "run", "--config", self.config)
        process = self._process = await self._processes.start("tocsin", *command)
        try:
            async with asyncio.timeout(_READY_TIMEOUT):
                while process.status is None:
                    if await self._ready():
                        return True
                    await asyncio.sleep(_POLL_EVERY)
        except TimeoutError:
            pass
        return False

    async def _ready(self) -> bool:
        try:
            async with self._session.get(f"{self.url}/api/v1/status") as response:
                if response.status != HTTPStatus.OK:
                    return False
                status = await response.json()
                # The channels start after the alerts.
                return bool(status["ready"] and status["channels"])
        except (aiohttp.ClientError, OSError):
            return False

    def _failure(self) -> DemoError:
        process = self.process
        happened = f"is not ready after {_READY_TIMEOUT:g} s" if process.status is None else process.outcome
        return DemoError(f"Tocsin {happened}. Its last output:\n{process.last_words()}")
