"""The ways in which the database of a ledger goes away, and comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from psycopg.conninfo import make_conninfo

from support.pgbouncer import pgbouncer
from support.postgres import Database, Postgres
from support.tcp_proxy import TcpProxy


class Outage(NamedTuple):
    """A way in which the database goes away."""

    dsn: str
    begin: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[None]]
    says: str
    """What the process says about it."""
    long: bool = False


@asynccontextmanager
async def _stopped(server: Postgres, database: Database) -> AsyncIterator[Outage]:
    async def begin() -> None:
        await asyncio.to_thread(server.stop)

    async def end() -> None:
        await asyncio.to_thread(server.start)

    yield Outage(database.dsn, begin, end, "No such file or directory", long=True)


@asynccontextmanager
async def _crashed(server: Postgres, database: Database) -> AsyncIterator[Outage]:
    async def begin() -> None:
        await asyncio.to_thread(server.crash)

    async def end() -> None:
        await asyncio.to_thread(server.start)

    yield Outage(database.dsn, begin, end, "No such file or directory")


@asynccontextmanager
async def _cut(server: Postgres, database: Database) -> AsyncIterator[Outage]:
    async with TcpProxy(str(server.data), 5432) as proxy:
        yield Outage(over(proxy, database), proxy.cut, proxy.open, "Connection refused")


@asynccontextmanager
async def _silent(server: Postgres, database: Database) -> AsyncIterator[Outage]:
    async with TcpProxy(str(server.data), 5432) as proxy:

        async def begin() -> None:
            proxy.hold()

        async def end() -> None:
            proxy.release()

        yield Outage(over(proxy, database), begin, end, "no answer in time")


def _pooled(mode: str) -> "Begins":
    @asynccontextmanager
    async def outage(server: Postgres, database: Database) -> AsyncIterator[Outage]:
        with pgbouncer(server, mode) as pooler:

            async def begin() -> None:
                pooler.stop()

            async def end() -> None:
                await asyncio.to_thread(pooler.start)

            yield Outage(pooler(database.dsn), begin, end, "Connection refused")

    return outage


@asynccontextmanager
async def _behind_a_pooler(server: Postgres, database: Database) -> AsyncIterator[Outage]:
    """PgBouncer asks a server again that refused it after `server_login_retry`, by default 15 seconds."""
    with pgbouncer(server, "transaction", server_login_retry="1") as pooler:
        async with _stopped(server, database) as outage:
            yield outage._replace(dsn=pooler(database.dsn), says="")


def over(proxy: TcpProxy, database: Database) -> str:
    """The database through a proxy."""
    return make_conninfo(database.dsn, host="127.0.0.1", port=str(proxy.port))


Begins = Callable[[Postgres, Database], contextlib.AbstractAsyncContextManager[Outage]]
OUTAGES: dict[str, Begins] = {
    "stopped": _stopped,
    "crashed": _crashed,
    "cut off": _cut,
    "silent": _silent,
    "stopped behind a pooler": _behind_a_pooler,
    "pooler in session mode": _pooled("session"),
    "pooler in transaction mode": _pooled("transaction"),
}
