"""Several workers share an events table, keep the order of keys, and continue for dead workers."""

import asyncio
import re

import pytest

from support.events_table import INSERT, made, settings, source, taking, value
from support.postgres import Database, on_both_versions
from support.waiting import until
from tocsin.errors import SourceError, SourceReason
from tocsin.postgres import connected
from tocsin.sources.postgres_events.statements import Statements


@on_both_versions
async def test_fast_workers_share_events_in_key_order(database: Database) -> None:
    await made(database, key="key")
    await database.run(
        "INSERT INTO events (name, key) SELECT 'n', CASE WHEN i % 5 > 0 THEN (i % 7)::text END"
        " FROM generate_series(1, 2000) AS i"
    )
    seen: list[tuple[int, str | None]] = []
    holding: set[str | None] = set()
    shares = {11: 0, 13: 0, 17: 0}

    async def work(size: int) -> None:
        async with taking(source(database, batch=size, key="key")) as worker:
            while True:
                batch = await worker.next()
                keys = {value(event, "key") for event in batch.events} - {None}
                assert not keys & holding, "two workers hold events of one key"
                holding.update(keys)
                seen.extend((int(event.id.rpartition("/")[2]), value(event, "key")) for event in batch.events)
                shares[size] += len(batch.events)
                await asyncio.sleep(0)
                holding.difference_update(keys)
                await worker.acknowledge(batch)

    workers = [asyncio.create_task(work(size)) for size in shares]
    await until(lambda: len(seen) >= 2000 or any(worker.done() for worker in workers), "all are read")
    for worker in workers:
        worker.cancel()
    ended = await asyncio.gather(*workers, return_exceptions=True)
    assert {type(one) for one in ended} == {asyncio.CancelledError}, ended
    assert sorted(number for number, _ in seen) == list(range(1, 2001))
    assert all(shares.values()), shares
    for key in {key for _, key in seen} - {None}:
        numbers = [number for number, of in seen if of == key]
        assert numbers == sorted(numbers)


async def test_event_waits_for_earlier_one_of_its_key(database: Database) -> None:
    await made(database, key="key")
    await database.run(
        "INSERT INTO events (name, key) VALUES ('1', 'a'), ('2', 'a'), ('3', 'b'), ('4', 'a'), ('5', NULL)"
    )
    ordered = source(database, key="key", batch=1)
    async with taking(ordered) as first, taking(source(database, key="key")) as second:
        batch = await first.next()
        assert [event.name for event in batch.events] == ["1"]
        assert [event.name for event in (await second.take()).events] == ["3", "5"]
        waiting = asyncio.create_task(second.take())
        await first.acknowledge(batch)
        assert [event.name for event in (await waiting).events] == ["2", "4"]


@on_both_versions
async def test_events_of_a_dead_worker_go_to_another(database: Database) -> None:
    await made(database)
    await database.run(INSERT, 5)
    async with taking(source(database)) as survivor, taking(source(database, batch=2)) as dead:
        held = await dead.next()
        await survivor.take()
        assert survivor.ids == [3, 4, 5], "rows that another worker holds are skipped"
        [[pid]] = await database.run("SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'")
        waiting = asyncio.create_task(survivor.take())
        await database.run("SELECT pg_terminate_backend(%s)", pid)
        assert [event.id for event in (await waiting).events] == [event.id for event in held.events]
        with pytest.raises(SourceError):
            await dead.acknowledge(held)


@on_both_versions
async def test_silent_worker_loses_events_after_the_lease(database: Database) -> None:
    await made(database)
    await database.run(INSERT, 5)
    async with taking(source(database, lease="300ms")) as silent, taking(source(database)) as other:
        held = await silent.next()
        assert len((await other.take()).events) == 5
        with pytest.raises(SourceError) as raised:
            await silent.acknowledge(held)
        assert raised.value.reason in (SourceReason.DISCONNECTED, SourceReason.OTHER)


async def test_unacknowledged_events_are_released(
    database: Database,
) -> None:
    """A dry run reads everything once and marks nothing."""
    await made(database, key="key")
    await database.run("INSERT INTO events (name, key) VALUES ('1', 'a'), ('2', 'a')")
    async with taking(source(database, batch=1, key="key")) as looking:
        first, second = await looking.next(), await looking.next()
        assert [event.name for batch in (first, second) for event in batch.events] == ["1", "2"]
        third = asyncio.create_task(looking.next())
        async with taking(source(database)) as worker:
            await worker.take()
            assert worker.names == ["1", "2"]
            await database.run("INSERT INTO events (name) VALUES ('3')")
            assert [event.name for event in (await third).events] == ["3"]
        with pytest.raises(RuntimeError, match="before the next one"):
            await looking.acknowledge(first)


@on_both_versions
@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("known", [False, True])
async def test_batch_cost_is_independent_of_the_backlog(database: Database, key: str | None, known: bool) -> None:
    """The query uses the index of pending rows, with and without statistics (`known`)."""
    given = {"key": key}
    await made(database, **given)
    await database.run(INSERT, 20_000)
    if known:
        await database.run("ANALYZE")
    take = Statements(settings(database, **given), "bigint").take([]).as_string(None)
    async with await connected(settings(database, **given)) as connection:
        plan = [row[0] async for row in await connection.execute(f"EXPLAIN ANALYZE {take}")]
    read = [float(found) for line in plan for found in re.findall(r"actual time=\S+ rows=(\S+)", line)]
    assert max(read) <= 1_000, "\n".join(plan)
    assert any("Index Scan using events_pending" in line for line in plan)
