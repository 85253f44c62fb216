"""Small commits and their parts, for tests with a real ledger."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from support.postgres import shared_postgres
from tocsin.firing import Firing, Phase
from tocsin.ledger import postgres
from tocsin.ledger.base import Commit, Filter, Ledger, Record, Settlement, Status, Stored
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Address, Column, Columns, Kind, Notification, Row, Transition, fingerprint

COLUMNS: Columns = (Column(name="order_id", oid=23), Column(name="note", oid=25))
HOSTILE = [
    "",
    "\0",
    "'; DROP TABLE firings; --",
    '"\\/\b\f\n\r\t\x7f',
    "\\N",
    "a\n\\.\n",
    "é€😀👩‍👩‍👧\u202e\ufeff\U0010ffff",
    "x" * 1_000_000,
]
"""Texts that a store may not keep unchanged."""


class OpenLedger(Protocol):
    """How a contract test opens an implementation: twice with one path means the same store."""

    async def __call__(self, path: Path, *, clock: Callable[[], float] = ..., runs_alerts: bool = ...) -> Ledger: ...


async def _sqlite(path: Path, **settings: Any) -> Ledger:
    return open_ledger(path, **settings)


async def _postgres(path: Path, **settings: Any) -> Ledger:
    schema = f"ledger_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    server = postgres.LedgerServer(dsn=SecretStr(shared_postgres().dsn()), namespace=schema)
    return await postgres.open_ledger(server, **settings)


IMPLEMENTATIONS: dict[str, OpenLedger] = {"sqlite": _sqlite, "postgres": _postgres}


def firing(
    key: str | None = "1",
    *,
    alert: str = "late",
    phase: Phase = Phase.FIRING,
    started_at: int = 1000,
    note: str | None = "x",
) -> Firing:
    """A firing of one row, there once."""
    row: Row = (key, note)
    return Firing(
        fingerprint=fingerprint(alert, [key]),
        phase=phase,
        started_at=started_at,
        marked_at=started_at,
        row=row,
        counts=((1, row),),
    )


def transition(
    key: str | None = "1",
    kind: Kind = Kind.FIRED,
    *,
    alert: str = "late",
    at: int = 1000,
    started_at: int | None = None,
    note: str | None = "x",
    columns: Columns = COLUMNS,
    previous: Row | None = None,
) -> Transition:
    """A transition of a key. Without `started_at`, an episode that starts with it."""
    return Transition(
        alert=alert,
        fingerprint=fingerprint(alert, [key]),
        kind=kind,
        started_at=at if started_at is None else started_at,
        at=at,
        columns=columns,
        row=(key, note),
        previous=previous,
    )


def commit(
    transitions: Iterable[Transition] = (),
    *,
    to: Sequence[str] = ("hook",),
    alert: str = "late",
    frontier: int | None = 1001,
    saved: Sequence[Firing] = (),
    gone: Sequence[str] = (),
    columns: Columns = COLUMNS,
    replace: bool = False,
) -> Commit:
    """A commit whose transitions all go to the channels `to`."""
    return Commit(
        alert=alert,
        definition=f"definition of {alert}",
        columns=columns,
        frontier=frontier,
        saved=saved,
        gone=gone,
        transitions=[(transition, [Address(channel=name) for name in to]) for transition in transitions],
        replace=replace,
    )


def delivered(notification: Notification, **more: Any) -> Settlement:
    """The settlement of a successful attempt."""
    return settlement(notification, Status.DELIVERED, **more)


def settlement(notification: Notification, status: Status, **more: Any) -> Settlement:
    """The settlement of one more attempt, with other fields as in `more`."""
    reason, detail = ("", "") if status is Status.DELIVERED else ("timeout", "no answer")
    of = notification
    fields: dict[str, Any] = {"attempts": of.attempts + 1, "reason": reason, "detail": detail} | more
    return Settlement(seq=of.seq, channel=of.channel, ordering_key=of.ordering_key, status=status, **fields)


async def sendable(ledger: Ledger, channel: str = "hook", limit: int = 1000) -> list[Notification]:
    """Return the heads that may be sent now, released again."""
    found = await ledger.claim(channel, limit)
    await ledger.release(found.heads)
    return list(found.heads)


async def stored(ledger: Ledger, alert: str = "late") -> Stored:
    """Return the stored state of an alert."""
    found = await ledger.load(alert)
    assert found is not None
    return found


async def record(ledger: Ledger, notification: Notification) -> Record:
    """Return the record of a notification."""
    (found,) = await ledger.find(Filter(id=notification.id))
    return found


async def fired(ledger: Ledger, *keys: str, to: Sequence[str] = ("hook",), at: int = 1000) -> list[Notification]:
    """Commit a fired notification for each key and channel."""
    return await ledger.commit(commit([transition(key, at=at) for key in keys], to=to))
