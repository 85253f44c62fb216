"""Silences and what they hold, as in `tocsin.ledger.silences`."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from tocsin.ledger.base import SILENCED
from tocsin.ledger.postgres.outbox import make_ready
from tocsin.ledger.postgres.records import order_again
from tocsin.ledger.postgres.transaction import Job, Transaction, answering, plain
from tocsin.ledger.postgres.values import names_text, rows_text, storable
from tocsin.ledger.silences import (
    HELD,
    SILENCE,
    STEP,
    Closing,
    all_closed,
    by_silence,
    earlier,
    held_from,
    silence_of,
    values,
    waiting,
)
from tocsin.ledger.silencing import Judged
from tocsin.silences import OpenSilences, Silence
from tocsin.silences.ending import Held, came_and_went

T = TypeVar("T")

_IS_PENDING = "m.status IS NOT DISTINCT FROM 'pending'"
_IS_HELD = "n.status IS NOT DISTINCT FROM 'held'"
"""As in `outbox.py`: with `=`, an index of everything pending, or held, would be read for each row."""
_ASKED = """
    WHERE n.seq = ANY(ARRAY(
      SELECT m.seq FROM unnest(%s::text[]) AS asked (row),
        LATERAL (SELECT id FROM transitions WHERE fingerprint = asked.row OFFSET 0) AS u,
        LATERAL (SELECT seq FROM notifications WHERE transition = u.id OFFSET 0) AS m
    ))
"""
"""Of rows by their fingerprints. `OFFSET` has each looked up by itself: tables that have just grown look small."""
_OF_ALL_CHANNELS = HELD.format(
    is_pending=_IS_PENDING,
    rows="notifications AS n",
    where=f"{_ASKED} AND {_IS_HELD} ORDER BY n.seq",
)
_OF_ROWS = HELD.format(
    is_pending=_IS_PENDING,
    rows="notifications AS n",
    where=f"{_ASKED} AND n.channel = %s AND {_IS_HELD} ORDER BY n.seq FOR UPDATE OF n",
)
_OPEN = "SELECT id FROM silences WHERE id = ANY(%s) AND closed_at IS NULL ORDER BY id FOR UPDATE"
"""Who closes one of them waits until the end of this transaction, and then finds what it holds."""

# Reading.


def unclosed(db: Transaction) -> Callable[[], list[Silence]]:
    """The silences that have not been closed."""
    found = db.add(f"{SILENCE} WHERE closed_at IS NULL")
    return lambda: [silence_of(row) for row in found.rows]


def listed(db: Transaction) -> Callable[[], list[Silence]]:
    """See `Ledger.list_silences`."""
    found = db.add(f"{SILENCE} ORDER BY created_at DESC, id")
    return lambda: [silence_of(row) for row in found.rows]


def held(db: Transaction) -> Callable[[], dict[str, dict[str, int]]]:
    """See `Ledger.held`."""
    found = db.add(
        "SELECT silence, channel, count(*) FROM notifications WHERE status = 'held' GROUP BY silence, channel"
    )
    return lambda: by_silence(found.rows)


def held_of(db: Transaction, fingerprint: str) -> Callable[[], list[Held]]:
    """See `Ledger.held_of`."""
    found = db.add(_OF_ALL_CHANNELS, (names_text([fingerprint]),))
    return lambda: [held_from(row) for row in found.rows]


# Changing.


def add(db: Transaction, silence: Silence) -> None:
    """See `Ledger.silence`."""
    db.do(
        "INSERT INTO silences (id, matchers, starts_at, ends_at, reason, made_by, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING",
        tuple(storable(value) if isinstance(value, str) else value for value in values(silence)),
    )


async def end(db: Transaction, id_: str, now: float) -> Callable[[], bool]:
    """See `Ledger.end_silence`."""
    statement = "UPDATE silences SET ends_at = %s WHERE id = %s AND closed_at IS NULL AND ends_at > %s"
    ended = db.add(statement, (now, storable(id_), now))
    return lambda: ended.count > 0


_HOLD = """
    UPDATE notifications AS n SET status = 'held', silence = given.silence, ready_at = NULL, owner = NULL
    FROM json_to_recordset(%s) AS given (seq bigint, silence text)
    WHERE n.seq = given.seq AND n.status IS NOT DISTINCT FROM 'pending'
    RETURNING n.seq, n.channel, n.ordering_key
"""


async def withhold(db: Transaction, channel: str, judged: Judged, now: float, owner: int) -> Callable[[], set[int]]:
    """See `Outbox.withhold`."""
    gone: set[int] = set()
    if judged.held:
        found = await db.get(_OPEN, (sorted({*judged.held.values()}),))
        still = {id_ for (id_,) in found.rows}
        given = [(seq, silence) for seq, silence in sorted(judged.held.items()) if silence in still]
        held = await db.get(_HOLD, (rows_text(("seq", "silence"), given),))
        gone |= judged.held.keys()  # or given back, where the silence has been closed: what it held goes before
        db.do(_RELEASE, (sorted(gone), owner))
        make_ready(db, {(name, key) for _, name, key in held.rows})
    fingerprints = names_text(one.transition.fingerprint for one in judged.passing)
    rows = await db.get(_OF_ROWS, (fingerprints, storable(channel)))
    if before := earlier(judged, rows.rows):
        why = came_and_went(before)
        _drop(db, [one for one in before if one.seq in why], why, now)
        _free(db, [one for one in before if one.seq not in why], now, passes=True)
        keys = waiting(judged, before)
        passing = {one.seq for one in judged.passing if (one.channel, one.ordering_key) in keys}
        gone |= passing
        db.do(_RELEASE, (sorted(passing), owner))
        order_again(db, keys)
    return lambda: gone


_RELEASE = "UPDATE notifications SET owner = NULL WHERE seq = ANY(%s) AND owner = %s"


_ENDED = """
    SELECT id FROM silences WHERE closed_at IS NULL AND ends_at <= %s ORDER BY ends_at, id LIMIT 1
    FOR UPDATE SKIP LOCKED
"""
_PAGE = """
    SELECT DISTINCT t.fingerprint FROM (
      SELECT transition FROM notifications WHERE status = 'held' AND silence = %s ORDER BY channel, created_at LIMIT %s
    ) AS page JOIN transitions AS t ON t.id = page.transition
"""


async def close(db: Transaction, now: float) -> Callable[[], Closing]:
    """Send on or drop some of what an ended silence holds; see `Ledger.close_silences`."""
    ended = await db.get(_ENDED, (now,))
    if not ended.rows:  # or another process is about it
        return Closing
    id_ = ended.rows[0][0]
    page = await db.get(_PAGE, (id_, STEP))
    if not page.rows:
        db.do("UPDATE silences SET closed_at = %s WHERE id = %s", (now, id_))
        closed = db.add(f"{SILENCE} WHERE id = %s", (id_,))
        return lambda: Closing(silence_of(closed.rows[0]), more=True)
    fingerprints = names_text(fingerprint for (fingerprint,) in page.rows)
    found = [held_from(row) for row in (await db.get(f"{_OF_ALL_CHANNELS} FOR UPDATE OF n", (fingerprints,))).rows]
    why = came_and_went(found)
    _drop(db, [one for one in found if one.seq in why], why, now)
    _free(db, [one for one in found if one.seq not in why and one.silence == id_], now, passes=False)
    return lambda: Closing(more=True)


_DROP = """
    UPDATE notifications AS n SET status = 'dropped', settled_at = %s, reason = %s, detail = given.detail
    FROM json_to_recordset(%s) AS given (seq bigint, detail text) WHERE n.seq = given.seq
"""


def _drop(db: Transaction, held: Sequence[Held], why: Mapping[int, str], now: float) -> None:
    details = [(one.seq, f"{why[one.seq]} ({one.silence})") for one in held]
    db.do(_DROP, (now, SILENCED, rows_text(("seq", "detail"), details)))
    _count(db, "dropped", held)


def _free(db: Transaction, held: Sequence[Held], now: float, *, passes: bool) -> None:
    """Make held notifications pending again. Waiting does not count against `max_age`."""
    db.do(
        "UPDATE notifications SET status = 'pending', created_at = %s, passes = CASE WHEN %s THEN 1 ELSE passes END"
        " WHERE seq = ANY(%s)",
        (now, passes, [one.seq for one in held]),
    )
    _count(db, "released", held)
    order_again(db, {(one.channel, one.ordering_key) for one in held})


def _count(db: Transaction, column: str, held: Iterable[Held]) -> None:
    for silence, count in sorted(Counter(one.silence for one in held).items()):
        db.do(f"UPDATE silences SET {column} = {column} + %s WHERE id = %s", (count, silence))  # noqa: S608 - fixed names


class KeepsSilences(ABC):
    """See `tocsin.ledger.silencing.Silencing`. A part of the ledger in PostgreSQL."""

    silences: OpenSilences
    _clock: Callable[[], float]

    @abstractmethod
    async def _change(self, job: Job[T]) -> T: ...

    @abstractmethod
    async def _read(self, job: Job[T]) -> T: ...

    async def silence(self, silence: Silence) -> None:
        await self._change(plain(lambda db: add(db, silence)))
        await self._read_silences()

    async def end_silence(self, id_: str) -> bool:
        now = self._clock()
        ended = await self._change(lambda db: end(db, id_, now))
        await self._read_silences()
        return ended

    async def list_silences(self) -> list[Silence]:
        return await self._read(answering(listed))

    async def held(self) -> dict[str, dict[str, int]]:
        return await self._read(answering(held))

    async def held_of(self, fingerprint: str) -> list[Held]:
        return await self._read(answering(lambda db: held_of(db, fingerprint)))

    async def close_silences(self) -> list[Silence]:
        now = self._clock()
        closed = await all_closed(lambda: self._change(lambda db: close(db, now)))
        await self._read_silences()
        return closed

    async def _read_silences(self) -> None:
        self.silences.all = await self._read(answering(unclosed))
