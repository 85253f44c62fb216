"""Notifications to Novu through the official SDK, against a stub that answers after 5 ms: one alone, a burst, and
across a kill."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from bench.harness import Arrived, Figure, configuration, running
from support.materialize import MaterializeDouble, Relation
from support.tocsin import TocsinProcess

ALONE = 60
BURST = 1_000
_DELAY = 0.005


class Stub(Arrived):
    """Answers triggers and bulks as Novu does, `_DELAY` seconds late, and remembers the transaction ids."""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        events = body.get("events", [body])
        for event in events:
            self.add(event["transactionId"])
        await asyncio.sleep(_DELAY)
        results = [
            {"acknowledged": True, "status": "processed", "transactionId": event["transactionId"]} for event in events
        ]
        return web.json_response({"data": results if "events" in body else results[0]}, status=201)


class Stack(NamedTuple):
    """A relation whose rows are notified, the stub, and what `tocsin run` needs."""

    relation: Relation
    novu: Stub
    directory: Path
    config: dict[str, Any]

    @asynccontextmanager
    async def warm(self) -> AsyncIterator[TocsinProcess]:
        """A process that has sent one notification."""
        async with running(self.directory, self.config) as tocsin:
            await tocsin.until_ready()
            await tocsin.until_metric("tocsin_channel_up", 1, channel="people")
            self.relation.insert(("warm", "1"))
            await self.novu.holds(1)
            yield tocsin
            await tocsin.stop()


@asynccontextmanager
async def stack() -> AsyncIterator[Stack]:
    novu = Stub()
    application = web.Application(client_max_size=1 << 26)
    for path in ("/v1/events/trigger", "/v1/events/trigger/bulk"):
        application.router.add_post(path, novu.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    people = {"type": "novu", "api_key": "key", "url": url, "workflow": "late", "recipients": ["someone"]}
    try:
        async with MaterializeDouble(progress_interval=0.2) as double:
            relation = double.create("public.late", [("id", "text"), ("amount", "numeric")], retain=3_600_000)
            with tempfile.TemporaryDirectory() as name:
                config = configuration(
                    Path(name), double.dsn, {"people": people}, {"late": ["people"]}, key=["id"], labels=["id"]
                )
                yield Stack(relation, novu, Path(name), config)
    finally:
        await runner.cleanup()


async def measure() -> list[Figure]:
    alone, rate = await _alone(), await _burst()
    missing, repeats = await _killed()
    return [
        Figure(
            f"one notification alone, commit of the change -> Novu stub, p50 of {ALONE}",
            f"{alone * 1000:.1f} ms",
            "<= 30 ms",
            alone <= 0.030,
        ),
        Figure(
            f"a burst of {BURST:,} notifications, first to last arrival",
            f"{rate:,.0f} events/s",
            ">= 4,000 events/s",
            rate >= 4_000,
        ),
        Figure(
            f"kill -9 at a quarter of {BURST:,}, then a restart",
            f"{missing} missing, {repeats} repeated under the same id",
            "0 missing",
            missing == 0,
        ),
    ]


async def _alone() -> float:
    async with stack() as made, made.warm():
        took = []
        for number in range(ALONE):
            await asyncio.sleep(0.05)
            changed = time.time()
            made.relation.insert((f"alone-{number}", "1"))
            await made.novu.holds(number + 2)
            took.append(made.novu.last - changed)
    return statistics.median(took)


async def _burst() -> float:
    async with stack() as made, made.warm():
        before = time.time()
        made.relation.insert(*((f"burst-{number}", "1") for number in range(BURST)))
        await made.novu.holds(BURST + 1)
        return BURST / (made.novu.last - before)


async def _killed() -> tuple[int, int]:
    async with stack() as made:
        async with running(made.directory, made.config) as tocsin:
            await tocsin.until_ready()
            made.relation.insert(*((f"killed-{number}", "1") for number in range(BURST)))
            await made.novu.holds(BURST // 4)
            await tocsin.kill()
        async with running(made.directory, made.config) as tocsin:
            await made.novu.holds(BURST)
            await tocsin.stop()
        return BURST - len(made.novu.ids), made.novu.ids.total() - len(made.novu.ids)
