"""Tocsin's assumptions about names in Materialize, checked on a running one (TOCSIN_TEST_MATERIALIZE_DSN)."""

import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from support.live import VARIABLE, settings
from support.reading import Reading, check, reading
from tocsin.errors import SourceReason
from tocsin.sources.base import Subject
from tocsin.sources.identity import object_ids
from tocsin.sources.materialize import Materialize

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no server"),
]


class Names:
    """Two schemas with a view `v` each, over one table: rows above 0 in blue, rows above 10 in green."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], prefix: str) -> None:
        self._connection = connection
        self.prefix = prefix
        self.blue, self.green = f"{prefix}_blue", f"{prefix}_green"

    async def run(self, statement: str) -> list[Any]:
        cursor = await self._connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []

    async def build(self) -> None:
        for schema in (self.blue, self.green):
            await self.run(f"CREATE SCHEMA {schema}")
        await self.run(f"CREATE TABLE {self.blue}.t (id int)")
        await self.run(f"INSERT INTO {self.blue}.t VALUES (1), (5), (11)")
        await self.run(f"CREATE MATERIALIZED VIEW {self.blue}.v AS SELECT id FROM {self.blue}.t WHERE id > 0")
        await self.run(f"CREATE MATERIALIZED VIEW {self.green}.v AS SELECT id FROM {self.blue}.t WHERE id > 10")

    async def planned(self, target: str) -> list[str]:
        [(plan,)] = await self.run(f"EXPLAIN RAW PLAN AS JSON FOR SELECT * FROM {target}")
        return list(object_ids(json.loads(plan)))

    async def clean(self) -> None:
        for schema in (self.blue, self.green):
            await self.run(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    async with await psycopg.AsyncConnection.connect(os.environ[VARIABLE], autocommit=True) as connection:
        made = Names(connection, f"tocsin_names_{secrets.token_hex(4)}")
        try:
            await made.build()
            yield made
        finally:
            await made.clean()


def source(**given: Any) -> Materialize:
    return Materialize("mz", settings(os.environ[VARIABLE], **given))


def subjects(names: Names) -> list[Subject]:
    return [Subject(relation=f"{names.blue}.v"), Subject(query=f"SELECT id FROM {names.blue}.v")]


async def replaced(stream: Reading, began: float, what: str) -> None:
    check(await stream.error(), SourceReason.REPLACED)
    print(f"{what}: detected after {time.monotonic() - began:.2f} s")


@pytest.mark.parametrize("kind", [0, 1], ids=["relation", "query"])
async def test_schema_swap_ends_stream_on_old_view(names: Names, kind: int) -> None:
    subject = subjects(names)[kind]
    asked = source()
    async with reading(asked, subject) as stream:
        await stream.until_state(("1",), ("5",), ("11",))
        await names.run(f"ALTER SCHEMA {names.blue} SWAP WITH {names.green}")
        await replaced(stream, time.monotonic(), "schema swap")
    async with reading(asked, subject) as stream:
        await stream.until_state(("11",))


@pytest.mark.parametrize("kind", [0, 1], ids=["relation", "query"])
async def test_applied_replacement_ends_no_stream(names: Names, kind: int) -> None:
    """The id changes and the old one is gone; a later swap is detected."""
    [before] = await names.planned(f"{names.blue}.v")
    async with reading(source(), subjects(names)[kind]) as stream:
        await stream.until_state(("1",), ("5",), ("11",))
        began = time.monotonic()
        await stream.until(lambda: time.monotonic() - began > 2)
        await names.run(
            f"CREATE REPLACEMENT MATERIALIZED VIEW {names.blue}.r FOR {names.blue}.v AS "
            f"SELECT id FROM {names.blue}.t WHERE id > 4"
        )
        await names.run(f"ALTER MATERIALIZED VIEW {names.blue}.v APPLY REPLACEMENT {names.blue}.r")
        assert await names.planned(f"{names.blue}.v") != [before]
        with pytest.raises(psycopg.Error, match=f"invalid id {before}"):
            await names.planned(f"[{before} AS any.name]")
        await stream.until_state(("5",), ("11",))
        applied = time.monotonic()
        await stream.until(lambda: time.monotonic() - applied > 5)
        await names.run(f"ALTER SCHEMA {names.blue} SWAP WITH {names.green}")
        await replaced(stream, time.monotonic(), "swap after a replacement")


async def test_old_object_exists_after_rename(names: Names) -> None:
    [before] = await names.planned(f"{names.blue}.v")
    await names.run(f"ALTER MATERIALIZED VIEW {names.blue}.v RENAME TO old")
    assert await names.planned(f"[{before} AS any.name]") == [before]
    with pytest.raises(psycopg.Error, match="unknown catalog item"):
        await names.planned(f"{names.blue}.v")


async def test_cluster_swap_ends_stream_in_old_cluster(names: Names) -> None:
    [(size,)] = await names.run("SELECT size FROM mz_catalog.mz_clusters WHERE name = 'quickstart'")
    one, other = f"{names.prefix}_one", f"{names.prefix}_other"
    try:
        for cluster in (one, other):
            await names.run(f"CREATE CLUSTER {cluster} (SIZE = '{size}')")
        async with reading(source(cluster=one, snapshot_timeout="60s"), subjects(names)[0]) as stream:
            await stream.until_state(("1",), ("5",), ("11",))
            await names.run(f"ALTER CLUSTER {one} SWAP WITH {other}")
            await replaced(stream, time.monotonic(), "cluster swap")
    finally:
        for cluster in (one, other):
            await names.run(f"DROP CLUSTER IF EXISTS {cluster} CASCADE")
