"""From a change on the wire to the request at the receiver, through firing set, ledger (on disk) and dispatcher."""

import os
import statistics
import tempfile
import time
from pathlib import Path

from bench.harness import Figure
from bench.isolation import PER_SECOND, measured


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        fsync = _fsync(Path(name) / "probe")
        one = await measured(Path(name), live=1_000, changes=1_500, concurrency=16)
    return [
        Figure("one fsync of 4 kB on this disk, median", f"{fsync:.2f} ms"),
        _figure("p50", one.p50 - fsync, fsync, 5.0),
        _figure("p99", one.p99 - fsync, fsync, 20.0),
    ]


def _figure(part: str, beyond: float, fsync: float, target: float) -> Figure:
    return Figure(
        f"change -> request, durable, {PER_SECOND}/s, {part}",
        f"{fsync + beyond:.2f} ms, {beyond:.2f} beyond one fsync",
        f"<= {target:g} ms beyond one fsync",
        beyond <= target,
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
