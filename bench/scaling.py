"""Webhook deliveries a second by one and by two processes that share a ledger in PostgreSQL, each in a request of its
own, next to a real Alertmanager in the same run. All of them, the receiver and the database share the machine."""

import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from bench.double import double_process
from bench.harness import Figure, Machine, configuration, running, spread
from bench.receiving import receiver_process
from bench.webhook_rate import alertmanager_wave
from support.monitoring_programs import installed
from support.postgres import Database, shared_postgres
from support.waiting import until_equal

COUNT = 10_000
ROUNDS = 3
CONCURRENCY = 16


async def measure() -> list[Figure]:
    rates: dict[int, list[float]] = {1: [], 2: []}
    peer: list[float] = []
    machine = Machine()
    for _ in range(ROUNDS):
        for processes, found in rates.items():
            with machine.round() as directory:
                found.append(await _shared(directory, processes))
        if installed("alertmanager"):
            with machine.round() as directory:
                peer.append((await alertmanager_wave(directory, COUNT)).rate)
    return [*_figures(rates, peer), machine.figure()]


def _figures(rates: dict[int, list[float]], peer: Sequence[float]) -> list[Figure]:
    what = f"{COUNT:,} webhooks, durable in PostgreSQL, median of {ROUNDS} rounds"
    one, two = (statistics.median(found) for found in rates.values())
    alone = Figure(f"{what}, one process", f"{one:,.0f}/s ({spread(rates[1])})")
    shared = f"{two:,.0f}/s ({spread(rates[2])}), {two / one:.2f} x one process"
    if not peer:
        return [alone, Figure(f"{what}, two processes", shared)]
    theirs = statistics.median(peer)
    return [
        alone,
        Figure(f"Alertmanager: {COUNT:,} webhooks, nothing kept", f"{theirs:,.0f}/s ({spread(peer)})"),
        Figure(
            f"{what}, two processes",
            f"{shared}, {two / theirs:.2f} x Alertmanager",
            ">= Alertmanager",
            two >= theirs,
        ),
    ]


async def _shared(directory: Path, processes: int) -> float:
    """Deliveries a second, from the first request on until the last is settled."""
    async with (
        double_process(1, live=COUNT) as double,
        receiver_process() as receiver,
        shared_postgres().database() as database,
        AsyncExitStack() as stack,
    ):
        hook = {"url": f"{receiver.url}/hook", "concurrency": CONCURRENCY}
        config = configuration(directory, double.dsn, {"hook": hook}, {"load": ["hook"]})
        config["ledger"] = {"url": database.dsn}
        for _ in range(processes):
            await stack.enter_async_context(running(directory, config))
        await until_equal(lambda: _settled(database), COUNT + 1, "notifications that are settled")
        await receiver.take("/hook")
        await double.change("load", COUNT)
        await until_equal(lambda: _settled(database), 2 * COUNT + 1, "notifications that are settled")
        ended = time.time()
        arrivals = await receiver.take("/hook")
    assert len({body["id"] for _, body in arrivals.requests}) == len(arrivals.requests) == COUNT
    return COUNT / (ended - arrivals.first)


async def _settled(database: Database) -> int:
    [(count,)] = await database.run("SELECT count(*) FROM tocsin.notifications WHERE status = 'delivered'")
    return int(count)
