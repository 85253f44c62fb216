"""One set of tests, several servers: doubles of Materialize, and a real one where one is given.

The real one is named by TOCSIN_TEST_MATERIALIZE_DSN, asks for no password, and accepts mz_system on the port two above
(6877 beside 6875). All objects are created in a schema with a random name, which is dropped after the test.
"""

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.live_server import VARIABLE
from support.materialize import RELEASES, MaterializeDouble, Relation
from support.materialize.relation import DEFAULT_RETENTION
from support.materialize.session import relation_name
from support.waiting import until_some
from tocsin.sources.materialize import Materialize
from tocsin.sources.settings import MaterializeConfig

LIVE = [pytest.param("live", marks=pytest.mark.live)] if os.environ.get(VARIABLE) else []
SERVERS = (*RELEASES, *LIVE)
"""For `pytest.fixture(params=...)`: a double of each release, and the live one where there is one."""

TextRow = tuple[str | None, ...]
ColumnSpec = Sequence[tuple[str, str]]
COLUMNS: ColumnSpec = (("id", "int4"), ("name", "text"))
ANN: TextRow = ("1", "Ann")
BOB: TextRow = ("2", "Bob")
CYD: TextRow = ("3", "Cyd")


@asynccontextmanager
async def serving(kind: str) -> AsyncIterator["Server"]:
    """A server for the length of a test: `live`, or a double of this release."""
    if kind in RELEASES:
        async with MaterializeDouble(progress_interval=0.1, release=kind) as double:
            yield DoubleServer(double)
        return
    dsn = os.environ[VARIABLE]
    system = make_conninfo(dsn, user="mz_system", port=int(conninfo_to_dict(dsn).get("port") or 6875) + 2)
    # Only that role may switch it on, and where it may not, the tests that need history say so themselves.
    with contextlib.suppress(psycopg.OperationalError):
        async with await psycopg.AsyncConnection.connect(system, autocommit=True) as connection:
            await connection.execute("ALTER SYSTEM SET enable_logical_compaction_window = true")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        server = LiveServer(dsn, connection, f"tocsin_test_{secrets.token_hex(4)}")
        await server.run(f"CREATE SCHEMA {server.schema}")
        try:
            yield server
        finally:
            await server.run(f"DROP SCHEMA {server.schema} CASCADE")
            for role in server.roles:
                await server.run(f"DROP ROLE {role}")


def settings(dsn: str, *, user: str | None = None, **given: Any) -> MaterializeConfig:
    """Settings with timeouts short enough for tests and long enough for a busy machine."""
    defaults = {"connect_timeout": "5s", "snapshot_timeout": "20s", "progress_timeout": "10s"}
    return MaterializeConfig.model_validate({"dsn": make_conninfo(dsn, user=user), **defaults, **given})


def source(of: "Server | MaterializeDouble", **given: Any) -> Materialize:
    """A source that reads from a server."""
    server = DoubleServer(of) if isinstance(of, MaterializeDouble) else of
    return Materialize("mz", server.config(**given))


class DoubleServer:
    """The double as one of the two servers. `dsn` reaches it, without a password."""

    def __init__(self, double: MaterializeDouble) -> None:
        self.double = double
        self.dsn = double.dsn

    def config(self, **given: Any) -> MaterializeConfig:
        """Settings that reach it, with short timeouts."""
        return settings(self.dsn, **given)

    async def view(
        self, name: str, columns: ColumnSpec, *rows: TextRow, retain: bool | int = True, constant: bool = False
    ) -> "DoubleView":
        """Create a view. `name`: one identifier as in SQL; `retain`: keep its history, a number for so many seconds;
        `constant`: it can never change."""
        kept = None if retain is True else retain * 1000 or DEFAULT_RETENTION
        relation = self.double.create(f"public.{name}", columns, retain=kept, rows=rows)
        if constant:
            relation.freeze()
        return DoubleView(self.double, relation, f"public.{name}", columns)

    async def role(self) -> str:
        """A role without privileges."""
        return "reader"


class DoubleView:
    """A view that a test changes. `name` is its name in the configuration."""

    def __init__(self, double: MaterializeDouble, relation: Relation, name: str, columns: ColumnSpec) -> None:
        self.name = name
        self._columns = columns
        self._double = double
        self._relation = relation

    async def insert(self, *rows: TextRow) -> None:
        """Add one copy of each row, all at one timestamp."""
        self._relation.insert(*rows)

    async def delete(self, *rows: TextRow) -> None:
        """Remove every copy of these rows, all at one timestamp."""
        held = self._relation.rows()
        self._relation.change([(-held.count(row), row) for row in rows])

    async def update(self, old: TextRow, new: TextRow) -> None:
        """Replace every copy of a row at one timestamp."""
        count = self._relation.rows().count(old)
        self._relation.change([(-count, old), (count, new)])

    async def poison(self) -> None:
        """Put a row error into the view."""
        self._relation.fail("division by zero")

    async def heal(self) -> None:
        """Remove the row error."""
        self._relation.heal()

    async def drop(self) -> None:
        self._double.drop(self._relation)

    async def swap(self, *rows: TextRow) -> None:
        """Rename the view away and another one, with these rows and the same columns, into its place."""
        old = self._relation
        self._double.rename(old, "public.renamed_away")
        self._relation = self._double.create(self.name, self._columns, retain=old.retain, rows=rows)

    async def forget(self, time: int) -> None:
        """Wait until the server no longer has the history up to a time, that one included."""
        kept = 0 if self._relation.retain in {None, DEFAULT_RETENTION} else self._relation.retain or 0
        while self._relation.compact(self._relation.upper - 1 - kept) <= time:
            await asyncio.sleep(0.1)
            self._double.tick()

    async def deny(self, role: str) -> None:
        """Deny a role to read the view."""
        self._relation.denied.add(role)

    async def permit(self, role: str) -> None:
        """Permit a role to read the view."""
        self._relation.denied.discard(role)


class LiveServer:
    """A real server; see `DoubleServer` for the methods. `schema` has all objects of the test."""

    def __init__(self, dsn: str, connection: psycopg.AsyncConnection[Any], schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self.roles: list[str] = []
        self._connection = connection

    def config(self, **given: Any) -> MaterializeConfig:
        return settings(self.dsn, **given)

    async def view(
        self, name: str, columns: ColumnSpec, *rows: TextRow, retain: bool | int = True, constant: bool = False
    ) -> "LiveView":
        kept = "1 hour" if retain is True else f"{retain:d} seconds" if retain else ""
        view = LiveView(self, f"{self.schema}.{name}", columns, kept)
        await (view.create_constant(rows) if constant else view.create(rows))
        return view

    async def role(self) -> str:
        role = f"{self.schema}_role{len(self.roles)}"
        await self.run(f"CREATE ROLE {role}")
        self.roles.append(role)
        return role

    async def run(self, statement: str) -> list[Any]:
        cursor = await self._connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []

    def identifier(self, name: str) -> str:
        return sql.Identifier(self.schema, name).as_string()


class LiveView:
    """A materialized view over a table, with a second table that can poison it; see `DoubleView` for the methods."""

    def __init__(self, server: LiveServer, name: str, columns: ColumnSpec, retain: str) -> None:
        self.name = name
        self._server = server
        self._view = server.identifier(relation_name(name)[1])
        self._columns = [(sql.Identifier(column).as_string(), type_) for column, type_ in columns]
        self._retain = f"WITH (RETAIN HISTORY FOR '{retain}')" if retain else ""
        self._table = self._poison = ""

    async def create(self, rows: Sequence[TextRow]) -> None:
        name = f"t{secrets.token_hex(4)}"
        self._table, self._poison = self._server.identifier(name), self._server.identifier(f"{name}_poison")
        spec = ", ".join(f"{column} {type_}" for column, type_ in self._columns)
        await self._server.run(f"CREATE TABLE {self._table} ({spec})")
        await self._server.run(f"CREATE TABLE {self._poison} (n int)")
        await self.insert(*rows)
        await self._server.run(
            f"CREATE MATERIALIZED VIEW {self._view} {self._retain} AS SELECT * FROM {self._table} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {self._poison} WHERE 1 / n > 1)"
        )

    async def create_constant(self, rows: Sequence[TextRow]) -> None:
        names = ", ".join(column for column, _ in self._columns)
        # A constant materialized view has a time of its own since v26.39.
        await self._server.run(
            f"CREATE VIEW {self._view} AS SELECT * FROM (VALUES {self._values(rows)}) AS v ({names})"
        )

    async def insert(self, *rows: TextRow) -> None:
        if rows:
            await self._server.run(f"INSERT INTO {self._table} VALUES {self._values(rows)}")

    async def delete(self, *rows: TextRow) -> None:
        await self._server.run(f"DELETE FROM {self._table} WHERE {' OR '.join(map(self._is, rows))}")

    async def update(self, old: TextRow, new: TextRow) -> None:
        changed = ", ".join(
            f"{column} = {value}" for (column, _), value in zip(self._columns, self._cast(new), strict=True)
        )
        await self._server.run(f"UPDATE {self._table} SET {changed} WHERE {self._is(old)}")

    async def poison(self) -> None:
        await self._server.run(f"INSERT INTO {self._poison} VALUES (0)")

    async def heal(self) -> None:
        await self._server.run(f"DELETE FROM {self._poison}")

    async def drop(self) -> None:
        await self._server.run(f"DROP MATERIALIZED VIEW {self._view}")

    async def swap(self, *rows: TextRow) -> None:
        await self._server.run(f"ALTER MATERIALIZED VIEW {self._view} RENAME TO renamed_away")
        await self.create(rows)

    async def forget(self, time: int) -> None:
        # Answered from memory; a lookup in the catalog may take a minute.
        query = f"EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM {self._view}"

        async def forgotten() -> bool:
            plan = json.loads((await self._server.run(query))[0][0])
            return bool(plan["determination"]["since"]["elements"][0] > time)

        await until_some(forgotten, "the history is gone", within=30)

    async def deny(self, role: str) -> None:
        await self._server.run(f"REVOKE SELECT ON {self._view} FROM {role}")

    async def permit(self, role: str) -> None:
        await self._server.run(f"GRANT USAGE ON SCHEMA {self._server.schema} TO {role}")
        await self._server.run(f"GRANT SELECT ON {self._view} TO {role}")

    def _cast(self, row: TextRow) -> list[str]:
        return [f"CAST({_literal(text)} AS {type_})" for (_, type_), text in zip(self._columns, row, strict=True)]

    def _values(self, rows: Sequence[TextRow]) -> str:
        return ", ".join(f"({', '.join(self._cast(row))})" for row in rows)

    def _is(self, row: TextRow) -> str:
        tests = (
            f"{column} IS NULL" if text is None else f"{column}::text = {_literal(text)}"
            for (column, _), text in zip(self._columns, row, strict=True)
        )
        return f"({' AND '.join(tests)})"


def _literal(text: str | None) -> str:
    return sql.Literal(text).as_string()


Server = DoubleServer | LiveServer
View = DoubleView | LiveView
