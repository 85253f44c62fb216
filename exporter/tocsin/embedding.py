"""Tocsin inside another program (docs/python-api.md): `run`, which blocks, and the context manager `Tocsin`.

Neither changes anything of the program: no signal handlers unless asked, no logging, no garbage collection.
"""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeAlias

from tocsin import app
from tocsin.app import logs
from tocsin.app.status import RunningProcess
from tocsin.config import Config, load
from tocsin.config.loading import load_text

Configuration: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
"""The name of a file, or what a file would hold."""


def run(config: Configuration, *, signals: bool = False) -> None:
    """Run in an event loop of its own until it is stopped: by Ctrl-C, which is raised after a clean stop, or by an
    error. Arguments and errors are those of `Tocsin`."""

    async def until_ended() -> None:
        async with Tocsin(config, signals=signals) as tocsin:
            await tocsin.wait()

    asyncio.run(until_ended())


class Tocsin:
    """Runs while the block of a `with` or `async with` does.

    `async with` uses the event loop of the caller, `with` a thread with an event loop of its own. The block begins when
    the alerts run, and ends after a clean stop: what is ready is sent, and the ledger is closed. One object runs once.

    Making one raises ConfigError. Entering raises LedgerError and ListenError; it waits while other processes of a
    ledger in PostgreSQL run another configuration. Leaving raises StallError or LedgerError if it ended by itself, and
    the block raised nothing. Each is a TocsinError.
    """

    def __init__(self, config: Configuration, *, signals: bool = False) -> None:
        """`config`: the name of a file, or what it would hold. `signals`: SIGTERM and SIGINT stop it and SIGHUP reloads
        it, as the command does. Only for an event loop in the main thread."""
        self._given = config
        self._config = self._read()
        self._signals = signals
        self._stopping = self._ended = False
        self._ending = asyncio.Event()
        self._started: Future[tuple[RunningProcess, str] | None] = Future()
        """None where it stopped before it started."""
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as in `http://127.0.0.1:8627`; empty where it does not."""
        started = self._started.result() if self._started.done() else None
        return started[1] if started else ""

    def problems(self) -> list[str]:
        """Return why it is not ready, as `/readyz` does; empty if it is. From any thread."""
        started = self._started.result() if self._started.done() else None
        if started is None or self._loop is None or self._ended:
            return [str(self._failure or "it does not run")]
        ready = started[0].ready
        with contextlib.suppress(RuntimeError):  # no event loop runs in this thread
            if asyncio.get_running_loop() is self._loop:
                return [*ready()]

        async def asked() -> list[str]:
            return [*ready()]

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result()

    def stop(self) -> None:
        """Ask it to stop, and return at once. From any thread."""
        self._stopping = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._ending.set)

    async def wait(self) -> None:
        """Within `async with`: wait until it has ended. Raises what ended it."""
        if self._task is None:
            raise RuntimeError("wait is for a Tocsin that was entered with `async with`")
        await asyncio.wait({self._task})
        self._raise_failure()

    async def __aenter__(self) -> Self:
        self._begin()
        self._task = asyncio.create_task(self._main(), name="tocsin")
        try:
            await asyncio.wrap_future(self._started)
        except BaseException:
            await self._stopped(self._task)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        await self._stopped(self._task)
        if error is None:
            self._raise_failure()

    def __enter__(self) -> Self:
        if self._signals:
            raise ValueError("signals arrive in the main thread; use `async with`, or `run`")
        self._begin()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="tocsin", daemon=True)
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self.stop()
            self._thread.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self.stop()
        self._thread.join()
        if error is None:
            self._raise_failure()

    def _begin(self) -> None:
        if self._task is not None or self._thread is not None:
            raise RuntimeError("this Tocsin has run; make another one")
        logs.use_logging()

    def _read(self) -> Config:
        given = self._given
        return load_text(json.dumps(given), "", os.environ) if isinstance(given, Mapping) else load(given, os.environ)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stopping:
            self._ending.set()
        started = self._started
        embedding = app.Embedding(
            ending=self._ending,
            started=lambda process, address: started.set_result((process, address)),
            signals=self._signals,
        )
        try:
            await app.run(self._config, self._read, embedding=embedding)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                raise
            if started.done():
                self._failure = error
            else:
                started.set_exception(error)
        finally:
            self._ended = True
            if not started.done():
                started.set_result(None)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _stopped(self, task: asyncio.Task[None]) -> None:
        """Wait for a clean stop; where that is cancelled, for one at once."""
        self.stop()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
