"""The tables of a ledger as any store has them, and copying them from one to another."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from tocsin.errors import LedgerError, LedgerReason

Row = Sequence[Any]


class Table(NamedTuple):
    """A table. Values are text, numbers and None, the same in every store."""

    name: str
    key: int
    """So many of its first columns identify a row."""
    columns: tuple[str, ...]


TABLES = (
    Table("shapes", 1, ("id", "columns")),
    Table("alerts", 1, ("alert", "definition", "shape", "frontier")),
    Table("firings", 2, ("alert", "fingerprint", "phase", "started_at", "marked_at", "row", "counts")),
    Table("transitions", 1, ("id", "alert", "fingerprint", "kind", "started_at", "at", "shape", "row", "previous")),
    Table(
        "notifications",
        1,
        (
            *("seq", "id", "transition", "channel", "status", "attempts", "created_at", "not_before", "settled_at"),
            *("reason", "detail", "ordering_key", "digest", "generation", "ready_at", "request", "silence", "passes"),
        ),
    ),
    Table("windows", 2, ("channel", "ordering_key", "interval", "due", "digest")),
    Table("attempts", 1, ("number", "seq", "at", "reason", "detail")),
    Table("sightings", 2, ("alert", "key", "event", "until")),
    Table("positions", 2, ("source", "partition", "position")),
    Table(
        "silences",
        1,
        (
            *("id", "matchers", "starts_at", "ends_at", "reason", "made_by", "created_at"),
            *("closed_at", "released", "dropped"),
        ),
    ),
)
_STEP = 2000
"""Rows in one transaction."""


class Store(Protocol):
    """A ledger that nothing else uses, as tables. Every method raises LedgerError."""

    async def copying(self) -> str | None:
        """What is being copied into it, if a copy has begun and not ended."""
        ...

    async def mark(self, source: str | None) -> None:
        """Note what is being copied into it. While it is there, no process runs on the ledger. None: the copy is
        complete."""
        ...

    async def rows(self, table: Table, after: Row | None, limit: int) -> list[Row]:
        """The next rows in the order of the key, in which nothing is NULL. `after`: a key; None: from the first."""
        ...

    async def insert(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows, except those whose key is there."""
        ...

    async def count(self, table: Table) -> int:
        """How many rows there are."""
        ...


def unfinished(source: str) -> str:
    """Why a ledger into which something is being copied cannot be used."""
    return f"an unfinished copy of {source}; run `tocsin ledger copy` again"


async def copy(
    source: Store, target: Store, name: str, progress: Callable[[str, int, int], None] = lambda *_: None
) -> int:
    """Copy everything, and compare it. An interrupted copy of the same source goes on. Returns the number of rows.

    `name`: of the source. `progress`: called with a table, how many of its rows are there, and how many there are.
    Raises LedgerError, also if the target holds anything else."""
    begun = await target.copying()
    if begun is None and any([await target.count(table) for table in TABLES]):
        raise LedgerError("the target is not empty; copy into a new ledger", LedgerReason.LOCKED)
    if begun not in (None, name):
        raise LedgerError(f"the target holds a part of {begun}; go on with that, or empty it", LedgerReason.LOCKED)
    if await source.copying() is not None:
        raise LedgerError("the source itself is an unfinished copy", LedgerReason.LOCKED)
    await target.mark(name)
    for table in TABLES:
        total, done = await source.count(table), 0
        async for rows in _all(source, table):
            await target.insert(table, rows)
            done += len(rows)
            progress(table.name, done, total)
    found = 0
    for table in TABLES:
        progress(f"comparing {table.name}", 0, 0)
        count, there = await _sum(source, table), await _sum(target, table)
        if count != there:
            raise LedgerError(f"the table {table.name} is not the same after the copy", LedgerReason.FAILED)
        found += count[0]
    await target.mark(None)
    return found


async def _all(store: Store, table: Table) -> AsyncIterator[list[Row]]:
    after: Row | None = None
    while rows := await store.rows(table, after, _STEP):
        yield rows
        after = rows[-1][: table.key]


async def _sum(store: Store, table: Table) -> tuple[int, int]:
    """The number of rows, and a sum over them that does not depend on their order, which each store has its own of."""
    count = total = 0
    async for rows in _all(store, table):
        for row in rows:
            total += int.from_bytes(blake2b(json.dumps([*row]).encode(), digest_size=8).digest())
        count += len(rows)
    return count, total % 2**64
