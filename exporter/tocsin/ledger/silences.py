"""Silences and what they hold, as SQL.

A notification that is held has the status `held`, so that nothing which looks for pending ones finds it.
"""

import json
import sqlite3
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from tocsin.ledger.base import SILENCED
from tocsin.ledger.opening import one
from tocsin.ledger.outbox import make_ready
from tocsin.ledger.records import order_again
from tocsin.ledger.silencing import Judged
from tocsin.ledger.windows import Key
from tocsin.model import Kind
from tocsin.silences import OpenSilences, Silence, parse
from tocsin.silences.ending import Held, came_and_went

T = TypeVar("T")

SILENCE = """
    SELECT id, matchers, starts_at, ends_at, reason, made_by, created_at, closed_at, released, dropped FROM silences
"""
HELD = """
    SELECT n.seq, n.channel, n.ordering_key, n.silence, t.alert, t.fingerprint, t.started_at, t.kind, EXISTS (
        SELECT 1 FROM firings AS f
        WHERE f.alert = t.alert AND f.fingerprint = t.fingerprint AND f.started_at = t.started_at
      ) OR EXISTS (
        SELECT 1 FROM transitions AS u CROSS JOIN notifications AS m
        WHERE u.fingerprint = t.fingerprint AND u.started_at = t.started_at AND u.alert = t.alert
          AND m.transition = u.id AND m.channel = n.channel AND {is_pending}),
      n.passes = 2 OR n.attempts > 0
    FROM {rows} JOIN transitions AS t ON t.id = n.transition {where}
"""
"""Held notifications. Whether each goes on: see `tocsin.silences.ending.Held`."""
_IS_PENDING = "+m.status = 'pending'"
"""Without the sign, an index of everything pending would be read for each row."""
_OF_ROWS = HELD.format(
    is_pending=_IS_PENDING,
    rows="json_each(?2) AS asked CROSS JOIN transitions AS t0 ON t0.fingerprint = asked.value"
    " CROSS JOIN notifications AS n ON n.transition = t0.id",
    where="WHERE n.channel = ?1 AND +n.status = 'held' ORDER BY n.seq",
)
_OF_ALL_CHANNELS = HELD.format(
    is_pending=_IS_PENDING,
    rows="json_each(?) AS asked CROSS JOIN transitions AS t0 ON t0.fingerprint = asked.value"
    " CROSS JOIN notifications AS n ON n.transition = t0.id",
    where="WHERE +n.status = 'held' ORDER BY n.seq",
)
STEP = 500
"""Held notifications that one transaction sends on or drops, and those of the same rows: others do not wait long."""


def silence_of(row: Sequence[Any]) -> Silence:
    """A silence from the columns of `SILENCE`."""
    id_, matchers, starts_at, ends_at, reason, by, created_at, closed_at, released, dropped = row
    return Silence(
        id=id_,
        matchers=parse(matchers),
        starts_at=starts_at,
        ends_at=ends_at,
        reason=reason,
        by=by,
        created_at=created_at,
        closed_at=closed_at,
        released=released,
        dropped=dropped,
    )


def values(silence: Silence) -> tuple[object, ...]:
    """The columns of a new silence."""
    plain = (silence.id, str(silence.matchers), silence.starts_at, silence.ends_at)
    return (*plain, silence.reason, silence.by, silence.created_at)


def held_from(row: Sequence[Any]) -> Held:
    """A held notification from the columns of `HELD`."""
    *plain, kind, goes_on, may_be_known = row
    return Held._make([*plain, Kind(kind), bool(goes_on), bool(may_be_known)])


# Reading.


def unclosed(db: sqlite3.Connection) -> list[Silence]:
    """The silences that have not been closed."""
    return [silence_of(row) for row in db.execute(f"{SILENCE} WHERE closed_at IS NULL")]


def listed(db: sqlite3.Connection) -> list[Silence]:
    """See `Ledger.list_silences`."""
    return [silence_of(row) for row in db.execute(f"{SILENCE} ORDER BY created_at DESC, id")]


def held(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """See `Ledger.held`."""
    counts = "SELECT silence, channel, count(*) FROM notifications WHERE status = 'held' GROUP BY silence, channel"
    return by_silence(db.execute(counts))


def held_of(db: sqlite3.Connection, fingerprints: Sequence[str]) -> list[Held]:
    """What silences hold of rows."""
    return [held_from(row) for row in db.execute(_OF_ALL_CHANNELS, (json.dumps(fingerprints),))]


def by_silence(counts: Iterable[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    """Counts by silence and channel."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for silence, channel, count in counts:
        found[silence][channel] = count
    return dict(found)


# Changing.


def add(db: sqlite3.Connection, silence: Silence) -> None:
    """See `Ledger.silence`."""
    db.execute(
        "INSERT OR IGNORE INTO silences (id, matchers, starts_at, ends_at, reason, made_by, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        values(silence),
    )


def end(db: sqlite3.Connection, id_: str, now: float) -> bool:
    """See `Ledger.end_silence`."""
    ended = db.execute(
        "UPDATE silences SET ends_at = ? WHERE id = ? AND closed_at IS NULL AND ends_at > ?", (now, id_, now)
    )
    return ended.rowcount > 0


_HOLD = """
    UPDATE notifications SET status = 'held', silence = ?1, ready_at = NULL,
      passes = CASE WHEN passes = 0 AND created_at <= ?3 THEN 2 ELSE passes END
    WHERE seq = ?2 AND status = 'pending'
      AND EXISTS (SELECT 1 FROM silences WHERE id = ?1 AND closed_at IS NULL)
    RETURNING channel, ordering_key
"""


def withhold(db: sqlite3.Connection, channel: str, judged: Judged, now: float, since: float) -> set[int]:
    """See `Withholding.withhold`. `since`: what was written until then may have been sent by the process before."""
    gone: set[int] = set()
    freed = set()
    for seq, silence in judged.held.items():
        if (key := db.execute(_HOLD, (silence, seq, since)).fetchone()) is not None:
            freed.add(key)
        gone.add(seq)  # or given back, where the silence has been closed: what it held goes before
    make_ready(db, freed)
    fingerprints = json.dumps([one.transition.fingerprint for one in judged.passing])
    before = earlier(judged, db.execute(_OF_ROWS, (channel, fingerprints)))
    if before:
        why = came_and_went(before)
        _drop(db, [one for one in before if one.seq in why], why, now)
        _free(db, [one for one in before if one.seq not in why], now, passes=True)
        keys = waiting(judged, before)
        gone |= {one.seq for one in judged.passing if (one.channel, one.ordering_key) in keys}
        order_again(db, keys)
    return gone


def earlier(judged: Judged, rows: Iterable[Sequence[Any]]) -> list[Held]:
    """Of held notifications of the same rows those that go before one that passes. `rows`: columns of `HELD`."""
    last = {one.transition.fingerprint: one.seq for one in sorted(judged.passing, key=attrgetter("seq"))}
    return [one for row in rows if (one := held_from(row)).seq < last[one.fingerprint]]


def waiting(judged: Judged, before: Iterable[Held]) -> set[Key]:
    """The ordering keys of what passes, and waits for held notifications of its rows that go before it."""
    rows = {one.fingerprint for one in before}
    return {(one.channel, one.ordering_key) for one in judged.passing if one.transition.fingerprint in rows}


class Closing(NamedTuple):
    """One step of closing silences."""

    closed: Silence | None = None
    """What is closed now: nothing that it held is left."""
    more: bool = False
    """Whether there is another step."""


async def all_closed(step: Callable[[], Awaitable[Closing]]) -> list[Silence]:
    """Take one step after another. Returns what was closed."""
    closed = []
    while (made := await step()).more:
        closed += [made.closed] if made.closed else []
    return closed


_ENDED = "SELECT id FROM silences WHERE closed_at IS NULL AND ends_at <= ? ORDER BY ends_at, id LIMIT 1"
_PAGE = """
    SELECT DISTINCT t.fingerprint FROM (
      SELECT transition FROM notifications WHERE status = 'held' AND silence = ? ORDER BY channel, created_at LIMIT ?
    ) AS page JOIN transitions AS t ON t.id = page.transition
"""


def close(db: sqlite3.Connection, now: float) -> Closing:
    """Send on or drop some of what an ended silence holds; see `Ledger.close_silences`."""
    if (id_ := one(db, _ENDED, now)) is None:
        return Closing()
    rows = [fingerprint for (fingerprint,) in db.execute(_PAGE, (id_, STEP))]
    if not rows:
        db.execute("UPDATE silences SET closed_at = ? WHERE id = ?", (now, id_))
        return Closing(silence_of(db.execute(f"{SILENCE} WHERE id = ?", (id_,)).fetchone()), more=True)
    found = held_of(db, rows)
    why = came_and_went(found)
    _drop(db, [each for each in found if each.seq in why], why, now)
    _free(db, [each for each in found if each.seq not in why and each.silence == id_], now, passes=False)
    return Closing(more=True)


def _drop(db: sqlite3.Connection, held: Sequence[Held], why: Mapping[int, str], now: float) -> None:
    db.executemany(
        "UPDATE notifications SET status = 'dropped', settled_at = ?, reason = ?, detail = ? WHERE seq = ?",
        ((now, SILENCED, f"{why[one.seq]} ({one.silence})", one.seq) for one in held),
    )
    _count(db, "dropped", held)


def _free(db: sqlite3.Connection, held: Sequence[Held], now: float, *, passes: bool) -> None:
    """Make held notifications pending again. Waiting does not count against `max_age`."""
    db.executemany(
        "UPDATE notifications SET status = 'pending', created_at = ?, passes = max(passes * ?, ?) WHERE seq = ?",
        ((now, not passes, passes, one.seq) for one in held),
    )
    _count(db, "released", held)
    order_again(db, {(one.channel, one.ordering_key) for one in held})


def _count(db: sqlite3.Connection, column: str, held: Iterable[Held]) -> None:
    counts = Counter(one.silence for one in held)
    db.executemany(
        f"UPDATE silences SET {column} = {column} + ? WHERE id = ?",  # noqa: S608 - fixed names
        ((count, silence) for silence, count in counts.items()),
    )


class KeepsSilences(ABC):
    """See `tocsin.ledger.silencing.Silencing`. A part of the ledger in a file."""

    silences: OpenSilences
    _clock: Callable[[], float]

    @abstractmethod
    async def _change(self, job: Callable[[sqlite3.Connection], T]) -> T: ...

    @abstractmethod
    async def _search(self, job: Callable[[sqlite3.Connection], T]) -> T: ...

    async def silence(self, silence: Silence) -> None:
        await self._change(lambda db: add(db, silence))
        await self._read_silences()

    async def end_silence(self, id_: str) -> bool:
        now = self._clock()
        ended = await self._change(lambda db: end(db, id_, now))
        await self._read_silences()
        return ended

    async def list_silences(self) -> list[Silence]:
        return await self._search(listed)

    async def held(self) -> dict[str, dict[str, int]]:
        return await self._search(held)

    async def held_of(self, fingerprint: str) -> list[Held]:
        return await self._search(lambda db: held_of(db, [fingerprint]))

    async def close_silences(self) -> list[Silence]:
        now = self._clock()
        closed = await all_closed(lambda: self._change(lambda db: close(db, now)))
        await self._read_silences()
        return closed

    async def _read_silences(self) -> None:
        self.silences.all = await self._search(unclosed)
