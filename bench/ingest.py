"""How fast a snapshot from the wire becomes gauges, and ledger and outbox rows; and what a firing row costs in
memory."""

import asyncio
import gc
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.double import double_process
from bench.harness import Figure
from tocsin.alert import RowAlert
from tocsin.backoff import Backoff
from tocsin.config import load
from tocsin.envelope import View
from tocsin.exposition import Metrics, Page
from tocsin.ledger.base import Ledger
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Kind
from tocsin.pipeline.routing import Route, Router
from tocsin.pipeline.rows import RowOutputs, RowPipeline
from tocsin.pipeline.timing import Timing
from tocsin.sources.materialize import Materialize

ROWS = 200_000
_CONFIG = """
sources: {{mz: {{type: materialize, dsn: "{dsn}"}}}}
channels: {{out: {{type: console}}}}
alerts:
  load:
    source: mz
    relation: load
    key: [id]
    labels: [id, region, service, host, severity]
    value: value
    max_series: 1000000
    notify: [{notify}]
"""


async def measure() -> list[Figure]:
    async with double_process(ROWS, live=0) as double:
        floor = await _floor(double.dsn)
        gauges = await _snapshot_seconds(double.dsn, ledger=False)
        durable = await _snapshot_seconds(double.dsn, ledger=True)
    memory = await _memory()
    return [
        Figure(f"the wire double alone, {ROWS:,} rows read and thrown away", f"{ROWS / floor:,.0f} rows/s"),
        _rate("ingest, gauges only", gauges, 100_000, floor),
        _rate("ingest, ledger and outbox", durable, 20_000, floor),
        Figure("memory of a firing row beyond its own values", f"{memory:.0f} bytes", "<= 500 bytes", memory <= 500),
    ]


def _rate(name: str, seconds: float, target: int, floor: float) -> Figure:
    rate = ROWS / seconds
    return Figure(
        name, f"{rate:,.0f} rows/s ({seconds / floor:.1f} x the floor's time)", f">= {target:,} rows/s", rate >= target
    )


async def _floor(dsn: str) -> float:
    """Seconds to read the snapshot's bytes through the same connection code, doing nothing with them."""
    from psycopg import sql

    from tocsin.sources.settings import MaterializeConfig
    from tocsin.sources.wire import connect

    async with connect(MaterializeConfig(dsn=dsn)) as wire:
        began, count = time.perf_counter(), 0
        async for chunk in wire.copy(sql.SQL("COPY (SUBSCRIBE load WITH (PROGRESS)) TO STDOUT"), limit=60):
            count += len(chunk)
            if count >= ROWS:
                return time.perf_counter() - began
    raise AssertionError("the stream ended early")


async def _snapshot_seconds(dsn: str, *, ledger: bool) -> float:
    async with _watch(dsn, ledger=ledger) as (watch, _):
        began = time.perf_counter()
        task = asyncio.create_task(watch.run())
        while watch.last_progress is None:  # noqa: ASYNC110 - a watch has no event for this
            await asyncio.sleep(0.002)
        seconds = time.perf_counter() - began
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert watch.status().firing == ROWS
    return seconds


@asynccontextmanager
async def _watch(dsn: str, *, ledger: bool) -> AsyncIterator[tuple[RowPipeline, Page]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tocsin.yaml"
        path.write_text(_CONFIG.format(dsn=dsn, notify="out" if ledger else ""))
        config = load(path, {})
        alert, source = config.row_alerts["load"], config.sources["mz"]
        store = open_ledger(Path(directory) / "ledger.db") if ledger else None
        metrics = Metrics("0")
        page = Page(metrics)
        try:
            yield _made(alert, Materialize("mz", source.settings), page, metrics, store), page
        finally:
            if store is not None:
                await store.close()


def _made(alert: RowAlert, source: Materialize, page: Page, metrics: Metrics, store: Ledger | None) -> RowPipeline:
    outputs = RowOutputs(
        page=page,
        metrics=metrics.alert(alert.name),
        ledger=store,
        router=Router([Route(channel="out", kinds=frozenset(Kind))] if store else [], View(), print),
        offer=lambda _: None,
        publish=lambda _: None,
    )
    backoff = Backoff(initial=1.0, maximum=1.0)
    timing = Timing(backoff=backoff, progress_interval=1.0, stale_after=300.0, exit_on_stall=False)
    return RowPipeline(alert, source, timing, outputs)


async def _memory() -> float:
    """Bytes per row of firing set and gauge, without the row's tuple and texts, at 50,000 rows."""
    rows = 50_000
    async with double_process(rows, live=0) as double, _watch(double.dsn, ledger=False) as made:
        watch, _ = made
        gc.collect()
        tracemalloc.start()
        task = asyncio.create_task(watch.run())
        while watch.last_progress is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        values = sum(
            sys.getsizeof(firing.row) + sum(sys.getsizeof(text) for text in firing.row if text is not None)
            for firing in watch.firings()
        )
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return (held - values) / rows
