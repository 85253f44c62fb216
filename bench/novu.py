"""Notifications to Novu through the official SDK, against a stub that answers after 5 ms: one alone, a burst, and
across a kill."""

import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.report import Figure
from support.materialize import MaterializeDouble, Relation
from support.tocsin import running

ALONE = 60
BURST = 1_000
_DELAY = 0.005


class Stub:
    """Answers triggers and bulks as Novu does, `_DELAY` seconds late, and remembers the transaction ids."""

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        self.arrivals: list[tuple[float, str]] = []
        self.changed = asyncio.Event()
        self.url = ""

    async def trigger(self, request: web.Request) -> web.Response:
        return self._answer(await self._take([await request.json()]), single=True)

    async def bulk(self, request: web.Request) -> web.Response:
        return self._answer(await self._take((await request.json())["events"]), single=False)

    async def _take(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        now = time.time()
        for event in events:
            self.ids[event["transactionId"]] += 1
            self.arrivals.append((now, event["transactionId"]))
        self.changed.set()
        await asyncio.sleep(_DELAY)
        return [
            {"acknowledged": True, "status": "processed", "transactionId": event["transactionId"]} for event in events
        ]

    def _answer(self, results: list[dict[str, Any]], *, single: bool) -> web.Response:
        return web.Response(
            status=201, content_type="application/json", text=json.dumps({"data": results[0] if single else results})
        )

    async def holds(self, count: int) -> None:
        """Wait until so many different ids have arrived."""
        async with asyncio.timeout(60):
            while len(self.ids) < count:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def stub() -> AsyncIterator[Stub]:
    served = Stub()
    application = web.Application(client_max_size=1 << 26)
    application.router.add_post("/v1/events/trigger", served.trigger)
    application.router.add_post("/v1/events/trigger/bulk", served.bulk)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield served
    finally:
        await runner.cleanup()


async def measure() -> list[Figure]:
    alone = await _alone()
    rate = await _burst()
    missing, repeats = await _killed()
    return [
        Figure(
            name=f"one notification alone, commit of the change -> Novu stub, p50 of {ALONE}",
            measured=f"{alone * 1000:.1f} ms",
            target="<= 30 ms",
            met=alone <= 0.030,
        ),
        Figure(
            name=f"a burst of {BURST:,} notifications, first to last arrival",
            measured=f"{rate:,.0f} events/s",
            target=">= 4,000 events/s",
            met=rate >= 4_000,
        ),
        Figure(
            name=f"kill -9 at a quarter of {BURST:,}, then a restart",
            measured=f"{missing} missing, {repeats} repeated under the same id",
            target="0 missing",
            met=missing == 0,
        ),
    ]


async def _alone() -> float:
    with tempfile.TemporaryDirectory() as name:
        async with _stack(Path(name)) as (relation, novu, config), running(Path(name), config) as tocsin:
            await tocsin.until_ready()
            await tocsin.until_metric("tocsin_channel_up", 1, channel="people")
            relation.insert(("warm", "1"))
            await novu.holds(1)
            took = []
            for number in range(ALONE):
                await asyncio.sleep(0.05)
                changed = time.time()
                relation.insert((f"alone-{number}", "1"))
                await novu.holds(number + 2)
                took.append(novu.arrivals[-1][0] - changed)
            await tocsin.stop()
    return statistics.median(took)


async def _burst() -> float:
    with tempfile.TemporaryDirectory() as name:
        async with _stack(Path(name)) as (relation, novu, config), running(Path(name), config) as tocsin:
            await tocsin.until_ready()
            relation.insert(("warm", "1"))
            await novu.holds(1)
            before = time.time()
            relation.insert(*((f"burst-{number}", "1") for number in range(BURST)))
            await novu.holds(BURST + 1)
            took = novu.arrivals[-1][0] - before
            await tocsin.stop()
    return BURST / took


async def _killed() -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as name:
        async with _stack(Path(name)) as (relation, novu, config):
            async with running(Path(name), config) as tocsin:
                await tocsin.until_ready()
                relation.insert(*((f"killed-{number}", "1") for number in range(BURST)))
                await novu.holds(BURST // 4)
                await tocsin.kill()
            async with running(Path(name), config) as tocsin:
                await novu.holds(BURST)
                await tocsin.stop()
            repeats = sum(count - 1 for count in novu.ids.values())
            return BURST - len(novu.ids), repeats


@asynccontextmanager
async def _stack(directory: Path) -> AsyncIterator[tuple[Relation, Stub, dict[str, Any]]]:
    async with MaterializeDouble(progress_interval=0.2) as double, stub() as novu:
        relation = double.create("public.late", [("id", "text"), ("amount", "numeric")], retain=3_600_000)
        yield relation, novu, _config(directory, double.dsn, novu.url)


def _config(directory: Path, dsn: str, url: str) -> dict[str, Any]:
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(directory / "ledger.db")},
        "sources": {"mz": {"type": "materialize", "dsn": dsn}},
        "channels": {
            "people": {"type": "novu", "api_key": "key", "url": url, "workflow": "late", "recipients": ["someone"]}
        },
        "alerts": {
            "late": {
                "source": "mz",
                "relation": "public.late",
                "key": ["id"],
                "labels": ["id"],
                "notify": ["people"],
            }
        },
    }
