"""What `tocsin init` asks a server. Each question has a limit of time, and reads only."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import cast

import psycopg
from psycopg import sql

from tocsin.errors import SourceError, SourceReason
from tocsin.init.facts import Facts, Inventory, Kind, Known, Relation, sql_name
from tocsin.model import Row
from tocsin.postgres import name_parts
from tocsin.postgres import relation as identifier
from tocsin.sources.base import Subject
from tocsin.sources.materialize import try_subscribe, with_known_types
from tocsin.sources.server_errors import statement_error, translated
from tocsin.sources.settings import PostgresConfig
from tocsin.sources.wire import Wire, connect

MOST_ROWS = 10_000
"""Rows that are read of a relation."""
_COUNTED = 100_000
"""Rows that are counted; a table that is estimated to have more is not."""
_SECONDS = 10.0
"""Seconds that a question may take where nothing else is said."""
_COUNT_SECONDS, _ALL_COUNTS_SECONDS, _READ_SECONDS, _LIST_SECONDS = 1.0, 6.0, 20.0, 60.0
_CATALOG = "name the view (--relation): the replica of mz_catalog_server is too slow to list all"
_GRACE = 2.0
"""Seconds that a server may take longer than its own limit. Materialize does not apply it to queries of the catalog."""
_PAUSE = 1.1
"""Seconds between two readings."""

_RELATIONS = sql.SQL("""
SELECT c.oid, n.nspname, c.relname, c.relkind, c.reltuples::bigint, pg_catalog.pg_table_is_visible(c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm', 'r', 'p', 'f') AND NOT c.relispartition AND n.nspname !~ '^(pg_|information_schema$)'
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
ORDER BY pg_catalog.strpos('vmrpf', c.relkind::text), 2, 3""")
_MZ_RELATIONS = sql.SQL("""
SELECT o.oid, s.name, o.name, o.type, NULL, s.name = 'public'
FROM mz_catalog.mz_objects o JOIN mz_catalog.mz_schemas s ON s.id = o.schema_id
WHERE o.id LIKE 'u%' AND o.type IN ('view', 'materialized-view', 'table', 'source')
  AND s.database_id = (SELECT id FROM mz_catalog.mz_databases WHERE name = current_database())
ORDER BY CASE o.type WHEN 'materialized-view' THEN 0 WHEN 'view' THEN 0 ELSE 1 END, 2, 3""")
_KINDS = {"v": "view", "m": "materialized view", "r": "table", "p": "partitioned table", "f": "foreign table"}
_KEYS = sql.SQL("""
SELECT i.indrelid = {oid}, c.relname, t.relname, i.indisprimary,
  (SELECT pg_catalog.json_agg(a.attname ORDER BY k.place) FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
   JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number WHERE k.place <= i.indnkeyatts)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND (i.indrelid = {oid}
  OR i.indisprimary AND i.indrelid IN (SELECT d.refobjid FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_depend d ON d.objid = r.oid AND d.refclassid = 'pg_catalog.pg_class'::regclass
    WHERE r.ev_class = {oid}))
ORDER BY i.indisprimary DESC, i.indnkeyatts, 2""")  # noqa: E501 - SQL
_MZ_KINDS = {"view": "VIEW", "materialized view": "MATERIALIZED VIEW", "table": "TABLE", "source": "SOURCE"}
_PLANNED = re.compile(r'keys: "([^"]*)"')


async def inventory(server: PostgresConfig, named: Sequence[str]) -> Inventory:
    """What the server is, and what the role may read there, with counts. `named`: the relations that are asked for
    already: Materialize may take long for a list of all. Raises SourceError."""
    async with _asking(server) as asking:
        cluster = ""
        if asking.kind == "materialize":
            cluster = str((await asking.rows(sql.SQL("SHOW cluster")))[0][0] or "")
        if asking.kind == "materialize" and named:
            relations = [await asking.named(name) for name in named]
        else:
            statement, fix = (_RELATIONS, "") if asking.kind == "postgres" else (_MZ_RELATIONS, _CATALOG)
            listed = await asking.rows(statement, _LIST_SECONDS, fix=fix)
            relations = [_relation(row) for row in listed]
        end = asyncio.get_running_loop().time() + _ALL_COUNTS_SECONDS
        counted = [replace(one, rows=await asking.count(one, end)) for one in relations]
        return Inventory(kind=asking.kind, version=asking.version, relations=tuple(counted), cluster=cluster)


async def facts(server: PostgresConfig, relation: Relation) -> Facts:
    """Read the first rows of a relation twice, and what the server knows of it. Raises SourceError."""
    async with _asking(server) as asking:
        target = identifier(relation.name)
        columns = await asking.wire.describe(sql.SQL("SELECT * FROM {}").format(target))
        select = sql.SQL("SELECT * FROM {} LIMIT {}").format(target, sql.Literal(MOST_ROWS))
        rows = await asking.rows(select, _READ_SECONDS)
        await asyncio.sleep(_PAUSE)
        later = await asking.rows(select, _READ_SECONDS)
        found = Facts(
            relation=relation,
            columns=with_known_types(columns) if asking.kind == "materialize" else columns,
            rows=tuple(rows),
            later=tuple(later),
            complete=len(rows) < MOST_ROWS,
        )
        return await (asking.of_materialize(found) if asking.kind == "materialize" else asking.of_postgres(found))


class _Asking:
    """A connection to a server of one kind."""

    def __init__(self, server: PostgresConfig, wire: Wire, version: str) -> None:
        self.wire = wire
        self.kind: Kind = "materialize" if "Materialize" in version else "postgres"
        found = re.search(
            r"(?:Materialize|PostgreSQL) v?([\w.-]+)", version.partition("(")[2 * (self.kind == "materialize")]
        )
        name = "Materialize" if self.kind == "materialize" else "PostgreSQL"
        self.version = f"{name} {found[1]}" if found else name
        self._server = server
        self._is_silent = False
        """Whether a statement was not answered in time, so that the connection cannot be used any more."""

    async def rows(self, statement: sql.Composable, seconds: float = _SECONDS, *, fix: str = "") -> list[Row]:
        """The rows of a statement. The server ends it after so many seconds: then SourceError, as for other errors.
        `fix`: what to do then."""
        async with self._within(seconds, fix):
            return await self._limited(statement, seconds)

    @asynccontextmanager
    async def _within(self, seconds: float, fix: str = "") -> AsyncIterator[None]:
        """What is asked in the block fails with SourceError alone, also if it is not answered in time."""
        late = SourceError(
            f"no answer within {seconds:g} s", SourceReason.STALLED, server=self._server.display, fix=fix
        )
        try:
            async with asyncio.timeout(seconds + _GRACE):
                yield
        except TimeoutError:
            self._is_silent = True
            raise late from None
        except psycopg.Error as error:
            if error.sqlstate is not None and self.kind == "postgres":
                await self.wire.query(sql.SQL("ROLLBACK"))
            if isinstance(error, psycopg.errors.QueryCanceled):
                raise late from error
            raise statement_error(error, self._server.display) from error

    async def _limited(self, statement: sql.Composable, seconds: float = _SECONDS) -> list[Row]:
        limit = sql.Literal(f"{round(seconds * 1000)}ms")
        if self.kind == "materialize":
            await self.wire.query(sql.SQL("SET statement_timeout = {}").format(limit))
            return await self.wire.query(statement)
        await self.wire.query(sql.SQL("BEGIN READ ONLY; SET LOCAL statement_timeout = {}").format(limit))
        found = await self.wire.query(statement)
        await self.wire.query(sql.SQL("COMMIT"))
        return found

    async def named(self, name: str) -> Relation:
        """A relation of Materialize, by name. Raises SourceError."""
        for kind, word in _MZ_KINDS.items():
            create = sql.SQL("SHOW CREATE " + word + " {}").format(identifier(name))
            with suppress(SourceError):
                await self.rows(create)
                return Relation(name=sql_name(*name_parts(name)), kind=kind, oid=0)
        raise SourceError(
            f"there is no {name} that this role may read", SourceReason.MISSING, server=self._server.display
        )

    async def count(self, relation: Relation, end: float) -> str:
        """How many rows it has, for people. `end`: when the counting of all relations has to be over."""
        estimate = relation.estimate or 0
        if estimate > _COUNTED:
            return f"about {estimate:,}"
        left = end - asyncio.get_running_loop().time()
        if self._is_silent or left < _COUNT_SECONDS / 10:
            return "not counted"
        some = sql.SQL("SELECT 1 FROM {} LIMIT {}").format(identifier(relation.name), sql.Literal(_COUNTED))
        try:
            counted = await self.rows(
                sql.SQL("SELECT count(*) FROM ({}) AS counted").format(some), min(left, _COUNT_SECONDS)
            )
        except SourceError as error:
            if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
                return f"about {estimate:,}" if estimate else f"not counted within {_COUNT_SECONDS:g} s"
            stalled = error.reason is SourceReason.STALLED
            return "not counted" if stalled else f"cannot be read: {error.message}"
        number = int(counted[0][0] or 0)
        return f"{number:,}" if number < _COUNTED else f"{number:,} or more"

    async def of_postgres(self, found: Facts) -> Facts:
        """Add declared keys, and the definition of a view."""
        oid = sql.Literal(found.relation.oid)
        keys: list[Known] = []
        base: dict[str, str] = {}
        for own, index, table, primary, names in await self.rows(_KEYS.format(oid=oid)):
            columns = tuple(json.loads(names or "[]"))
            if own == "t":
                keys.append(Known(columns=columns, why="primary key" if primary == "t" else f"unique index {index}"))
            else:
                base |= dict.fromkeys(columns, str(table))
        definition = ""
        if "view" in found.relation.kind:
            shown = await self.rows(sql.SQL("SELECT pg_catalog.pg_get_viewdef({}::oid, true)").format(oid))
            definition = shown[0][0] or ""
        return replace(found, keys=tuple(keys), base_keys=base, definition=definition)

    async def of_materialize(self, found: Facts) -> Facts:
        """Add the keys that the planner knows, the definition of a view, and whether SUBSCRIBE accepts it."""
        target = identifier(found.relation.name)
        plan: sql.Composable = sql.SQL("OPTIMIZED PLAN WITH (keys) AS VERBOSE TEXT FOR SELECT * FROM {}").format(target)
        if found.relation.kind == "view":  # an index would hide the keys
            plan = sql.SQL("LOCALLY OPTIMIZED PLAN WITH (keys) AS VERBOSE TEXT FOR VIEW {}").format(target)
        keys: list[Known] = []
        with suppress(SourceError):  # a version without this EXPLAIN
            match = _PLANNED.search(
                "\n".join(row[0] or "" for row in await self.rows(sql.SQL("EXPLAIN {}").format(plan)))
            )
            names = [column.name for column in found.columns]
            for group in re.findall(r"\[([^\]]*)\]", match[1] if match else ""):
                columns = tuple(names[int(place)] for place in group.split(",") if place.strip())
                keys.append(Known(columns=columns, why="unique, as the planner knows", nulls_equal=True))
        definition = ""
        if "view" in found.relation.kind:
            word = _MZ_KINDS[found.relation.kind]
            shown = await self.rows(sql.SQL("SHOW CREATE " + word + " {}").format(target))
            definition = (shown[0][1] or "") if shown else ""
        refused = ""
        try:
            async with self._within(_SECONDS):
                await try_subscribe(self._limited, Subject(relation=found.relation.name))
        except SourceError as error:
            refused = error.message
        return replace(found, keys=tuple(keys), definition=definition, refused=refused)


@asynccontextmanager
async def _asking(server: PostgresConfig) -> AsyncIterator[_Asking]:
    async with connect(server) as wire:
        with translated(server.display):
            version = await wire.query(sql.SQL("SELECT version()"))
            yield _Asking(server, wire, str(version[0][0]))


def _relation(row: Sequence[str | None]) -> Relation:
    oid, schema, name, kind, estimate, visible = row
    parts = (cast("str", name),) if visible == "t" else (cast("str", schema), cast("str", name))
    rows = int(estimate) if estimate is not None else -1
    return Relation(
        name=sql_name(*parts),
        kind=_KINDS.get(kind or "", (kind or "").replace("-", " ")),
        oid=int(oid or 0),
        estimate=rows if rows >= 0 else None,
    )
