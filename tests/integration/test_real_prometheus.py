"""A real Prometheus scrapes the page: both formats, compressed in several gzip members, hostile label values."""

import asyncio
import contextlib
import shutil
import socket
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from support.waiting import until_some
from support.web import FakeProcess
from tocsin.exposition import Gauges, GaugeSpec, Metrics, Page, Scrape
from tocsin.web.application import build

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not on the PATH")

HOSTILE = [
    'quote " backslash \\ line\nfeed \\n "} 1\n',
    "# EOF",
    "carriage\rreturn \t tab \x85 \u2028 \x00 \x01\x7f",
    "\u202eright to left مرحبا 株式会社 🔔 e\u0301",
    "\ufeff\ufffe",
    " leading and trailing ",
    "x" * 5000,
    "half a surrogate pair \ud800",
]
READ = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
"""How they read back: all but the last, which has no UTF-8, as they were."""
ROWS = 3000


class TextPage(Page):
    """Answers in the older format to any request, since Prometheus requests OpenMetrics by itself."""

    async def scrape(
        self,
        accept: str,
        accept_encoding: str,
        now: float,
    ) -> Scrape:
        return await super().scrape("", accept_encoding, now)


def late_orders(extra: Mapping[Any, tuple[str | None, ...]]) -> Gauges:
    spec = GaugeSpec(alert="late", metric="late_orders", labels=(("order", 0), ("note", 1)), value=2)
    gauges = Gauges(spec)
    rows: dict[Any, tuple[str | None, ...]] = {str(number): (f"{number:05}", None, "1") for number in range(ROWS)}
    gauges.install(gauges.render(rows | dict(extra), replace=True), time.time())
    return gauges


@contextlib.asynccontextmanager
async def serving(page: Page) -> AsyncIterator[int]:
    runner = web.AppRunner(build(FakeProcess(), page, admin=False))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def prometheus(folder: Path, jobs: Mapping[str, int]) -> AsyncIterator[str]:
    """A Prometheus that scrapes each port every second; gives its address."""
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def scraped(client: aiohttp.ClientSession, address: str, job: str) -> dict[str, Any]:
    """The target of a job after its first scrape."""

    async def check() -> dict[str, Any] | None:
        with contextlib.suppress(aiohttp.ClientError):
            async with client.get(f"{address}/api/v1/targets") as response:
                if response.status != 200:
                    return None
                targets = (await response.json())["data"]["activeTargets"]
                return next((t for t in targets if t["labels"]["job"] == job and t["health"] != "unknown"), None)
        return None

    target = await until_some(check, f"a scrape of {job}", 30.0)
    assert target is not None
    return target


async def query(client: aiohttp.ClientSession, address: str, expression: str) -> list[dict[str, Any]]:
    async with client.get(f"{address}/api/v1/query", params={"query": expression}) as response:
        return list((await response.json())["data"]["result"])


async def test_prometheus_reads_every_row_in_both_formats(tmp_path: Path) -> None:
    hostile = {f"hostile {place}": ("", text, "NaN") for place, text in enumerate(HOSTILE)}
    values = {"a": ("1", "value", "Infinity"), "b": ("2", "value", "-1e-300"), "c": ("3", "value", "12345678901234567")}
    pages = {"openmetrics": Page(Metrics("1.2.3")), "text": TextPage(Metrics("1.2.3"))}
    async with contextlib.AsyncExitStack() as stack:
        jobs = {}
        for job, page in pages.items():
            page.add(late_orders({**hostile, **values}))
            page.metrics.alert("late")
            jobs[job] = await stack.enter_async_context(serving(page))
        address = await stack.enter_async_context(prometheus(tmp_path, jobs))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        for job in jobs:
            target = await scraped(client, address, job)
            assert (target["lastError"], target["health"]) == ("", "up")
            # The target is reported up a moment before its samples are committed.
            (count,) = await until_some(partial(query, client, address, f'count(late_orders{{job="{job}"}})'))
            assert int(count["value"][1]) == ROWS + len(hostile) + len(values)
            notes = await query(client, address, f'late_orders{{job="{job}",note!="",order=""}}')
            assert sorted(series["metric"]["note"] for series in notes) == sorted(READ)
            assert {series["value"][1] for series in notes} == {"NaN"}
            found = await query(client, address, f'late_orders{{job="{job}",note="value"}}')
            assert {series["metric"]["order"]: float(series["value"][1]) for series in found} == {
                "1": float("inf"),
                "2": -1e-300,
                "3": 12345678901234567.0,
            }
            (own,) = await query(client, address, f'tocsin_alert_series{{job="{job}"}}')
            assert int(own["value"][1]) == ROWS + len(hostile) + len(values)
