"""A ledger in PostgreSQL as tables. See `tocsin.ledger.tables.Store`."""

from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import uuid4

import psycopg

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.postgres.connection import LedgerServer, Link, begin, ledger_error
from tocsin.ledger.postgres.instances import Member, fence, leave
from tocsin.ledger.postgres.migrating import migrate
from tocsin.ledger.postgres.opening import try_to_join
from tocsin.ledger.postgres.transaction import Job, Transaction, in_one, plain
from tocsin.ledger.postgres.values import rows_text, storable
from tocsin.ledger.tables import Row, Table
from tocsin.postgres import within

T = TypeVar("T")


class PostgresTables:
    """Used by one task."""

    def __init__(self, server: LedgerServer, link: Link, member: Member) -> None:
        self._server = server
        self._link = link
        self._member = member

    async def copying(self) -> str | None:
        return await self._value("SELECT copying FROM ledger")

    async def mark(self, source: str | None) -> None:
        def write(db: Transaction) -> None:
            db.do("UPDATE ledger SET copying = %s", (None if source is None else storable(source),))
            if source is None:
                for statement in _NUMBERS:
                    db.do(statement)

        await self._run(plain(write))

    async def rows(self, table: Table, after: Row | None, limit: int) -> list[Row]:
        names = _names(table)
        key = ", ".join(names[: table.key])
        past = f"WHERE ({key}) > ({', '.join(['%s'] * table.key)})" if after is not None else ""
        values = [storable(value) if isinstance(value, str) else value for value in after or ()]
        statement = f"SELECT {', '.join(names)} FROM {table.name} {past} ORDER BY {key} LIMIT %s"  # noqa: S608 - fixed names

        async def read(db: Transaction) -> Callable[[], list[Row]]:
            found = db.add(statement, (*values, limit))
            return lambda: [*found.rows]

        return await self._run(read)

    async def insert(self, table: Table, rows: Sequence[Row]) -> None:
        names = ", ".join(_names(table))
        given = [[storable(value) if isinstance(value, str) else value for value in row] for row in rows]
        statement = (
            f"INSERT INTO {table.name} ({names}) OVERRIDING SYSTEM VALUE"  # noqa: S608 - fixed names
            f" SELECT {names} FROM json_populate_recordset(NULL::{table.name}, %s) ON CONFLICT DO NOTHING"
        )
        await self._run(plain(lambda db: db.do(statement, (rows_text(table.columns, given),))))

    async def count(self, table: Table) -> int:
        return int(await self._value(f"SELECT count(*) FROM {table.name}") or 0)  # noqa: S608 - fixed names

    async def close(self) -> None:
        db = await self._link.get()
        leaving = in_one(db, begin(self._server), plain(lambda db: leave(db, self._member)))
        await within(self._server.timeout, db, leaving)
        await self._link.close()

    async def _value(self, statement: str) -> str | None:
        async def read(db: Transaction) -> Callable[[], str | None]:
            found = db.add(statement)
            return lambda: found.rows[0][0]

        return await self._run(read)

    async def _run(self, job: Job[T]) -> T:
        try:
            db = await self._link.get()
            work = in_one(db, begin(self._server), job, lambda db: fence(db, self._member))
            return await within(self._server.timeout, db, work)
        except (psycopg.Error, OSError) as error:
            raise ledger_error(error, self._server) from None


_NUMBERS = (
    "SELECT setval('numbers', greatest((SELECT max(id) FROM transitions), (SELECT max(seq) FROM notifications), 1))",
    "SELECT setval(pg_get_serial_sequence('shapes', 'id'), greatest((SELECT max(id) FROM shapes), 1))",
    "SELECT setval(pg_get_serial_sequence('attempts', 'number'), greatest((SELECT max(number) FROM attempts), 1))",
)
"""What is numbered goes on after the rows that were copied."""


def _names(table: Table) -> list[str]:
    return [f'"{name}"' for name in table.columns]


async def open_tables(server: LedgerServer) -> PostgresTables:
    """Open the ledger, which no process may use meanwhile; its tables are made. Raises LedgerError."""
    link = Link(server)
    try:
        db = await link.get()
        await within(server.timeout, db, migrate(db, server, allowed=True, copying=True))
        member = await try_to_join(link, server, {"copy": str(uuid4())})
    except (psycopg.Error, OSError) as error:
        await link.close()
        raise ledger_error(error, server) from None
    if not isinstance(member, Member):
        await link.close()
        raise LedgerError(f"{server.display}: {member}; stop it first", LedgerReason.LOCKED)
    return PostgresTables(server, link, member)
