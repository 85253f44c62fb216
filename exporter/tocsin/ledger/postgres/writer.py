"""One connection for all writes of a process. Jobs that are queued together share a transaction, and so one sync of the
server's disk and two messages to it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg import sql

from tocsin.ledger.postgres.connection import Fenced, Link
from tocsin.postgres import PgConnection, within

T = TypeVar("T")
Job: TypeAlias = Callable[[PgConnection], Awaitable[T]]
_GROUP = 64
"""The most jobs in one transaction: limits how long the first waits for the last."""


class _Queued(NamedTuple):
    job: Job[Any]
    future: "asyncio.Future[Any]"
    locks: bool


class Writer:
    """Runs functions of a connection one after another, each exactly once, each whole or not at all.

    A lost connection leaves open whether its transaction was committed, so every job may be run again by its caller:
    what it writes has a name already, or states what holds afterwards.
    """

    def __init__(
        self, link: Link, begin: sql.Composed, fence: Job[None], timeout: float, observe: Callable[[float], None]
    ) -> None:
        """`begin`: begins a transaction. `fence`: the last job of each. `observe`: called with the seconds that each
        took."""
        self._link = link
        self._begin = begin
        self._fence = fence
        self._timeout = timeout
        self._observe = observe
        self._queue: asyncio.Queue[_Queued | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._work())

    async def run(self, job: Job[T], *, locks: bool = False) -> T:
        """Run `job` in a transaction, and return its result once that is on disk. Raises what `job` raised, rolled
        back. A cancelled caller does not undo its job.

        `locks`: whether it may wait for rows that another process has locked. Those jobs go first in a transaction:
        who waits then holds nothing that another waits for."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Queued(job, future, locks))
        return await future

    async def close(self) -> None:
        """Finish the queue and close the connection."""
        self._queue.put_nowait(None)
        await self._task
        await self._link.close()

    async def _work(self) -> None:
        ending = False
        while not ending:
            queued = [await self._queue.get()]
            while queued[-1] is not None and len(queued) < _GROUP and not self._queue.empty():
                queued.append(self._queue.get_nowait())
            ending = queued[-1] is None
            if group := [one for one in queued if one is not None]:
                await self._run_group(group)

    async def _run_group(self, group: Sequence[_Queued]) -> None:
        try:
            results = await self._transaction(group)
        except Exception as error:  # noqa: BLE001 - whatever a job raises is for its caller
            if len(group) == 1 or self._link.lost or isinstance(error, Fenced):
                for one in group:
                    if not one.future.done():
                        one.future.set_exception(error)
            else:  # one of them has spoiled the transaction of all
                for one in group:
                    await self._run_group([one])
        else:
            for one, result in zip(group, results, strict=True):
                if not one.future.done():
                    one.future.set_result(result)

    async def _transaction(self, group: Sequence[_Queued]) -> list[Any]:
        connection = await self._link.get()
        began = time.perf_counter()
        results = await within(self._timeout, connection, self._run_jobs(connection, group))
        self._observe(time.perf_counter() - began)
        return results

    async def _run_jobs(self, connection: PgConnection, group: Sequence[_Queued]) -> list[Any]:
        found: dict[int, Any] = {}
        try:
            await connection.execute(self._begin)
            for place in sorted(range(len(group)), key=lambda place: not group[place].locks):
                found[place] = await group[place].job(connection)
            await self._fence(connection)
            await connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(psycopg.Error):
                await connection.execute("ROLLBACK")
            raise
        return [found[place] for place in range(len(group))]
