"""One connection for all writes of a process. Jobs that are queued together share a transaction, and so one sync of the
server's disk and two messages to it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from psycopg import errors

from tocsin.ledger.postgres.connection import ENDED, Link
from tocsin.ledger.postgres.transaction import Job, Transaction, in_one
from tocsin.postgres import PgConnection

T = TypeVar("T")
_GROUP = 64
"""The most jobs in one transaction: limits how long the first waits for the last."""
_OF_OTHERS = (errors.SerializationFailure, errors.DeadlockDetected, errors.UniqueViolation)
"""What other processes cause. Of a unique violation: one has written the same at this moment, and now it is there."""
_ATTEMPTS = 3
"""How often such a transaction is tried."""


class _Queued(NamedTuple):
    job: Job[Any]
    future: "asyncio.Future[Any]"
    locks: bool


def _fail(group: Sequence[_Queued], error: Exception) -> None:
    for one in group:
        if not one.future.done():
            one.future.set_exception(error)


class Writer:
    """Runs functions of a connection one after another, each exactly once, each whole or not at all.

    A lost connection leaves open whether its transaction was committed, so every job may be run again by its caller:
    what it writes has a name already, or states what holds afterwards.
    """

    def __init__(
        self,
        link: Link,
        begin: Sequence[str],
        end: Callable[[Transaction], Callable[[], None] | None],
        timeout: float,
        observe: Callable[[float], None],
    ) -> None:
        """`begin`: the statements that begin a transaction. `end`: see `in_one`. `observe`:
        called with the seconds that each took."""
        self._link = link
        self._begin = begin
        self._end = end
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

    async def _run_group(self, group: Sequence[_Queued], attempt: int = 1) -> None:
        try:
            results = await self._transaction(group)
        except Exception as error:  # noqa: BLE001 - whatever a job raises is for its caller
            if isinstance(error, _OF_OTHERS) and attempt < _ATTEMPTS:
                await self._run_group(group, attempt + 1)
            elif len(group) == 1 or self._link.lost or getattr(error, "sqlstate", None) in ENDED:
                _fail(group, error)
            else:  # one of them has spoiled the transaction of all
                for one in group:
                    await self._run_group([one])
        else:
            for one, result in zip(group, results, strict=True):
                if not one.future.done():
                    one.future.set_result(result)

    async def _transaction(self, group: Sequence[_Queued]) -> list[Any]:
        return await self._link.run(self._timeout, lambda connection: self._run_jobs(connection, group))

    async def _run_jobs(self, connection: PgConnection, group: Sequence[_Queued]) -> list[Any]:
        async def all_of_them(transaction: Transaction) -> Callable[[], list[Any]]:
            after: dict[int, Callable[[], Any]] = {}
            for place in sorted(range(len(group)), key=lambda place: not group[place].locks):
                after[place] = await group[place].job(transaction)
            return lambda: [after[place]() for place in range(len(group))]

        began = time.perf_counter()
        results = await in_one(connection, self._begin, all_of_them, self._end)
        self._observe(time.perf_counter() - began)
        return results
