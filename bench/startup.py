"""Seconds until `tocsin --help` is printed and until `tocsin run` is ready."""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.report import Figure
from support.materialize import MaterializeDouble
from support.receiver import Receiver
from support.tocsin import running


async def measure() -> list[Figure]:
    helped = statistics.median([await _help() for _ in range(5)])
    ready = statistics.median([await _ready() for _ in range(5)])
    bare = statistics.median([await _python() for _ in range(5)])
    return [
        Figure(name="Python itself, started and ended", measured=f"{bare * 1000:.0f} ms"),
        Figure(name="tocsin --help", measured=f"{helped * 1000:.0f} ms", target="<= 200 ms", met=helped <= 0.2),
        Figure(
            name="tocsin run, empty view -> /readyz says 200",
            measured=f"{ready * 1000:.0f} ms",
            target="<= 1,000 ms",
            met=ready <= 1.0,
        ),
    ]


async def _timed(*command: str) -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    await process.wait()
    return time.perf_counter() - began


async def _python() -> float:
    return await _timed(sys.executable, "-c", "pass")


async def _help() -> float:
    return await _timed(sys.executable, "-m", "tocsin", "--help")


async def _ready() -> float:
    with tempfile.TemporaryDirectory() as name:
        async with MaterializeDouble() as double, Receiver() as receiver:
            double.create("public.late", [("id", "text")])
            config = {
                "web": {"listen": "127.0.0.1:0"},
                "ledger": {"path": str(Path(name) / "ledger.db")},
                "sources": {"mz": {"type": "materialize", "dsn": double.dsn}},
                "channels": {"hook": {"type": "webhook", "url": receiver.url}},
                "alerts": {"late": {"source": "mz", "relation": "late", "labels": ["id"], "notify": ["hook"]}},
            }
            began = time.perf_counter()
            async with running(Path(name), config) as tocsin:
                await tocsin.until_ready()
                seconds = time.perf_counter() - began
                await tocsin.stop()
    return seconds
