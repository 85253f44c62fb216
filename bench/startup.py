"""Seconds until `tocsin --help` is printed and until `tocsin run` is ready."""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.harness import Figure, configuration, running
from support.materialize import MaterializeDouble
from support.receiver import Receiver


async def measure() -> list[Figure]:
    helped = statistics.median([await _timed("-m", "tocsin", "--help") for _ in range(5)])
    ready = statistics.median([await _ready() for _ in range(5)])
    bare = statistics.median([await _timed("-c", "pass") for _ in range(5)])
    return [
        Figure("Python itself, started and ended", f"{bare * 1000:.0f} ms"),
        Figure("tocsin --help", f"{helped * 1000:.0f} ms", "<= 200 ms", helped <= 0.2),
        Figure("tocsin run, empty view -> /readyz says 200", f"{ready * 1000:.0f} ms", "<= 1,000 ms", ready <= 1.0),
    ]


async def _timed(*arguments: str) -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL)
    await process.wait()
    return time.perf_counter() - began


async def _ready() -> float:
    with tempfile.TemporaryDirectory() as name:
        async with MaterializeDouble() as double, Receiver() as receiver:
            double.create("public.late", [("id", "text")])
            hook = {"hook": {"url": receiver.url}}
            config = configuration(Path(name), double.dsn, hook, {"late": ["hook"]}, labels=["id"])
            began = time.perf_counter()
            async with running(Path(name), config) as tocsin:
                await tocsin.until_ready()
                seconds = time.perf_counter() - began
                await tocsin.stop()
    return seconds
