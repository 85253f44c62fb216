"""One thread that owns the writing connection. Jobs that are queued together share a transaction, and so one sync of
the disk."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
_GROUP = 64
"""The most jobs in one transaction: limits how long the first waits for the last."""


class _Job(NamedTuple):
    function: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"


class Writer:
    """Runs functions of a connection in its own thread, each exactly once, each whole or not at all."""

    def __init__(self, connection: sqlite3.Connection, observe: Callable[[float], None]) -> None:
        """`observe`: called in the writer's thread with the seconds that each transaction took."""
        self._connection = connection
        self._observe = observe
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger writer", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` in a transaction, and return its result once that is on disk. Raises what `job` raised, rolled
        back. A cancelled caller does not undo its job."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(job, future))
        return await future

    def close(self) -> None:
        """Finish the queue and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        ending = False
        while not ending:
            jobs = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while jobs[-1] is not None and len(jobs) < _GROUP:
                    jobs.append(self._jobs.get_nowait())
            ending = jobs[-1] is None
            if group := [job for job in jobs if job is not None]:
                self._run_group(group)

    def _run_group(self, group: Sequence[_Job]) -> None:
        try:
            results = self._transaction(group)
        except Exception as error:  # noqa: BLE001 - whatever a job raises is for its caller
            if len(group) == 1:
                _answer([(group[0].future, error)])
            else:  # one of them has spoiled the transaction of all
                for job in group:
                    self._run_group([job])
        else:
            _answer([(job.future, result) for job, result in zip(group, results, strict=True)])

    def _transaction(self, group: Sequence[_Job]) -> list[Any]:
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


def _answer(answers: Sequence[tuple["asyncio.Future[Any]", Any]]) -> None:
    """Pass results and exceptions to their futures, all at once: each call from a thread wakes the loop."""

    def answer(some: Sequence[tuple["asyncio.Future[Any]", Any]]) -> None:
        for future, result in some:
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    for loop, some in groupby(answers, key=lambda one: one[0].get_loop()):
        with contextlib.suppress(RuntimeError):  # the loop is closed: no one waits
            loop.call_soon_threadsafe(answer, list(some))
