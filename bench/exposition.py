"""CPU time of a scrape of 100,000 series, next to the client library's gauges in the same run; and how long a scrape
blocks the event loop."""

import asyncio
import contextlib
import gc
import gzip
import random
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from bench.harness import Figure
from support.web import FakeProcess
from tocsin.exposition import Gauges, GaugeSpec, Metrics, Page
from tocsin.firing import Key
from tocsin.web.access import Rules
from tocsin.web.application import build
from tocsin.web.guard import Guard

SERIES = 100_000
_SPEC = GaugeSpec(
    alert="late",
    metric="late_orders",
    labels=(("order_id", 0), ("customer", 1), ("city", 2), ("status", 3)),
    value=4,
    max_series=SERIES,
)
_Rows: TypeAlias = dict[Key, tuple[str, ...]]
_FETCH = """
import sys, urllib.request
for encoding in sys.argv[2:]:
    with urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"Accept-Encoding": encoding})) as answer:
        answer.read()
"""


async def measure() -> list[Figure]:
    """The figures of this part."""
    chance = random.Random(7)
    rows = _rows(chance)
    children, compressed = _children(rows)
    return [
        Figure("scrape of 100,000 children of the client library", _ms(children)),
        *await _scrapes(rows, chance, children, compressed),
        await _loop_gap(rows),
        _memory(rows),
        *await _own_metrics(),
    ]


def _rows(chance: random.Random) -> _Rows:
    keys = list(range(SERIES))
    chance.shuffle(keys)
    return {
        f"{key}": (
            f"order-{key:06}",
            f"customer-{chance.randrange(5000)}",
            f"city-{chance.randrange(200):03}",
            chance.choice(["late", "lost", "stuck"]),
            f"{chance.random() * 100:.2f}",
        )
        for key in keys
    }


def _changed(rows: _Rows, keys: list[Key]) -> _Rows:
    return {key: (*rows[key][:4], f"{float(rows[key][4]) + 1:.2f}") for key in keys}


def _children(rows: _Rows) -> tuple[float, float]:
    """CPU seconds of a scrape through the library's gauges: plain, and compressed as its own handlers do it."""
    registry = CollectorRegistry()
    gauge = Gauge("late_orders", "Rows that fire now.", [name for name, _ in _SPEC.labels], registry=registry)
    for row in rows.values():
        gauge.labels(*row[:4]).set(float(row[4]))
    plain = min(_cpu(lambda: generate_latest(registry)) for _ in range(3))
    page = generate_latest(registry)
    return plain, plain + min(_cpu(lambda: gzip.compress(page)) for _ in range(2))


def _page(rows: _Rows) -> tuple[Page, Gauges]:
    page, gauges = Page(Metrics("0")), Gauges(_SPEC)
    page.metrics.alert("late")
    gauges.install(gauges.render(rows, replace=True), 0.0)
    page.add(gauges)
    return page, gauges


async def _scrapes(rows: _Rows, chance: random.Random, children: float, compressed: float) -> list[Figure]:
    page, gauges = _page(rows)

    async def scrape(encoding: str, keys: list[Key]) -> float:
        """CPU seconds of a scrape after these rows have changed; the best of five."""
        best = float("inf")
        for _ in range(5):
            rows.update(_changed(rows, keys))
            gauges.install(gauges.render({key: rows[key] for key in keys}), 0.0)
            gc.collect()
            best = min(best, await _cpu_of(lambda: page.scrape("", encoding, 0.0)))
        return best

    every, some, few = (chance.sample(list(rows), count) for count in (SERIES, SERIES // 100, SERIES // 1000))
    await page.scrape("", "", 0.0)
    plain = [
        _against("every series changed", await scrape("", every), children, least=25),
        _against("1 % changed", await scrape("", some), children),
        _against("0.1 % changed", await scrape("", few), children),
        _against("nothing changed", await scrape("", []), children, least=200),
    ]
    await page.scrape("", "gzip", 0.0)
    compressing = [
        _against("every series changed, compressed", await scrape("gzip", every), compressed),
        _against("1 % changed, compressed", await scrape("gzip", some), compressed),
        _against("0.1 % changed, compressed", await scrape("gzip", few), compressed),
        _against("nothing changed, compressed", await scrape("gzip", []), compressed),
    ]
    return [*plain, *compressing]


async def _loop_gap(rows: _Rows) -> Figure:
    """The longest time that the loop did nothing else while another process scraped pages that had changed
    throughout."""
    page, gauges = _page(rows)
    longest = 0.0
    async with _serving(page) as address:
        for _ in range(3):
            gauges.install(gauges.render(_changed(rows, list(rows))), 0.0)
            gauges.install(gauges.render(rows), 0.0)
            gc.collect()
            command = [sys.executable, "-c", _FETCH, address, "gzip", "identity", "gzip"]
            process = await asyncio.create_subprocess_exec(*command)
            exited = asyncio.ensure_future(process.wait())
            while not exited.done():
                began = time.perf_counter()
                await asyncio.sleep(0)
                longest = max(longest, time.perf_counter() - began)
            assert exited.result() == 0
    return Figure(
        "longest gap of the event loop during scrapes of 100,000 changed series",
        f"{longest * 1000:.0f} ms",
        "<= 50 ms",
        longest <= 0.05,
    )


def _memory(rows: _Rows) -> Figure:
    gc.collect()
    tracemalloc.start()
    gauges = Gauges(_SPEC)
    gauges.install(gauges.render(rows, replace=True), 0.0)
    gauges.advance(0.0)
    for block in gauges.blocks():
        block.gzip()
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    each = held / SERIES
    line = sum(len(block.plain()) for block in gauges.blocks()) / SERIES
    return Figure(
        "memory per series beyond the row, served compressed",
        f"{each:.0f} bytes ({line:.0f} of them the line)",
        "<= 350 bytes",
        each <= 350,
    )


async def _own_metrics() -> list[Figure]:
    page = Page(Metrics("0"))
    for number in range(20):
        page.metrics.alert(f"alert_{number}")
        page.add(Gauges(GaugeSpec(alert=f"alert_{number}", metric=f"metric_{number}")))
    for number in range(5):
        page.metrics.channel(f"channel_{number}")
    whole = min([await _cpu_of(lambda: page.scrape("", "gzip", 0.0)) for _ in range(10)])
    on_loop = min(_cpu(page.metrics.collect) for _ in range(10))
    count = sum(len(family.samples) for family in page.metrics.collect())
    return [
        Figure(
            f"scrape of Tocsin's own metrics, 20 alerts and 5 channels ({count:,} samples)",
            f"{_ms(whole)}, {_ms(on_loop)} of it on the event loop",
        )
    ]


@contextlib.asynccontextmanager
async def _serving(page: Page) -> AsyncIterator[str]:
    runner = web.AppRunner(build(FakeProcess(), page, guard=Guard(Rules())))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()


def _against(name: str, seconds: float, floor: float, *, least: int | None = None) -> Figure:
    ratio = floor / seconds
    return Figure(
        f"scrape of 100,000 series, {name}",
        f"{_ms(seconds)} (1/{ratio:.0f} of the library's)",
        "" if least is None else f"<= 1/{least} of the library's",
        None if least is None else ratio >= least,
    )


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


async def _cpu_of(work: Callable[[], Awaitable[object]]) -> float:
    began = time.process_time()
    await work()
    return time.process_time() - began


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms of CPU" if seconds < 0.01 else f"{seconds * 1000:,.0f} ms of CPU"
