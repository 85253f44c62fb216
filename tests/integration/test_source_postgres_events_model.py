"""An events table against a model of it: publishers whose transactions end in any order, workers that read, acknowledge
and die at any moment."""

import asyncio
import random
from contextlib import AsyncExitStack

import psycopg
import pytest

from support.events_table import Taking, made, source, taking
from support.postgres import Database
from support.waiting import until_some
from tocsin.sources.base import EventBatch

BATCH = 4
STEPS = 120


class Worker:
    """A worker, and the events it holds."""

    def __init__(self, database: Database) -> None:
        self.holds: list[int] = []
        self._of = source(database, key="key", batch=BATCH)
        self._life = AsyncExitStack()
        self._taking: Taking | None = None
        self._batch: EventBatch | None = None

    async def take(self) -> list[int]:
        if self._taking is None:
            self._taking = await self._life.enter_async_context(taking(self._of))
        self._batch = await self._taking.next()
        self.holds = [int(event.id.rpartition("/")[2]) for event in self._batch.events]
        return self.holds

    async def acknowledge(self) -> None:
        assert self._taking is not None
        assert self._batch is not None
        await self._taking.acknowledge(self._batch)
        self.holds = []

    async def die(self) -> None:
        await self._life.aclose()
        self._taking, self.holds = None, []


class Publisher:
    """A publisher that inserts in transactions. `written`: id -> key of those not yet committed."""

    def __init__(self, connection: "psycopg.AsyncConnection[tuple[int]]") -> None:
        self.written: dict[int, str | None] = {}
        self._connection = connection

    async def insert(self, key: str | None) -> None:
        cursor = await self._connection.execute("INSERT INTO events (name, key) VALUES ('x', %s) RETURNING id", [key])
        row = await cursor.fetchone()
        assert row is not None
        self.written[row[0]] = key

    async def end(self, *, commit: bool) -> dict[int, str | None]:
        """What is in the table now."""
        await (self._connection.commit() if commit else self._connection.rollback())
        written, self.written = self.written, {}
        return written if commit else {}


class Model:
    """The pending events, and which of them each worker has locked."""

    def __init__(self) -> None:
        self.pending: dict[int, str | None] = {}
        self.locked: dict[Worker, list[int]] = {}

    def due(self) -> tuple[list[int], list[int]]:
        """What a worker without anything is to get now; and what it locks for that: also what has to wait for an
        earlier event of its key."""
        taken = {number for locked in self.locked.values() for number in locked}
        locks = [number for number in sorted(self.pending) if number not in taken][:BATCH]
        return [number for number in locks if not self._waits(number, locks)], locks

    def _waits(self, number: int, locks: list[int]) -> bool:
        key = self.pending[number]
        return key is not None and any(
            earlier < number and earlier not in locks and other == key for earlier, other in self.pending.items()
        )


async def one_step(model: Model, worker: Worker, publisher: Publisher, chance: random.Random) -> None:
    match chance.choice(("insert", "insert", "insert", "end", "take", "take", "acknowledge", "die")):
        case "insert":
            await publisher.insert(chance.choice((None, "a", "b")))
        case "end":
            model.pending |= await publisher.end(commit=chance.random() < 0.8)
        case "take" if not worker.holds and model.due()[0]:
            expected, model.locked[worker] = model.due()
            assert await worker.take() == expected
        case "acknowledge" if worker.holds:
            for number in worker.holds:
                del model.pending[number]
            await worker.acknowledge()
            del model.locked[worker]
        case "die" if chance.random() < 0.3:
            await worker.die()
            model.locked.pop(worker, None)


@pytest.mark.parametrize("seed", range(3))
async def test_workers_agree_with_the_model(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    await made(database, key="key")
    model = Model()
    workers = [Worker(database) for _ in range(3)]
    async with AsyncExitStack() as stack:
        publishers = [
            Publisher(await stack.enter_async_context(await psycopg.AsyncConnection.connect(database.dsn)))
            for _ in range(3)
        ]
        for worker in workers:
            stack.push_async_callback(worker.die)
        for _ in range(STEPS):
            await one_step(model, chance.choice(workers), chance.choice(publishers), chance)
            await settled(database, model)
        for publisher in publishers:
            model.pending |= await publisher.end(commit=True)
        await asyncio.gather(*(worker.die() for worker in workers))
        model.locked.clear()
        while model.pending:
            await settled(database, model)
            assert await workers[0].take() == model.due()[0]
            for number in workers[0].holds:
                del model.pending[number]
            await workers[0].acknowledge()
    left = await database.run("SELECT id FROM events WHERE handled_as IS DISTINCT FROM 'taken'")
    assert left == [], "every event is acknowledged although workers died"


async def settled(database: Database, model: Model) -> None:
    """Wait until the server has noticed the dead connections."""
    holding = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND application_name = 'tocsin'"
    )

    async def noticed() -> bool:
        return await database.run(holding) == [(len(model.locked),)]

    await until_some(noticed, "locks of the dead are released")
