"""A bounded pool of connections to one server."""

import asyncio
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
from psycopg.pq import TransactionStatus

from tocsin.postgres.connections import PgConnection, close


class Pool:
    """At most `size` connections. One is made when none is idle, and kept for the next user.

    Users get connections in the order in which they asked. A connection that the server has ended, or whose user
    failed, is closed. Errors of `connect` are raised as they are, so that a user learns why there is no connection.
    """

    def __init__(self, size: int, connect: Callable[[], Awaitable[PgConnection]]) -> None:
        """`connect`: makes a connection that commits every statement, within a limit of time."""
        self._connect = connect
        self._places = asyncio.Semaphore(size)
        self._idle: list[PgConnection] = []
        self._keepers = 0
        self._failed: tuple[float, Exception] | None = None
        """When the last connection could not be made, and why; None after a success."""

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep idle connections for the length of the block. The last one to leave closes them."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            while self._idle and not self._keepers:
                await close(self._idle.pop())

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[PgConnection]:
        """A connection for the length of the block, outside of a transaction. Waits for one without limit."""
        asked = asyncio.get_running_loop().time()
        async with self._places:
            connection = await self._working() or await self._new(asked)
            try:
                yield connection
            except BaseException:
                await close(connection)
                raise
            self._idle.append(connection)
            if not self._keepers:
                await close(self._idle.pop())

    async def _working(self) -> PgConnection | None:
        """An idle connection that works: the one used last. Closes those that do not."""
        while self._idle:
            connection = self._idle.pop()
            if still_works(connection):
                return connection
            await close(connection)
        return None

    async def _new(self, asked: float) -> PgConnection:
        """A new connection. `asked`: since when it is waited for. A server that refused one meanwhile is not asked
        again: else the last of many would learn only after all timeouts before it."""
        if self._failed is not None and self._failed[0] >= asked:
            raise self._failed[1].with_traceback(None)
        try:
            connection = await self._connect()
        except Exception as error:
            self._failed = asyncio.get_running_loop().time(), error
            raise
        self._failed = None
        return connection


def still_works(connection: PgConnection) -> bool:
    """Whether an idle connection is in no transaction, and the server has not ended it, as far as is known without
    asking."""
    pgconn = connection.pgconn
    readable = select.poll()
    readable.register(pgconn.socket, select.POLLIN)
    try:
        while readable.poll(0):
            pgconn.consume_input()
    except psycopg.OperationalError:
        return False
    return pgconn.transaction_status == TransactionStatus.IDLE
