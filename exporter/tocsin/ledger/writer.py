"""One thread that owns the writing connection. Jobs that are queued together share one transaction, and so one
fsync."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_GROUP = 64
"""Jobs in one transaction at most: bounds how long the first of them waits for the last."""


class Writer:
    """Runs functions of a connection in its own thread, each exactly once, each whole or not at all."""

    def __init__(self, connection: sqlite3.Connection, observe: Callable[[float], None]) -> None:
        """`observe` is told, in the writer's thread, how many seconds each transaction took."""
        self._connection = connection
        self._observe = observe
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger writer", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` in a transaction; its result comes once the transaction is on disk. Raises what it raised, rolled
        back.

        A cancelled caller does not undo its job: whoever asked to write has written.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(job, future, loop))
        return await future

    def close(self) -> None:
        """Finish the queue and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [job]
            ending = False
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP and not ending:
                    following = self._jobs.get_nowait()
                    ending = following is None
                    if following is not None:
                        group.append(following)
            self._run_group(group)
            if ending:
                return

    def _run_group(self, group: "list[_Job[Any]]") -> None:
        try:
            results = self._transaction(group)
        except Exception as error:  # noqa: BLE001 - whatever a job raises belongs to who queued it
            if len(group) == 1:
                _post(group[0].loop, [partial(group[0].fail, error)])
                return
            # One of them spoiled the transaction for all: each again on its own.
            for job in group:
                self._run_group([job])
            return
        for loop, done in groupby(zip(group, results, strict=True), key=lambda one: one[0].loop):
            _post(loop, [partial(job.succeed, result) for job, result in done])

    def _transaction(self, group: "list[_Job[Any]]") -> list[Any]:
        connection = self._connection
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = [job.function(connection) for job in group]
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        self._observe(time.perf_counter() - began)
        return results


@dataclass(slots=True)
class _Job(Generic[T]):
    """A function and who waits for it, and where."""

    function: Callable[[sqlite3.Connection], T]
    future: asyncio.Future[T]
    loop: asyncio.AbstractEventLoop

    def succeed(self, result: T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _post(loop: asyncio.AbstractEventLoop, calls: Sequence[Callable[[], None]]) -> None:
    """Call in the loop, all at once: each call from outside wakes it through a socket."""

    def run() -> None:
        for call in calls:
            call()

    # The loop may have gone at shutdown: then nobody waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(run)
