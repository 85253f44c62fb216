"""The producer, in a thread of the demo: made-up events into the database."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace

from tocsin_demo.database.scenario import PLAN
from tocsin_demo.database.server import Server
from tocsin_demo.database.writer import DatabaseWriter
from tocsin_producer.events import Schedule
from tocsin_producer.metrics import Metrics
from tocsin_producer.run import run


@asynccontextmanager
async def producing(database: Server, *, seed: int) -> AsyncIterator["asyncio.Task[None]"]:
    """Send events until the end of the block. The task ends earlier only with a `SinkError`: the database is gone."""
    stop = threading.Event()

    def produce() -> None:
        with closing(DatabaseWriter(database.conninfo())) as sink:
            events = Schedule(replace(PLAN, seed=seed)).events(start=time.time())
            run(events, sink, metrics=Metrics(), monotonic=time.monotonic, wait=stop.wait)

    task = asyncio.create_task(asyncio.to_thread(produce))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait({task})
