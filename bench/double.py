"""The double of Materialize in a process of its own, with a load for benchmarks."""

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any

from support.materialize import MaterializeDouble, encode
from support.materialize.protocol import Row

_COLUMNS = (
    ("id", "int8"),
    ("region", "text"),
    ("service", "text"),
    ("host", "text"),
    ("severity", "text"),
    ("value", "numeric"),
    ("changed_at", "float8"),
)
"""`changed_at`: the wall clock in seconds when the row was written; 0 for rows that never change."""

_PERIOD = 0.005
"""Seconds between two changes of several rows, at high rates."""


class DoubleProcess:
    """A running process. Commands go one after the other."""

    def __init__(self, pipe: Connection, dsn: str) -> None:
        self.dsn = dsn
        self._pipe = pipe
        self._turn = asyncio.Lock()

    async def load(self, relation: str, rows: int, *, live: int) -> None:
        """Create a relation. See `Load`."""
        await self._do(relation, "load", rows, live)

    async def change(self, relation: str, count: int) -> None:
        """See `Load.change`."""
        await self._do(relation, "change", count)

    async def run(self, relation: str, per_second: float) -> None:
        """See `Load.run`."""
        await self._do(relation, "run", per_second)

    async def _do(self, *command: Any) -> None:
        async with self._turn:
            self._pipe.send(command)
            await asyncio.to_thread(self._pipe.recv)


@asynccontextmanager
async def double_process(rows: int, *, live: int) -> AsyncIterator[DoubleProcess]:
    """Start a double with a relation `load` (see `Load`), and end it with the block."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(theirs,))
    process.start()
    theirs.close()
    try:
        double = DoubleProcess(ours, await asyncio.to_thread(ours.recv))
        await double.load("load", rows, live=live)
        yield double
    finally:
        process.kill()
        process.join()


class Load:
    """A relation of `rows` still rows (ids from 0) and `live` ones after them, whose value and time change in turn."""

    def __init__(self, double: MaterializeDouble, name: str, rows: int, live: int) -> None:
        self._relation = double.create(name, _COLUMNS, retain=60_000)
        self._relation.bulk = encode((*_labels(at), f"{at}.5", "0") for at in range(rows))
        now = time.time()
        self._live = [_row(rows + at, 0, now) for at in range(live)]
        self._changed = 0
        self._task: asyncio.Task[None] | None = None
        self._relation.insert(*self._live)

    def change(self, count: int) -> None:
        """Change so many live rows in turn at one timestamp."""
        now = time.time()
        changes: list[tuple[int, Row]] = []
        for _ in range(min(count, len(self._live))):
            at = self._changed % len(self._live)
            old = self._live[at]
            self._live[at] = _row(int(old[0] or 0), self._changed, now)
            changes += [(-1, old), (1, self._live[at])]
            self._changed += 1
        self._relation.change(changes)

    def run(self, per_second: float) -> None:
        """Change rows at this rate from now on; 0 stops it."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._steadily(per_second)) if per_second else None

    async def _steadily(self, per_second: float) -> None:
        loop = asyncio.get_running_loop()
        start, done = loop.time(), 0
        while True:
            await asyncio.sleep(max(_PERIOD, 1 / per_second if per_second < 1 / _PERIOD else 0))
            due = int((loop.time() - start) * per_second) - done
            if due > 0:
                self.change(due)
                done += due


def _row(number: int, value: int, now: float) -> Row:
    return (*_labels(number), f"{value}.25", f"{now:.6f}")


def _labels(at: int) -> tuple[str, ...]:
    return (str(at), f"region-{at % 8}", f"service-{at % 50}", f"host-{at}", "critical" if at % 5 == 0 else "warning")


def _run(pipe: Connection) -> None:
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    """Serve, and carry out commands until the pipe ends."""
    loads: dict[str, Load] = {}
    async with MaterializeDouble() as double:
        pipe.send(double.dsn)
        with contextlib.suppress(EOFError):
            while True:
                relation, command, *args = await asyncio.to_thread(pipe.recv)
                if command == "load":
                    loads[relation] = Load(double, relation, *args)
                else:
                    getattr(loads[relation], command)(*args)
                pipe.send(None)
