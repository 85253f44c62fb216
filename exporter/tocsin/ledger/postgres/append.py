"""Writing transitions and their notifications to the outbox, within the transaction of a writer."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from tocsin.ledger.base import Routed
from tocsin.ledger.postgres.outbox import keys_of, make_ready
from tocsin.ledger.postgres.values import rows_text, storable
from tocsin.ledger.rows import columns_text, transition_values
from tocsin.ledger.windows import Key, Placed, Window, Windows
from tocsin.model import Address, Columns, Notification, Transition, notification_id
from tocsin.postgres import PgConnection

_TRANSITION = ("id", "alert", "fingerprint", "kind", "started_at", "at", "shape", "row", "previous")
_NOTIFICATION = (
    "seq", "id", "transition", "channel", "created_at", "not_before", "ordering_key", "digest", "ready_at", "owner",
)  # fmt: skip
_WINDOW = ("channel", "ordering_key", "interval", "due", "digest")

_INSERT_TRANSITIONS = """
    INSERT INTO transitions SELECT * FROM json_to_recordset(%s) AS given (
      id bigint, alert text, fingerprint text, kind text, started_at bigint, at bigint, shape integer, "row" text,
      previous text)
"""
_INSERT_NOTIFICATIONS = """
    INSERT INTO notifications
      (seq, id, transition, channel, created_at, not_before, ordering_key, digest, ready_at, owner)
    SELECT * FROM json_to_recordset(%s) AS given (
      seq bigint, id text, transition bigint, channel text, created_at double precision, not_before double precision,
      ordering_key text, digest bigint, ready_at double precision, owner bigint)
    ON CONFLICT (id) DO NOTHING RETURNING seq
"""
_WRITE_WINDOWS = """
    INSERT INTO windows SELECT * FROM json_to_recordset(%s) AS given (
      channel text, ordering_key text, interval double precision, due double precision, digest bigint)
    ON CONFLICT (channel, ordering_key)
      DO UPDATE SET interval = excluded.interval, due = excluded.due, digest = excluded.digest
"""
_PENDING = """
    SELECT asked.channel, asked.ordering_key, held.seq IS NOT NULL
    FROM unnest(%s::text[], %s::text[]) AS asked (channel, ordering_key)
    LEFT JOIN LATERAL (
      SELECT n.seq FROM notifications AS n
      WHERE n.channel = asked.channel AND n.ordering_key = asked.ordering_key AND n.status = 'pending'
      ORDER BY n.seq LIMIT 1 FOR SHARE SKIP LOCKED) AS held ON true
    WHERE held.seq IS NOT NULL OR EXISTS (
      SELECT FROM notifications AS n
      WHERE n.channel = asked.channel AND n.ordering_key = asked.ordering_key AND n.status = 'pending')
"""
"""The ordering keys that have a pending notification, and whether it stays pending until the end of the transaction. If
another process settles it this moment, that process may not see what is written here: then the new one is sendable, and
a claim finds out whether it is the first."""
_WINDOWS = """
    INSERT INTO windows SELECT * FROM json_to_recordset(%s) AS given (
      channel text, ordering_key text, interval double precision, due double precision, digest bigint)
    ON CONFLICT (channel, ordering_key)
      DO UPDATE SET interval = excluded.interval, due = excluded.due, digest = excluded.digest
"""
_BLOCKED = """
    SELECT channel, ordering_key FROM unnest(%s::text[], %s::text[]) AS asked (channel, ordering_key)
    WHERE EXISTS (
      SELECT FROM notifications AS n
      WHERE n.channel = asked.channel AND n.ordering_key = asked.ordering_key AND n.status = 'pending')
"""
"""The ordering keys that have a pending notification. `_LOCK` keeps it pending until the end of the transaction."""
_LOCK = """
    SELECT asked.channel, asked.ordering_key
    FROM unnest(%s::text[], %s::text[]) AS asked (channel, ordering_key), LATERAL (
      SELECT FROM notifications AS n
      WHERE n.channel = asked.channel AND n.ordering_key = asked.ordering_key AND n.status = 'pending'
      ORDER BY n.seq LIMIT 1 FOR SHARE SKIP LOCKED) AS held
"""
_WINDOWS = """
    SELECT w.channel, w.ordering_key, w.interval, w.due, w.digest, w.digest IS NOT NULL AND EXISTS (
      SELECT FROM notifications AS n WHERE n.digest = w.digest AND n.status = 'pending')
    FROM windows AS w JOIN unnest(%s::text[], %s::text[]) AS asked (channel, ordering_key)
      USING (channel, ordering_key)
    ORDER BY 1, 2 FOR UPDATE OF w
"""


class Appended(NamedTuple):
    """What was appended."""

    notifications: list[Notification]
    """Those that are new, of a digest only the first."""
    owned: set[int]
    """Those that this process claimed in the same transaction, by `seq`."""


class _Given(NamedTuple):
    id: str
    transition: Transition
    place: int
    """Of the transition in the batch."""
    address: Address

    @property
    def key(self) -> Key:
        return self.address.channel, self.address.ordering_key or self.transition.fingerprint


async def shape_number(db: PgConnection, columns: Columns) -> int:
    """The number of a list of columns. Not cached: a rollback would undo it."""
    text = storable(columns_text(columns))
    cursor = await db.execute(
        "WITH new AS (INSERT INTO shapes (columns) SELECT %s WHERE NOT EXISTS (SELECT FROM shapes WHERE columns = %s)"
        " ON CONFLICT (columns) DO NOTHING RETURNING id)"
        " SELECT id FROM new UNION ALL SELECT id FROM shapes WHERE columns = %s",
        (text, text, text),
    )
    if (found := await cursor.fetchone()) is None:  # another process has inserted it this moment
        return await shape_number(db, columns)
    return int(found[0])


async def append(
    db: PgConnection, routed: Iterable[Routed], now: float, owner: int, room: Callable[[str], int]
) -> Appended:
    """Write transitions and their notifications. `room`: how many of a channel this process claims at once."""
    batch = [(transition, addresses) for transition, addresses in routed if addresses]
    if not batch:
        return Appended([], set())
    given = [
        _Given(notification_id(transition, address.channel), transition, place, address)
        for place, (transition, addresses) in enumerate(batch)
        for address in addresses
    ]
    numbers = await _numbers(db, len(batch) + len(given))
    placing = await _placing(db, given, now, owner, room)
    rows = []
    for one, seq in zip(given, numbers[len(batch) :], strict=True):
        if (made := placing.place(one, seq, numbers[one.place])) is not None:
            rows.append(made)
    await _insert_transitions(db, [transition for transition, _ in batch], numbers)
    await placing.write_windows(db)
    cursor = await db.execute(_INSERT_NOTIFICATIONS, (rows_text(_NOTIFICATION, rows),))
    new = {row[0] for row in await cursor.fetchall()}
    if len(new) < len(given):
        await db.execute(
            "DELETE FROM transitions WHERE id = ANY(%s)"
            " AND NOT EXISTS (SELECT FROM notifications WHERE transition = transitions.id)",
            (numbers[: len(batch)],),
        )
        # One that is known already was taken for the first of its ordering key.
        await make_ready(db, {one.key for one in given})
    notifications = [one for one in placing.notifications if one.seq in new]
    return Appended(notifications, placing.owned & new)


class _Placing:
    """Decides of each notification of a batch when it may be sent and by whom."""

    def __init__(
        self,
        pending: Mapping[Key, bool],
        known: Iterable[str],
        windows: Windows,
        now: float,
        owner: int,
        room: Callable[[str], int],
    ) -> None:
        """`pending`: see `_PENDING`. `known`: ids of merged notifications that were written before."""
        self.notifications: list[Notification] = []
        """To send, of a digest only the first."""
        self.owned: set[int] = set()
        self._pending = dict(pending)
        self._known = set(known)
        self._windows = windows
        self._now = now
        self._owner = owner
        self._room = room
        self._taken: Counter[str] = Counter()

    def place(self, one: _Given, seq: int, transition: int) -> tuple[object, ...] | None:
        """The columns of a notification; None if it was written before."""
        placed = Placed(None, 0.0, first=True)
        if one.address.interval:
            if one.id in self._known:
                return None
            self._known.add(one.id)
            placed = self._windows.place(one.address, seq)
        channel, key = one.key
        blocked = self._pending.get(one.key)
        self._pending[one.key] = True
        mine = blocked is None and not placed.due and self._taken[channel] < self._room(channel)
        if mine:
            self._taken[channel] += 1
            self.owned.add(seq)
        if placed.first:
            self.notifications.append(
                Notification(
                    seq,
                    one.id,
                    channel,
                    one.transition,
                    key,
                    placed.digest,
                    created_at=self._now,
                    not_before=placed.due,
                )
            )
        ready_at = None if blocked else placed.due
        owner = self._owner if mine else None
        stored = storable(channel), self._now, placed.due, storable(key), placed.digest
        return (seq, one.id, transition, *stored, ready_at, owner)

    async def write_windows(self, db: PgConnection) -> None:
        """Write the windows that were opened, or that gather a digest now."""
        if changed := self._windows.changed:
            rows = [
                (*map(storable, key), window.interval, window.due, window.digest) for key, window in changed.items()
            ]
            await db.execute(_WRITE_WINDOWS, (rows_text(_WINDOW, rows),))


async def _placing(
    db: PgConnection, given: Sequence[_Given], now: float, owner: int, room: Callable[[str], int]
) -> _Placing:
    cursor = await db.execute(_PENDING, keys_of({one.key for one in given}))
    pending = {(channel, key): held for channel, key, held in await cursor.fetchall()}
    known: list[str] = []
    stored: dict[Key, Window] = {}
    if merged := [one for one in given if one.address.interval]:
        cursor = await db.execute("SELECT id FROM notifications WHERE id = ANY(%s)", ([one.id for one in merged],))
        known = [row[0] for row in await cursor.fetchall()]
        asked = {(one.address.channel, one.address.ordering_key) for one in merged}
        cursor = await db.execute(_WINDOWS, keys_of(asked))
        stored = {(channel, key): Window(*window) for channel, key, *window in await cursor.fetchall()}
    return _Placing(pending, known, Windows(stored.get, now), now, owner, room)


async def _numbers(db: PgConnection, count: int) -> list[int]:
    """Numbers in order. Those of a transaction that is rolled back are lost, never used twice."""
    cursor = await db.execute("SELECT array_agg(nextval('numbers')) FROM generate_series(1, %s)", (count,))
    row = await cursor.fetchone()
    assert row is not None
    return sorted(row[0])


async def _insert_transitions(db: PgConnection, transitions: Sequence[Transition], numbers: Sequence[int]) -> None:
    shapes: dict[int, int] = {}  # by identity: documents alternate between a few lists of columns
    rows = []
    for transition, number in zip(transitions, numbers, strict=False):
        shape = shapes.get(id(transition.columns))
        if shape is None:
            shape = shapes[id(transition.columns)] = await shape_number(db, transition.columns)
        rows.append(transition_values(number, transition._replace(alert=storable(transition.alert)), shape))
    await db.execute(_INSERT_TRANSITIONS, (rows_text(_TRANSITION, rows),))
