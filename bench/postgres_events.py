"""Events from a PostgreSQL table into the ledger, next to the pattern that reads each event by itself: one SELECT by id
for every NOTIFY, with nothing kept."""

import asyncio
import time

import psycopg

from bench.harness import Figure, ingesting
from support.events_table import made, source, taking
from support.postgres import Database, postgres

EVENTS = 50_000
PEER = 5_000
ALONE = 200
_INSERT = """INSERT INTO events (name, key, data)
SELECT 'order', mod(n, 1000)::text, jsonb_build_object('order', n, 'customer', 'Ann', 'total', n * 1.5)
FROM generate_series(1, %s) AS n"""


async def measure() -> list[Figure]:
    with postgres() as server:
        async with server.database() as database:
            peer = await asyncio.to_thread(_peer, database.dsn)
        async with server.database() as database:
            await made(database, key="key")
            await database.run(_INSERT, EVENTS)
            read = await _read(database)
        async with server.database() as database:
            await made(database, key="key")
            await database.run(_INSERT, EVENTS)
            durable, alone = await _durable(database)
    return [
        Figure(f"peer: one SELECT for each of {PEER:,} NOTIFYs, nothing kept", f"{peer:,.0f} events/s"),
        Figure(f"{EVENTS:,} events of a table, locked, read and marked", f"{read:,.0f} events/s"),
        Figure(
            f"{EVENTS:,} events of a table, into ledger and outbox, and marked",
            f"{durable:,.0f} events/s ({durable / peer:.1f} x the peer)",
            ">= 5,000 events/s",
            durable >= 5_000,
        ),
        Figure(
            f"one event alone, commit in PostgreSQL -> commit in the ledger, p50 of {ALONE}", f"{alone * 1000:.1f} ms"
        ),
    ]


def _peer(dsn: str) -> float:
    """Events a second: one connection listens, another runs a SELECT for each id."""
    rows = psycopg.connect(dsn, autocommit=True, row_factory=psycopg.rows.dict_row)
    with rows, psycopg.connect(dsn, autocommit=True) as listener, psycopg.connect(dsn, autocommit=True) as publisher:
        rows.execute("CREATE TABLE events (id serial PRIMARY KEY, name text, key text, data jsonb)")
        listener.execute("LISTEN events")
        publisher.execute(
            f"WITH new AS ({_INSERT} RETURNING id) SELECT count(pg_notify('events', id::text)) FROM new", [PEER]
        )
        began = time.perf_counter()
        for notify in listener.notifies(stop_after=PEER):
            assert rows.execute("SELECT * FROM events WHERE id = %s", [notify.payload]).fetchone() is not None
        return PEER / (time.perf_counter() - began)


async def _read(database: Database) -> float:
    """Events a second through the source alone."""
    async with taking(source(database, key="key")) as worker:
        began = time.perf_counter()
        await worker.until(EVENTS)
        return EVENTS / (time.perf_counter() - began)


async def _durable(database: Database) -> tuple[float, float]:
    """Events a second into the ledger, and the seconds that one event alone takes there."""
    shop = {"type": "postgres_events", "dsn": database.dsn, "key": "key"}
    async with ingesting(shop, key=["key"], labels=["key"]) as offered:
        began = time.perf_counter()
        await offered.take(EVENTS)
        rate = EVENTS / (time.perf_counter() - began)
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            one = "INSERT INTO events (name) VALUES ('order')"
            return rate, await offered.alone(lambda _: connection.execute(one), ALONE)
