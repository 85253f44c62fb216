"""The statements of one transaction, in as few messages as their results allow."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncClientCursor
from psycopg.pq import TransactionStatus

from tocsin.postgres import PgConnection

T = TypeVar("T")
FEW = 50
"""The most rows that are inserted by a statement. COPY takes a tenth of the time for one row, but two more messages."""


@dataclass(slots=True)
class Result:
    """What a statement returned, once it was sent."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    count: int = 0
    """Rows that were returned or changed."""


class Transaction:
    """Statements wait until a result is needed, and are then sent as one message, in order.

    A message costs as much as a small statement, so this halves the time of a commit.
    """

    def __init__(self, connection: PgConnection) -> None:
        self._cursor = AsyncClientCursor(connection)  # only text with its values in it may hold several statements
        self._waiting: list[tuple[str, Result | None]] = []

    def do(self, statement: str, arguments: Sequence[object] | dict[str, object] = ()) -> None:
        """Add a statement whose result no one needs."""
        self._wait(statement, arguments, None)

    def add(self, statement: str, arguments: Sequence[object] | dict[str, object] = ()) -> Result:
        """Add a statement. Its result is there after the next `get` or `send`."""
        result = Result()
        self._wait(statement, arguments, result)
        return result

    async def get(self, statement: str, arguments: Sequence[object] | dict[str, object] = ()) -> Result:
        """Send the waiting statements and this one, and return its result. Raises psycopg.Error."""
        result = self.add(statement, arguments)
        await self.send()
        return result

    async def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Insert rows. Many are sent while they are made, so that the server works at the same time. Raises
        psycopg.Error."""
        rows = iter(rows)
        first = list(islice(rows, FEW + 1))
        names = ", ".join([f'"{name}"' for name in columns])
        if len(first) > FEW:
            await self.send()
            async with self._cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in chain(first, rows):
                    await copy.write_row(row)
        elif first:
            places = f"({', '.join(['%s'] * len(columns))})"
            values = ", ".join([places] * len(first))
            self.do(f"INSERT INTO {table} ({names}) VALUES {values}", [*chain.from_iterable(first)])  # noqa: S608 - fixed names

    async def send(self) -> None:
        """Send the waiting statements. Raises psycopg.Error."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        await self._cursor.execute(";\n".join([text for text, _ in waiting]))
        for place, (_, result) in enumerate(waiting):
            if result is not None:
                await self._cursor.set_result(place)
                result.count = self._cursor.rowcount
                if self._cursor.description is not None:
                    result.rows = await self._cursor.fetchall()

    def _wait(self, statement: str, arguments: Sequence[object] | dict[str, object], result: Result | None) -> None:
        text = self._cursor.mogrify(statement, arguments) if arguments else statement
        self._waiting.append((text, result))


Job: TypeAlias = Callable[[Transaction], Awaitable[Callable[[], T]]]
"""Adds statements to a transaction. What it returns is called after the commit, when all results are there."""


def answering(work: Callable[[Transaction], Callable[[], T]]) -> Job[T]:
    """Work that needs no result on the way, as a job."""

    async def job(db: Transaction) -> Callable[[], T]:
        return work(db)

    return job


def plain(work: Callable[[Transaction], object]) -> Job[None]:
    """Work without a result, as a job."""

    async def job(db: Transaction) -> Callable[[], None]:
        work(db)
        return lambda: None

    return job


async def in_one(
    connection: PgConnection,
    begin: Sequence[str],
    job: Job[T],
    end: Callable[[Transaction], Callable[[], None] | None] = lambda _: None,
) -> T:
    """Run a job in a transaction, and return what its result returns after the commit. Raises what the job raised,
    rolled back.

    `begin`: the statements that begin it. `end`: adds the last one, and returns what is called after the commit.
    """
    transaction = Transaction(connection)
    try:
        for statement in begin:
            transaction.do(statement)
        after = await job(transaction)
        confirmed = end(transaction)
        transaction.do("COMMIT")
        await transaction.send()
    except BaseException:
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                await connection.execute("ROLLBACK")
        raise
    if confirmed is not None:
        confirmed()
    return after()
