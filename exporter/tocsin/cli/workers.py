"""`tocsin run --workers N`: several processes on one machine that share a ledger.

Each is a `tocsin run`. This one starts them, passes signals on to them, and starts those again that end.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from dataclasses import replace

import structlog

from tocsin.backoff import Backoff
from tocsin.cli import Exit
from tocsin.config import Config
from tocsin.errors import ConfigError, Problem

log = structlog.get_logger(__name__)

_BACKOFF = Backoff(initial=0.25, maximum=30.0)
_STEADY = 60.0
"""Seconds after which a worker counts as one that works."""
_MISTAKES = (Exit.USAGE, Exit.LEDGER, Exit.LISTEN)
"""What another start would end with, too."""

_STOPPED = (Exit.OK, Exit.INTERRUPTED, -signal.SIGTERM, -signal.SIGINT)
"""How a worker ends that was to stop; the last ones before it handles signals."""


def check(config: Config, count: int, file: str | None) -> None:
    """Raise ConfigError where this configuration cannot run as so many processes."""
    port, problems = config.web.port, []
    if config.ledger.url is None:
        why = f"only one process can use the file {config.ledger.path}; for several workers, set ledger.url"
        problems.append(Problem(code="one_process", path="ledger", message=why))
    if port and port + count - 1 > 65535:
        why = f"{count} workers need {count} ports from {port} on, and there is none above 65535"
        problems.append(Problem(code="no_ports", path="web.listen", message=why))
    if file == "-":
        why = "each worker reads the configuration; write it to a file"
        problems.append(Problem(code="standard_input", path="", message=why))
    if problems:
        raise ConfigError(problems)


def of_worker(config: Config, number: int) -> Config:
    """The configuration of a worker, counted from 1: its port is that many after the first one's, unless that is 0."""
    web = config.web
    if not web.port:
        return config
    host = web.listen.rpartition(":")[0]
    return replace(config, web=web.model_copy(update={"listen": f"{host}:{web.port + number - 1}"}))


def end_with_supervisor() -> None:
    """Have this worker stop when its supervisor is gone, however that ended: then its standard input ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


def run(count: int, file: str | None) -> int:
    """Run so many workers until SIGTERM or SIGINT, or until one finds a mistake. Returns the exit status."""
    # `python -m` puts the working directory on the path of imports, which the program `tocsin` does not.
    safe = () if os.getcwd() in sys.path else ("-P",)  # noqa: PTH109 - as text
    command = (sys.executable, *safe, "-m", "tocsin", "run", *(("--config", file) if file else ()))
    return asyncio.run(_Supervisor(count, command).run())


class _Supervisor:
    def __init__(self, count: int, command: tuple[str, ...]) -> None:
        self._count = count
        self._command = command
        self._running: dict[int, Process] = {}
        self._stopping = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._send, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        async with asyncio.TaskGroup() as tasks:
            for worker in range(1, self._count + 1):
                tasks.create_task(self._keep(worker), name=f"worker {worker}")
        return self._status

    async def _keep(self, worker: int) -> None:
        """Run a worker, again and again, until the end. Mistakes end all, unless other workers do without."""
        starts = failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            status = await self._once(worker)
            starts += 1
            if self._stopping.is_set():
                self._status = self._status or (0 if status in _STOPPED else status if status > 0 else 128 - status)
            elif status in _MISTAKES and (starts == 1 or not self._running):
                self._status = status
                self._stop()
            else:
                failures = 0 if time.monotonic() - began > _STEADY else failures + 1
                wait = _BACKOFF.delay(failures, random.random)
                log.warning("a worker has ended; starting it again", worker=worker, status=status, wait=round(wait, 1))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._stopping.wait()

    async def _once(self, worker: int) -> int:
        try:
            process = await asyncio.create_subprocess_exec(*self._command, "--as-worker", str(worker), stdin=PIPE)
        except OSError as error:  # too little memory, say: the others must not end with it
            log.error("a worker cannot be started", worker=worker, error=str(error))
            return Exit.FAILED
        self._running[worker] = process
        if self._stopping.is_set():
            self._send(signal.SIGTERM)  # it was not there yet
        try:
            return await process.wait()
        finally:
            del self._running[worker]

    def _stop(self) -> None:
        self._stopping.set()
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
