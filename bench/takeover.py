"""Taking over an alert: from the end of the process that led it to the first notification of a change since.

Three processes share a ledger in PostgreSQL, with the default lease. `TOCSIN_BENCH_TAKEOVERS` sets how often.
"""

import asyncio
import os
import random
import signal
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.harness import Figure, Machine, running
from support.materialize import MaterializeDouble
from support.postgres import shared_postgres
from support.receiver import Receiver
from support.tocsin import COLUMNS, TocsinProcess
from support.waiting import until, until_some

_TIMES = int(os.environ.get("TOCSIN_BENCH_TAKEOVERS", "200"))
_ALERTS = ("one", "two", "three")


async def measure() -> list[Figure]:
    machine = Machine()
    async with (
        MaterializeDouble() as double,
        Receiver() as receiver,
        shared_postgres().database() as database,
    ):
        with machine.round() as directory:
            config = {
                "web": {"listen": "127.0.0.1:0"},
                "ledger": {"url": database.dsn},
                "sources": {"mz": {"type": "materialize", "dsn": double.dsn}},
                "channels": {"hook": {"type": "webhook", "url": f"{receiver.url}/hook"}},
                "alerts": {
                    name: {"source": "mz", "relation": f"public.{name}", "key": ["id"], "notify": ["hook"]}
                    for name in _ALERTS
                },
            }
            for name in _ALERTS:
                double.create(f"public.{name}", COLUMNS, retain=3_600_000)
            async with AsyncExitStack() as stack:
                processes = [await _started(stack, directory, config) for _ in _ALERTS]
                taken: dict[signal.Signals, list[float]] = {}
                for how, times in ((signal.SIGKILL, _TIMES), (signal.SIGTERM, _TIMES // 4)):
                    taken[how] = [
                        await _takeover(stack, processes, config, double, receiver, how, number)
                        for number in range(times)
                    ]
    killed, stopped = taken.values()
    return [_figure("kill -9", killed, 2.0, 5.0), _figure("SIGTERM", stopped, 1.0, 1.0), machine.figure()]


async def _started(stack: AsyncExitStack, directory: Path, config: dict[str, Any]) -> TocsinProcess:
    process = await stack.enter_async_context(running(directory, config))
    await process.until_ready()
    return process


async def _takeover(
    stack: AsyncExitStack,
    processes: list[TocsinProcess],
    config: dict[str, Any],
    double: MaterializeDouble,
    receiver: Receiver,
    how: signal.Signals,
    number: int,
) -> float:
    """Seconds."""
    await until_some(lambda: _even(processes), "each leads one alert", within=60)
    alert = _ALERTS[number % len(_ALERTS)]
    led = [bool(await one.metric("tocsin_instance_leads", alert=alert)) for one in processes]
    leader = processes.pop(led.index(True))
    await _pause()
    count = len(receiver.requests)
    leader.signal(how)
    began = time.monotonic()
    if how is signal.SIGKILL:
        await leader.exited()
    double.relation(f"public.{alert}").insert((f"{how}{number}", "Ann", "1"))
    await until(lambda: len(receiver.requests) > count, "the notification", within=60)
    seconds = time.monotonic() - began
    await leader.exited()
    processes.append(await _started(stack, leader.file.parent, config))
    return seconds


async def _pause() -> None:
    """A random part of the time between two meetings."""
    await asyncio.sleep(random.uniform(0.0, 0.5))


async def _even(processes: Sequence[TocsinProcess]) -> bool:
    found = [[await one.metric("tocsin_instance_leads", alert=name) for name in _ALERTS] for one in processes]
    return all(sum(map(bool, each)) == 1 for each in (*found, *zip(*found, strict=True)))


def _figure(how: str, seconds: Sequence[float], median: float, worst: float) -> Figure:
    found = statistics.median(seconds), max(seconds)
    return Figure(
        f"take-over after {how}: end -> first notification, median and worst of {len(seconds)}",
        f"{found[0]:.2f} s, {found[1]:.2f} s",
        f"<= {median:g} s, <= {worst:g} s",
        found[0] <= median and found[1] <= worst,
    )
