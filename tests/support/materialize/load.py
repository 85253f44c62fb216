"""Load for benchmarks: rows that never change and are cheap to serve, and rows that change at a steady rate."""

import asyncio
import time

from support.materialize.history import Row
from support.materialize.relation import encode
from support.materialize.server import MaterializeDouble

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


class Load:
    """A relation of `rows` still rows (ids from 0) and `live` ones after them, whose value and time change in turn."""

    def __init__(self, double: MaterializeDouble, name: str, rows: int, live: int) -> None:
        self.relation = double.create(name, _COLUMNS, retain=60_000)
        self.relation.bulk = encode((*_labels(at), f"{at}.5", "0") for at in range(rows))
        now = time.time()
        self._live = [_row(rows + at, 0, now) for at in range(live)]
        self._changed = 0
        self._task: asyncio.Task[None] | None = None
        self.relation.insert(*self._live)

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
        self.relation.change(changes)

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
