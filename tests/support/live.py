"""One set of source tests, two servers: the double, and a real Materialize where one is given.

The real one is named by TOCSIN_TEST_MATERIALIZE_DSN, asks for no password, and lets mz_system in on the port two above
(6877 beside 6875). All that is made there lives in a schema with a random name that goes with the test.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.materialize import MaterializeDouble, Relation
from support.materialize.relation import DEFAULT_RETENTION
from support.materialize.session import relation_name
from tocsin.sources.materialize import Materialize
from tocsin.sources.settings import MaterializeConfig

VARIABLE = "TOCSIN_TEST_MATERIALIZE_DSN"
SERVERS = ("double", *([pytest.param("live", marks=pytest.mark.live)] if os.environ.get(VARIABLE) else []))
"""For `pytest.fixture(params=...)`: the live one takes part only where there is one."""

TextRow = tuple[str | None, ...]
ColumnSpec = Sequence[tuple[str, str]]
COLUMNS: ColumnSpec = (("id", "int4"), ("name", "text"))
ANN: TextRow = ("1", "Ann")
BOB: TextRow = ("2", "Bob")
CYD: TextRow = ("3", "Cyd")
_SOON = 30.0


class View(Protocol):
    """A view that a test changes. `name` is its name as the configuration has it."""

    name: str

    async def insert(self, *rows: TextRow) -> None:
        """Add one copy of each row, all at one timestamp."""

    async def delete(self, *rows: TextRow) -> None:
        """Remove every copy of these rows, all at one timestamp."""

    async def update(self, old: TextRow, new: TextRow) -> None:
        """Replace every copy of a row at one timestamp."""

    async def poison(self) -> None:
        """Put a row error into the view."""

    async def heal(self) -> None:
        """Remove the row error."""

    async def drop(self) -> None:
        """Drop the view."""

    async def replace(self, columns: ColumnSpec, *rows: TextRow) -> None:
        """`CREATE OR REPLACE`: another object, of other columns, under the same name."""

    async def swap(self, *rows: TextRow) -> None:
        """Rename the view away and another one, with these rows and the same columns, into its place."""

    async def forget(self, time: int) -> None:
        """Let the server forget its history up to a time, that one included."""

    async def deny(self, role: str) -> None:
        """Deny the role to read the view."""


class Server(Protocol):
    """A server of either kind. `dsn` reaches it, without a password."""

    dsn: str

    def config(self, **settings: Any) -> MaterializeConfig:
        """Settings that reach it, with short waits."""
        ...

    async def view(
        self, name: str, columns: ColumnSpec, *rows: TextRow, retain: bool | int = True, constant: bool = False
    ) -> View:
        """Make a view. `name` is one identifier as SQL writes it; `retain` keeps its history, a number for so many
        seconds; `constant`: it can never change."""
        ...

    async def role(self) -> str:
        """A role without privileges."""
        ...


@asynccontextmanager
async def serving(kind: str) -> AsyncIterator[Server]:
    """A server for the length of a test: `double` or `live`."""
    if kind == "double":
        async with MaterializeDouble(progress_interval=0.1) as double:
            yield DoubleServer(double)
        return
    async with _live(os.environ[VARIABLE]) as server:
        yield server


def settings(dsn: str, **given: Any) -> MaterializeConfig:
    """Settings with timeouts short enough for tests and long enough for a busy machine."""
    defaults = {"dsn": dsn, "connect_timeout": "5s", "snapshot_timeout": "20s", "progress_timeout": "10s"}
    return MaterializeConfig.model_validate({**defaults, **given})


def source(of: "Server | MaterializeDouble", **given: Any) -> Materialize:
    """A source that reads from a server."""
    server = DoubleServer(of) if isinstance(of, MaterializeDouble) else of
    return Materialize("mz", server.config(**given))


def _as_user(dsn: str, given: dict[str, Any]) -> str:
    """The DSN for the `user` of some settings, which is taken out of them."""
    return make_conninfo(dsn, user=given.pop("user")) if "user" in given else dsn


class DoubleServer:
    """The double as one of the two servers."""

    def __init__(self, double: MaterializeDouble) -> None:
        self.double = double
        self.dsn = double.dsn

    def config(self, **given: Any) -> MaterializeConfig:
        return settings(_as_user(self.dsn, given), **given)

    async def view(
        self, name: str, columns: ColumnSpec, *rows: TextRow, retain: bool | int = True, constant: bool = False
    ) -> View:
        kept = None if retain is True else retain * 1000 or 1000
        relation = self.double.create(f"public.{name}", columns, retain=kept, rows=rows)
        if constant:
            relation.freeze()
        return _DoubleView(self.double, relation, f"public.{name}", columns)

    async def role(self) -> str:
        return "reader"


class _DoubleView:
    def __init__(self, double: MaterializeDouble, relation: Relation, name: str, columns: ColumnSpec) -> None:
        self.name = name
        self._columns = columns
        self._double = double
        self._relation = relation

    async def insert(self, *rows: TextRow) -> None:
        self._relation.insert(*rows)

    async def delete(self, *rows: TextRow) -> None:
        held = self._relation.rows()
        self._relation.change([(-held.count(row), row) for row in rows])

    async def update(self, old: TextRow, new: TextRow) -> None:
        count = self._relation.rows().count(old)
        self._relation.change([(-count, old), (count, new)])

    async def poison(self) -> None:
        self._relation.fail("division by zero")

    async def heal(self) -> None:
        self._relation.heal()

    async def drop(self) -> None:
        self._double.drop(self._relation)

    async def replace(self, columns: ColumnSpec, *rows: TextRow) -> None:
        self._relation = self._double.replace(self._relation, columns)
        self._relation.insert(*rows)

    async def swap(self, *rows: TextRow) -> None:
        old = self._relation
        self._double.rename(old, "public.renamed_away")
        self._relation = self._double.create(self.name, self._columns, retain=old.retain, rows=rows)

    async def forget(self, time: int) -> None:
        kept = 0 if self._relation.retain in {None, DEFAULT_RETENTION} else self._relation.retain or 0
        while self._relation.compact(self._relation.upper - 1 - kept) <= time:
            await asyncio.sleep(0.01)
            self._double.tick()

    async def deny(self, role: str) -> None:
        self._relation.denied.add(role)


class _LiveServer:
    def __init__(self, dsn: str, connection: psycopg.AsyncConnection[Any], schema: str) -> None:
        self.dsn = dsn
        self._connection = connection
        self._schema = schema
        self._roles: list[str] = []

    def config(self, **given: Any) -> MaterializeConfig:
        return settings(_as_user(self.dsn, given), **given)

    async def run(self, statement: str, **parts: sql.Composable) -> list[Any]:
        cursor = await self._connection.execute(sql.SQL(statement).format(**parts))
        return await cursor.fetchall() if cursor.description else []

    def identifier(self, name: str) -> sql.Identifier:
        return sql.Identifier(self._schema, name)

    async def view(
        self, name: str, columns: ColumnSpec, *rows: TextRow, retain: bool | int = True, constant: bool = False
    ) -> View:
        kept = "1 hour" if retain is True else f"{retain:d} seconds" if retain else ""
        view = _LiveView(self, f"{self._schema}.{name}", relation_name(name)[0], kept)
        await (view.create_constant(columns, rows) if constant else view.create(columns, rows))
        return view

    async def role(self) -> str:
        role = f"{self._schema}_role{len(self._roles)}"
        await self.run("CREATE ROLE {role}", role=sql.Identifier(role))
        self._roles.append(role)
        return role

    async def clean(self) -> None:
        await self.run("DROP SCHEMA {schema} CASCADE", schema=sql.Identifier(self._schema))
        for role in self._roles:
            await self.run("DROP ROLE {role}", role=sql.Identifier(role))


class _LiveView:
    """A materialized view over a table, with a second table that can poison it."""

    def __init__(self, server: _LiveServer, name: str, bare: str, retain: str) -> None:
        self.name = name
        self._server = server
        self._bare = bare
        self._retain = retain
        self._table = ""
        self._columns: ColumnSpec = ()

    async def create(self, columns: ColumnSpec, rows: Iterable[TextRow], *, replace: bool = False) -> None:
        self._columns = columns
        self._table = f"t{secrets.token_hex(4)}"
        spec = sql.SQL(", ").join(sql.SQL("{} " + type_).format(sql.Identifier(name)) for name, type_ in columns)
        await self._run("CREATE TABLE {table} ({spec})", spec=spec)
        await self._run("CREATE TABLE {poison} (n int)")
        await self.insert(*rows)
        retained = f"WITH (RETAIN HISTORY FOR '{self._retain}')" if self._retain else ""
        await self._run(
            f"CREATE {'OR REPLACE ' if replace else ''}MATERIALIZED VIEW {{view}} {retained} AS "
            "SELECT * FROM {table} WHERE NOT EXISTS (SELECT 1 FROM {poison} WHERE 1 / n > 1)",
        )

    async def create_constant(self, columns: ColumnSpec, rows: Iterable[TextRow]) -> None:
        values = sql.SQL(", ").join(
            sql.SQL("({})").format(
                sql.SQL(", ").join(
                    sql.SQL("CAST({} AS " + type_ + ")").format(sql.Literal(text))
                    for (_, type_), text in zip(columns, row, strict=True)
                )
            )
            for row in rows
        )
        names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns)
        # A constant materialized view has a time of its own since v26.39.
        statement = "CREATE VIEW {view} AS SELECT * FROM (VALUES {values}) AS v ({names})"
        await self._run(statement, values=values, names=names)

    async def insert(self, *rows: TextRow) -> None:
        if rows:
            values = sql.SQL(", ").join(
                sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(text) for text in row)) for row in rows
            )
            await self._run("INSERT INTO {table} VALUES {values}", values=values)

    async def delete(self, *rows: TextRow) -> None:
        condition = sql.SQL(" OR ").join(self._is(row) for row in rows)
        await self._run("DELETE FROM {table} WHERE {condition}", condition=condition)

    async def update(self, old: TextRow, new: TextRow) -> None:
        settings_ = sql.SQL(", ").join(
            sql.SQL("{} = CAST({} AS " + type_ + ")").format(sql.Identifier(name), sql.Literal(text))
            for (name, type_), text in zip(self._columns, new, strict=True)
        )
        statement = "UPDATE {table} SET {settings} WHERE {condition}"
        await self._run(statement, settings=settings_, condition=self._is(old))

    async def poison(self) -> None:
        await self._run("INSERT INTO {poison} VALUES (0)")

    async def heal(self) -> None:
        await self._run("DELETE FROM {poison}")

    async def drop(self) -> None:
        await self._run("DROP MATERIALIZED VIEW {view}")

    async def replace(self, columns: ColumnSpec, *rows: TextRow) -> None:
        await self.create(columns, rows, replace=True)

    async def swap(self, *rows: TextRow) -> None:
        await self._run("ALTER MATERIALIZED VIEW {view} RENAME TO renamed_away")
        await self.create(self._columns, rows)

    async def forget(self, time: int) -> None:
        async with asyncio.timeout(_SOON):
            while True:
                [(since,)] = await self._run(
                    "SELECT f.read_frontier::text FROM mz_internal.mz_frontiers f JOIN mz_catalog.mz_objects o "
                    "ON o.id = f.object_id WHERE o.oid = {name}::regclass::oid",
                    name=sql.Literal(self._server.identifier(self._bare).as_string(None)),
                )
                if int(since) > time:
                    return
                await asyncio.sleep(0.2)

    async def deny(self, role: str) -> None:
        """A new role may read nothing."""

    def _is(self, row: TextRow) -> sql.Composable:
        tests = [
            sql.SQL("{} IS NULL").format(sql.Identifier(name))
            if text is None
            else sql.SQL("{}::text = {}").format(sql.Identifier(name), sql.Literal(text))
            for (name, _), text in zip(self._columns, row, strict=True)
        ]
        return sql.SQL("({})").format(sql.SQL(" AND ").join(tests))

    async def _run(self, statement: str, **parts: sql.Composable) -> list[Any]:
        own = {
            "view": self._server.identifier(self._bare),
            "table": self._server.identifier(self._table),
            "poison": self._server.identifier(f"{self._table}_poison"),
        }
        return await self._server.run(statement, **own, **parts)


@asynccontextmanager
async def _live(dsn: str) -> AsyncIterator[_LiveServer]:
    port = int(conninfo_to_dict(dsn).get("port") or 6875) + 2
    system = make_conninfo(dsn, user="mz_system", port=port)
    # Only that role may switch it on, and where it may not, the tests that need history say so themselves.
    with contextlib.suppress(psycopg.OperationalError):
        async with await psycopg.AsyncConnection.connect(system, autocommit=True) as connection:
            await connection.execute("ALTER SYSTEM SET enable_logical_compaction_window = true")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        server = _LiveServer(dsn, connection, f"tocsin_test_{secrets.token_hex(4)}")
        await server.run("CREATE SCHEMA {schema}", schema=sql.Identifier(server._schema))
        try:
            yield server
        finally:
            await server.clean()
