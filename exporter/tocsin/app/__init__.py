"""The running process: start, reload and shutdown."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import structlog
from aiohttp import web

from tocsin.app import logs
from tocsin.app.runtime import Runtime
from tocsin.app.status import RunningProcess
from tocsin.config import Config
from tocsin.config.sections import LogSettings
from tocsin.errors import ConfigError, LedgerError, ListenError, StallError
from tocsin.exposition import Metrics
from tocsin.faults import unexpected
from tocsin.settings import secret_hashes
from tocsin.web.application import build as build_web
from tocsin.web.connections import Connections
from tocsin.web.port import Port

log = structlog.get_logger(__name__)

_COLLECT = (2_000, 20, 100)
"""Thresholds of Python's garbage collector. Each collection blocks the event loop: the first two are low so that one of
new objects takes a millisecond, the last is high since a full one takes much longer."""


_RENEW_EVERY = 1.0
"""Seconds between two checks whether a secret was renewed, while something does not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """How another program has Tocsin in it."""

    ending: asyncio.Event
    """Set by the program when Tocsin is to stop."""
    started: Callable[[RunningProcess, str], None]
    """Called with the process and the address where it listens, once its alerts run."""
    signals: bool
    """Whether signals stop and reload it all the same."""


async def run(config: Config, read: Callable[[], Config], *, embedding: Embedding | None = None) -> None:
    """Run until SIGTERM or SIGINT. `read` loads the configuration again for a reload.

    `embedding`: of a program whose process and signals are its own. Raises ConfigError, LedgerError, ListenError,
    StallError; anything else is a defect.
    """
    if embedding is None:
        gc.set_threshold(*_COLLECT)
    try:
        async with AsyncExitStack() as last, asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
            metrics = Metrics(version("tocsin"))
            connections = Connections()
            port = Port(config.web, connections, reloaded=lambda ok: metrics.reloaded(successful=ok, at=time.time()))
            runtime = Runtime(tasks, metrics, ending=embedding.ending if embedding else None)
            last.push_async_callback(runtime.release)
            reloading = _Reloading(tasks, runtime, metrics, config, read, port)
            if embedding is None or embedding.signals:
                _on_signals(tasks, runtime.ending, reloading)
            process = RunningProcess(runtime, reloading, lambda: port.warnings)
            runner = web.AppRunner(
                build_web(process, runtime.page, guard=port.guard, connections=connections, version=version("tocsin")),
                access_log=None,
                logger=logs.SERVER,
                handle_signals=False,
                shutdown_timeout=2.0,
            )
            await runner.setup()
            stack.callback(port.guard.close)
            stack.push_async_callback(runner.cleanup)
            stack.push_async_callback(port.close)
            runtime.address = address = await _listen(port, runner, config)
            watching = tasks.create_task(port.watch(), name="port")
            maintenance = tasks.create_task(runtime.run_maintenance(), name="maintenance")
            await reloading.begin()
            renewing = tasks.create_task(reloading.renew(), name="renewed secrets")
            if embedding is None:
                # The objects of the start stay. Each collection of them would block the event loop for 50 ms.
                gc.freeze()
            if not runtime.ending.is_set():
                log.info("running", listen=address, alerts=len(config.alerts), channels=len(config.channels))
                if embedding is not None:
                    embedding.started(process, address)
            await runtime.ending.wait()
            log.info("stopping")
            async with reloading.over():
                maintenance.cancel()
                renewing.cancel()
                watching.cancel()
                await runtime.stop()
    except BaseExceptionGroup as group:
        raise _first(group) from None
    if runtime.stall:
        raise StallError(runtime.stall)


class _Reloading:
    """Loads and applies the configuration, one reload at a time; an invalid one changes nothing."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        runtime: Runtime,
        metrics: Metrics,
        first: Config,
        read: Callable[[], Config],
        port: Port,
    ) -> None:
        self._tasks = tasks
        self._runtime = runtime
        self._port = port
        self._metrics = metrics
        self._first = first
        self._next = first
        """What to begin with: a reload while this process is a standby replaces it."""
        self._read = read
        self._lock = asyncio.Lock()

    async def begin(self) -> None:
        """Apply the configuration that the process was started with, or what a reload has read since."""
        self._metrics.reloaded(successful=True, at=time.time())
        await _or_ending(self._begin(), self._runtime.ending)

    async def _begin(self) -> None:
        await self._runtime.open_ledger(lambda: self._next)
        async with self._lock:
            await self._runtime.apply(self._next)

    async def renew(self) -> None:
        """Reload once a file with a secret has changed while something does not work, until cancelled."""
        tried: dict[str, str] = {}
        while True:
            await asyncio.sleep(_RENEW_EVERY)
            config = self._runtime.config
            if config is None or not config.secret_files or not self._runtime.refused:
                continue
            now = await asyncio.to_thread(secret_hashes, config.secret_files)
            if now != tried and any(config.secret_files[path] != content for path, content in now.items()):
                tried = now
                log.info("a file with a secret has changed; reloading")
                await self()

    def over(self) -> asyncio.Lock:
        """Return the lock to hold during shutdown: a running reload ends first, so that its tasks are stopped."""
        return self._lock

    async def __call__(self) -> Sequence[str]:
        async with self._lock:
            if self._runtime.ending.is_set():
                return ["the process is stopping"]
            try:
                config = await asyncio.to_thread(self._read)
                applied = self._runtime.config is not None and await self._runtime.apply(config)
                if not applied:
                    await self._wait_with(config)
                self._port.configure(config.web)
            except Exception as error:  # noqa: BLE001 - no configuration may end the process
                self._metrics.reloaded(successful=False, at=time.time())
                problems = self._runtime.refused_configuration = _problems(error)
                for problem in problems:
                    log.error("configuration refused; the last good one stays", problem=problem)
                return problems
            self._metrics.reloaded(successful=True, at=time.time())
            self._runtime.refused_configuration = ()
            what = "configuration applied" if applied else "configuration read; the alerts will start with it"
            log.info(what, alerts=len(config.alerts), channels=len(config.channels))
            for setting in self._settings_for_restart(config):
                log.warning("this setting was changed, and takes effect with the next start", setting=setting)
            return []

    async def _wait_with(self, config: Config) -> None:
        """Begin with a configuration as soon as no other process runs another one."""
        self._next = config
        if self._runtime.config is None:
            return  # it waits already
        log.info("other processes of the ledger run the former configuration; waiting with the new one")
        await self._runtime.suspend()
        self._tasks.create_task(_or_ending(self._begin(), self._runtime.ending), name="begin again")

    def _settings_for_restart(self, config: Config) -> Iterator[str]:
        """Yield the changed settings that a running process cannot apply."""
        waited_for = self._first.ledger if self._runtime.config is None else None
        if (ledger := self._runtime.ledger_settings or waited_for) is not None:
            for name in ("path", "url", "namespace"):
                renewed = name == "url" and config.ledger.is_renewed(ledger)
                if getattr(ledger, name) != getattr(config.ledger, name) and not renewed:
                    yield f"ledger.{name}"
        log_settings = [*LogSettings.model_fields]
        for section, names in (("web", ["listen", "config_file"]), ("log", log_settings)):
            before, after = getattr(self._first, section), getattr(config, section)
            for name in names:
                if getattr(before, name) != getattr(after, name):
                    yield f"{section}.{name}"


async def _or_ending(work: Coroutine[Any, Any, None], ending: asyncio.Event) -> None:
    """Wait for some work, at most until the process is to end: it may wait for another process to end."""
    working, ended = asyncio.create_task(work), asyncio.create_task(ending.wait())
    try:
        await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, ended):
            task.cancel()
        await asyncio.gather(working, ended, return_exceptions=True)


def _problems(error: Exception) -> list[str]:
    """Return why a configuration was not applied, one sentence each."""
    if isinstance(error, ConfigError):
        return [str(one) for one in error.problems]
    if isinstance(error, LedgerError):
        return [str(error)]
    log.debug("unexpected exception", exc_info=error)
    return [unexpected(error)]


def _on_signals(
    tasks: asyncio.TaskGroup, ending: asyncio.Event, reload: Callable[[], Awaitable[Sequence[str]]]
) -> None:
    loop = asyncio.get_running_loop()

    async def reload_once() -> None:
        await reload()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: tasks.create_task(reload_once(), name="reload"))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # `tocsin.cli.main` has blocked it


async def _listen(port: Port, runner: web.AppRunner, config: Config) -> str:
    try:
        return await port.open(runner)
    except OSError as error:
        # The text of asyncio says the address again. That of an unknown host name has a negative number.
        why = error.strerror or str(error)
        if error.errno is not None and error.errno > 0:
            why = os.strerror(error.errno)
        raise ListenError(f"cannot listen on {config.web.listen}: {why.lower()}; choose another web.listen") from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the only exception of a group, or the whole group: several at once are a defect."""
    single: BaseException = group
    while isinstance(single, BaseExceptionGroup) and len(single.exceptions) == 1:
        single = single.exceptions[0]
    return single
