"""A real client of the double, as its own tests use it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import generators

from support.materialize import MaterializeDouble, protocol
from support.materialize.history import Row

SUBSCRIBE = "COPY (SUBSCRIBE orders WITH (PROGRESS)) TO STDOUT"
COLUMNS = [("id", "int4"), ("name", "text")]


@dataclass(slots=True)
class Stream:
    """A COPY stream as a client reads it: updates and progress rows, in order."""

    rows: list[tuple[int, int | None, Row]] = field(default_factory=list)
    failure: psycopg.Error | None = None
    ended: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, connection: psycopg.AsyncConnection, sql: str) -> None:
        try:
            async with connection.cursor().copy(sql.encode()) as copy:
                async for line in copy:
                    at, progressed, diff, *row = protocol.copy_split(bytes(line))
                    self.rows.append((int(at or 0), None if progressed == "t" else int(diff or 0), tuple(row)))
                    self.news.set()
        except psycopg.Error as failure:
            self.failure = failure
        self.ended = True
        self.news.set()

    async def until(self, condition: Callable[["Stream"], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition(self):
                self.news.clear()
                await self.news.wait()

    @property
    def updates(self) -> list[tuple[int, Row]]:
        return [(diff, row) for _, diff, row in self.rows if diff is not None]

    @property
    def as_of(self) -> int:
        return self.rows[0][0] if self.rows else 2**64

    @property
    def frontier(self) -> int:
        return max((at for at, diff, _ in self.rows if diff is None), default=-1)


@asynccontextmanager
async def connected(double: MaterializeDouble, password: str | None = None) -> AsyncIterator[psycopg.AsyncConnection]:
    connection = await psycopg.AsyncConnection.connect(double.dsn, autocommit=True, password=password)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def streaming(double: MaterializeDouble, sql: str = SUBSCRIBE) -> AsyncIterator[Stream]:
    async with connected(double) as connection:
        stream = Stream()
        task = asyncio.create_task(stream.read(connection, sql))
        try:
            yield stream
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def fetched(connection: psycopg.AsyncConnection, sql: str, *parameters: str) -> list[tuple[object, ...]]:
    cursor = await connection.execute(sql.encode(), parameters or None)
    return await cursor.fetchall()


async def described(connection: psycopg.AsyncConnection, sql: str) -> list[tuple[str, int, int]]:
    """Names, OIDs and modifiers of a statement's columns, by Parse and Describe."""
    connection.pgconn.send_prepare(b"", sql.encode())
    await connection.wait(generators.execute(connection.pgconn))
    connection.pgconn.send_describe_prepared(b"")
    (result,) = await connection.wait(generators.execute(connection.pgconn))
    names = [result.fname(at) or b"" for at in range(result.nfields)]
    return [(name.decode(), result.ftype(at), result.fmod(at)) for at, name in enumerate(names)]
