"""Tocsin's assumptions about names in Materialize, checked on a running one (TOCSIN_TEST_MATERIALIZE_DSN). The tests of
the source in tests/integration run on it with the same variable."""

import json
import os
from collections.abc import AsyncIterator

import psycopg
import pytest

from support.live import LiveServer, serving
from support.live_server import VARIABLE
from support.reading import Reading, check, error_of, reading
from tocsin.errors import SourceReason
from tocsin.sources.base import Subject
from tocsin.sources.identity import object_ids
from tocsin.sources.materialize import Materialize

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no server"),
]

KINDS = pytest.mark.parametrize("kind", ["relation", "query"])


class Names:
    """Two schemas with a view `v` each, over one table: rows above 0 in blue, rows above 10 in green."""

    def __init__(self, server: LiveServer) -> None:
        self.server, self.run = server, server.run
        self.blue, self.green = f"{server.schema}_blue", f"{server.schema}_green"

    async def build(self) -> None:
        for schema in (self.blue, self.green):
            await self.run(f"CREATE SCHEMA {schema}")
        await self.run(f"CREATE TABLE {self.blue}.t (id int)")
        await self.run(f"INSERT INTO {self.blue}.t VALUES (1), (5), (11)")
        await self.run(f"CREATE MATERIALIZED VIEW {self.blue}.v AS SELECT id FROM {self.blue}.t WHERE id > 0")
        await self.run(f"CREATE MATERIALIZED VIEW {self.green}.v AS SELECT id FROM {self.blue}.t WHERE id > 10")

    def subject(self, kind: str) -> Subject:
        return (
            Subject(relation=f"{self.blue}.v") if kind == "relation" else Subject(query=f"SELECT id FROM {self.blue}.v")
        )

    def source(self, **given: str) -> Materialize:
        return Materialize("mz", self.server.config(**given))

    async def planned(self, target: str) -> list[str]:
        """The ids of the objects that a name refers to now."""
        [(plan,)] = await self.run(f"EXPLAIN RAW PLAN AS JSON FOR SELECT * FROM {target}")
        return list(object_ids(json.loads(plan)))

    async def swap(self) -> None:
        await self.run(f"ALTER SCHEMA {self.blue} SWAP WITH {self.green}")


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    async with serving("live") as server:
        assert isinstance(server, LiveServer)
        made = Names(server)
        try:
            await made.build()
            yield made
        finally:
            for schema in (made.blue, made.green):
                await made.run(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


async def all_rows(stream: Reading) -> None:
    await stream.until_state(("1",), ("5",), ("11",))


async def later(stream: Reading, milliseconds: int) -> None:
    """Read on for a time of the source, so that names are checked meanwhile."""
    end = stream.frontier + milliseconds
    await stream.until(lambda: stream.frontier >= end)


async def replaced(stream: Reading) -> None:
    check(await stream.error(), SourceReason.REPLACED)


async def test_unknown_cluster_fails_the_statement(names: Names) -> None:
    error = await error_of(names.source(cluster="nonesuch"), f"{names.blue}.v")
    check(error, SourceReason.MISSING, "nonesuch")


@KINDS
async def test_schema_swap_ends_stream_on_old_view(names: Names, kind: str) -> None:
    source, subject = names.source(), names.subject(kind)
    async with reading(source, subject) as stream:
        await all_rows(stream)
        await names.swap()
        await replaced(stream)
    async with reading(source, subject) as stream:
        await stream.until_state(("11",))


@KINDS
async def test_applied_replacement_ends_no_stream(names: Names, kind: str) -> None:
    """The id changes and the old one is gone; a later swap is detected."""
    view = f"{names.blue}.v"
    [before] = await names.planned(view)
    async with reading(names.source(), names.subject(kind)) as stream:
        await all_rows(stream)
        await later(stream, 2_000)
        replacement = f"{names.blue}.r FOR {view} AS SELECT id FROM {names.blue}.t WHERE id > 4"
        await names.run(f"CREATE REPLACEMENT MATERIALIZED VIEW {replacement}")
        await names.run(f"ALTER MATERIALIZED VIEW {view} APPLY REPLACEMENT {names.blue}.r")
        assert await names.planned(view) != [before]
        with pytest.raises(psycopg.Error, match=f"invalid id {before}"):
            await names.planned(f"[{before} AS any.name]")
        await stream.until_state(("5",), ("11",))
        await later(stream, 5_000)
        await names.swap()
        await replaced(stream)


async def test_old_object_exists_after_rename(names: Names) -> None:
    [before] = await names.planned(f"{names.blue}.v")
    await names.run(f"ALTER MATERIALIZED VIEW {names.blue}.v RENAME TO old")
    assert await names.planned(f"[{before} AS any.name]") == [before]
    with pytest.raises(psycopg.Error, match="unknown catalog item"):
        await names.planned(f"{names.blue}.v")


async def test_cluster_swap_ends_stream_in_old_cluster(names: Names) -> None:
    [(size,)] = await names.run("SELECT size FROM mz_catalog.mz_clusters WHERE name = 'quickstart'")
    one, other = f"{names.blue}_one", f"{names.blue}_other"
    try:
        for cluster in (one, other):
            await names.run(f"CREATE CLUSTER {cluster} (SIZE = '{size}')")
        async with reading(names.source(cluster=one, snapshot_timeout="60s"), names.subject("relation")) as stream:
            await all_rows(stream)
            await names.run(f"ALTER CLUSTER {one} SWAP WITH {other}")
            await replaced(stream)
    finally:
        for cluster in (one, other):
            await names.run(f"DROP CLUSTER IF EXISTS {cluster} CASCADE")
