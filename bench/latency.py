"""From a change on the wire to the request at the receiver, through firing set, ledger (on disk) and dispatcher."""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.load import configuration
from bench.report import Figure
from support.double_process import double_process
from support.receiver import Answer, Received, Receiver
from support.tocsin import running

CHANGES = 1_500
PER_SECOND = 100
LIVE = 1_000
_SETTLING = 100
"""Changes that may still wait behind the first burst."""


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        fsync = _fsync(directory / "probe")
        latencies = sorted(await _latencies(directory))
    p50, p99 = (latencies[int(len(latencies) * part)] * 1000 for part in (0.5, 0.99))
    return [
        Figure(name="one fsync of 4 kB on this disk, median", measured=f"{fsync:.2f} ms"),
        _figure(f"change -> request, durable, {PER_SECOND}/s, p50", p50, fsync, 5.0),
        _figure(f"change -> request, durable, {PER_SECOND}/s, p99", p99, fsync, 20.0),
    ]


def _figure(name: str, milliseconds: float, fsync: float, target: float) -> Figure:
    beyond = milliseconds - fsync
    return Figure(
        name=name,
        measured=f"{milliseconds:.2f} ms, {beyond:.2f} beyond one fsync",
        target=f"<= {target:g} ms beyond one fsync",
        met=beyond <= target,
    )


def _fsync(path: Path) -> float:
    """Milliseconds."""
    latencies = []
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            latencies.append(time.perf_counter() - began)
    return statistics.median(latencies) * 1000


async def _latencies(directory: Path) -> list[float]:
    latencies: list[float] = []
    fired = 0
    enough = asyncio.Event()

    def receive(request: Received) -> Answer:
        nonlocal fired
        now = time.time()
        envelope = request.json
        fired += envelope["status"] == "fired"
        # The rows that come all at once in the beginning are a burst; latency is measured after it, at the steady rate.
        if envelope["status"] == "updated" and fired >= LIVE:
            latencies.append(now - envelope["row"]["changed_at"])
            if len(latencies) >= CHANGES + _SETTLING:
                enough.set()
        return Answer()

    async with (
        double_process(1, live=LIVE) as double,
        Receiver(receive) as receiver,
        running(directory, _configuration(directory, double.dsn, receiver.url)) as tocsin,
    ):
        await tocsin.until_ready()
        await double.run("load", PER_SECOND)
        async with asyncio.timeout(CHANGES / PER_SECOND * 4 + 30):
            await enough.wait()
        await double.run("load", 0)
        assert await tocsin.stop() == 0
    return latencies[_SETTLING:][:CHANGES]


def _configuration(directory: Path, dsn: str, url: str) -> dict[str, Any]:
    return configuration(directory, dsn, {"hook": {"url": url, "concurrency": 16}}, {"load": ["hook"]})
