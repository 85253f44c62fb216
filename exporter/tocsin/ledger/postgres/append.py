"""Writing transitions and their notifications to the outbox, within the transaction of a writer."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from tocsin.ledger.base import Routed
from tocsin.ledger.postgres.outbox import keys_of, make_ready
from tocsin.ledger.postgres.transaction import Result, Transaction
from tocsin.ledger.postgres.values import rows_text, storable
from tocsin.ledger.rows import columns_text, transition_values
from tocsin.ledger.windows import Key, Placed, Window, Windows
from tocsin.model import Address, Columns, Notification, Transition, notification_id

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


class Shapes:
    """The table `shapes`: lists of columns by number, which never changes its meaning."""

    def __init__(self) -> None:
        self._known: dict[Columns, int] = {}

    async def numbers(self, db: Transaction, asked: Iterable[Columns]) -> dict[Columns, int]:
        """The numbers of lists of columns, which may be undone with the transaction."""
        found = {columns: self._known.get(columns) for columns in asked}
        for columns, number in found.items():
            if number is None:
                text = storable(columns_text(columns))
                db.add("INSERT INTO shapes (columns) VALUES (%s) ON CONFLICT (columns) DO NOTHING", (text,))
                found[columns] = (await db.get("SELECT id FROM shapes WHERE columns = %s", (text,))).rows[0][0]
        return {columns: number for columns, number in found.items() if number is not None}

    def committed(self, numbers: Mapping[Columns, int]) -> None:
        """Remember numbers that are not undone any more."""
        self._known.update(numbers)


async def append(
    db: Transaction,
    routed: Iterable[Routed],
    shapes: Mapping[Columns, int],
    now: float,
    owner: int,
    room: Callable[[str], int],
) -> Appended:
    """Write transitions and their notifications. `shapes`: the numbers of their columns. `room`: how many of a channel
    this process claims at once."""
    batch = [(transition, addresses) for transition, addresses in routed if addresses]
    if not batch:
        return Appended([], set())
    given = [
        _Given(notification_id(transition, address.channel), transition, place, address)
        for place, (transition, addresses) in enumerate(batch)
        for address in addresses
    ]
    # Numbers in order. Those of a transaction that is rolled back are lost, never used twice.
    taken = db.add("SELECT array_agg(nextval('numbers')) FROM generate_series(1, %s)", (len(batch) + len(given),))
    placing = await _placing(db, given, now, owner, room)
    numbers = sorted(taken.rows[0][0])
    rows = []
    for one, seq in zip(given, numbers[len(batch) :], strict=True):
        if (made := placing.place(one, seq, numbers[one.place])) is not None:
            rows.append(made)
    _insert_transitions(db, [transition for transition, _ in batch], numbers, shapes)
    placing.write_windows(db)
    inserted = await db.get(_INSERT_NOTIFICATIONS, (rows_text(_NOTIFICATION, rows),))
    new = {row[0] for row in inserted.rows}
    if len(new) < len(given):
        db.add(
            "DELETE FROM transitions WHERE id = ANY(%s)"
            " AND NOT EXISTS (SELECT FROM notifications WHERE transition = transitions.id)",
            (numbers[: len(batch)],),
        )
        # One that is known already was taken for the first of its ordering key.
        make_ready(db, {one.key for one in given})
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

    def write_windows(self, db: Transaction) -> None:
        """Write the windows that were opened, or that gather a digest now."""
        if changed := self._windows.changed:
            rows = [
                (*map(storable, key), window.interval, window.due, window.digest) for key, window in changed.items()
            ]
            db.add(_WRITE_WINDOWS, (rows_text(_WINDOW, rows),))


async def _placing(
    db: Transaction, given: Sequence[_Given], now: float, owner: int, room: Callable[[str], int]
) -> _Placing:
    known = stored = Result()
    if merged := [one for one in given if one.address.interval]:
        known = db.add("SELECT id FROM notifications WHERE id = ANY(%s)", ([one.id for one in merged],))
        stored = db.add(_WINDOWS, keys_of({(one.address.channel, one.address.ordering_key) for one in merged}))
    found = await db.get(_PENDING, keys_of({one.key for one in given}))
    pending = {(channel, key): held for channel, key, held in found.rows}
    windows = {(channel, key): Window(*window) for channel, key, *window in stored.rows}
    return _Placing(pending, [row[0] for row in known.rows], Windows(windows.get, now), now, owner, room)


def _insert_transitions(
    db: Transaction, transitions: Sequence[Transition], numbers: Sequence[int], shapes: Mapping[Columns, int]
) -> None:
    by_identity = {id(columns): number for columns, number in shapes.items()}  # most are the same object
    rows = []
    for transition, number in zip(transitions, numbers, strict=False):
        shape = by_identity.get(id(transition.columns)) or shapes[transition.columns]
        rows.append(transition_values(number, transition._replace(alert=storable(transition.alert)), shape))
    db.add(_INSERT_TRANSITIONS, (rows_text(_TRANSITION, rows),))
