"""Load for benchmarks: a large relation that is cheap to serve, and a steady stream of changes that carry the time."""

import asyncio
import time
from typing import Final

from support.materialize import bulk
from support.materialize.bulk import Bulk
from support.materialize.catalog import Relation
from support.materialize.history import Row
from support.materialize.server import MaterializeDouble

COLUMNS: Final = (
    ("id", "int8"),
    ("region", "text"),
    ("service", "text"),
    ("host", "text"),
    ("severity", "text"),
    ("value", "numeric"),
    ("changed_at", "float8"),
)
"""``changed_at`` is the wall clock in seconds at which the row was written, 0 for rows that never change."""

_PERIOD = 0.005


class Load:
    """A relation of still rows and live ones.

    The still rows (ids from 0) are encoded once and never change. The live rows (ids after them) change in turn: an
    update replaces the value and the time; with ``flip`` a row comes and goes instead.
    """

    def __init__(
        self, double: MaterializeDouble, name: str, *, still: Bulk, live: int = 1000, retain: int | None = 60_000
    ):
        self.relation: Relation = double.create(name, list(COLUMNS), retain=retain)
        self.relation.bulk = still
        self.changed = 0
        self._first = still.count
        self._live: list[Row | None] = [None] * live
        self._next = 0
        self._task: asyncio.Task[None] | None = None

    def fill(self) -> int:
        """Let every live row be there, and return the timestamp."""
        now = time.time()
        fresh = [at for at, row in enumerate(self._live) if row is None]
        for at in fresh:
            self._live[at] = self._row(at, 0, now)
        return self.relation.change([(1, row) for at in fresh if (row := self._live[at]) is not None])

    def change(self, count: int, *, flip: bool = False) -> int:
        """Change so many live rows in turn at one timestamp, and return it."""
        now = time.time()
        changes: list[tuple[int, Row]] = []
        for _ in range(min(count, len(self._live))):
            at = self._next
            self._next = (at + 1) % len(self._live)
            old = self._live[at]
            new = None if flip and old is not None else self._row(at, self.changed, now)
            changes += [(diff, row) for diff, row in ((-1, old), (1, new)) if row is not None]
            self._live[at] = new
            self.changed += 1
        return self.relation.change(changes)

    def run(self, per_second: float, *, flip: bool = False) -> None:
        """Change rows at a steady rate from now on, in place of any rate before; 0 stops it."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._steadily(per_second, flip=flip)) if per_second > 0 else None

    async def _steadily(self, per_second: float, *, flip: bool) -> None:
        loop = asyncio.get_running_loop()
        start, done = loop.time(), 0
        while True:
            await asyncio.sleep(max(_PERIOD, 1 / per_second if per_second < 1 / _PERIOD else 0))
            due = int((loop.time() - start) * per_second) - done
            if due > 0:
                self.change(due, flip=flip)
                done += due

    def _row(self, at: int, value: int, now: float) -> Row:
        return (*_labels(self._first + at), f"{value}.25", f"{now:.6f}")


def still_rows(count: int) -> Bulk:
    """Rows that never change, encoded. A million of them take some seconds."""
    return bulk.encode((*_labels(at), f"{at}.5", "0") for at in range(count))


def _labels(at: int) -> tuple[str, ...]:
    return (str(at), f"region-{at % 8}", f"service-{at % 50}", f"host-{at}", "critical" if at % 5 == 0 else "warning")
