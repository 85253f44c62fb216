"""Writing transitions and their notifications to the outbox, within the transaction of a writer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tocsin.ledger.base import Routed
from tocsin.ledger.postgres.outbox import keys_text
from tocsin.ledger.postgres.transaction import FEW, Result, Transaction
from tocsin.ledger.postgres.values import names_text, rows_text, storable
from tocsin.ledger.rows import columns_text, transition_values
from tocsin.ledger.windows import Key, Placed, Window, Windows
from tocsin.model import Address, Columns, Notification, Transition, notification_id

_TRANSITION = ("id", "alert", "fingerprint", "kind", "started_at", "at", "shape", "row", "previous")
_NOTIFICATION = (
    "seq", "id", "transition", "channel", "created_at", "not_before", "ordering_key", "digest", "ready_at", "owner",
)  # fmt: skip
_FEW_COLUMNS = ("place", "id", "transition", "channel", "ordering_key", "room")
_WINDOW = ("channel", "ordering_key", "interval", "due", "digest")

_WRITE_WINDOWS = """
    INSERT INTO windows SELECT * FROM json_to_recordset(%s) AS given (
      channel text, ordering_key text, interval double precision, due double precision, digest bigint)
    ON CONFLICT (channel, ordering_key)
      DO UPDATE SET interval = excluded.interval, due = excluded.due, digest = excluded.digest
"""
_WINDOWS = """
    SELECT w.channel, w.ordering_key, w.interval, w.due, w.digest, w.digest IS NOT NULL AND EXISTS (
      SELECT FROM notifications AS n WHERE n.digest = w.digest AND n.status = 'pending')
    FROM keys(%s) AS asked JOIN windows AS w USING (channel, ordering_key)
    ORDER BY 1, 2 FOR UPDATE OF w
"""


class Appended(NamedTuple):
    """What was appended."""

    notifications: list[Notification]
    """Those that are new, of a digest only the first."""
    owned: set[int]
    """Those that this process claimed in the same transaction, by `seq`."""
    blocked: set[int]
    """Those that wait for another of their ordering key, by `seq`. Who settles that makes them ready."""


class _Given(NamedTuple):
    id: str
    transition: Transition
    address: Address
    key: Key

    def notification(self, seq: int, digest: int | None, now: float, due: float) -> Notification:
        channel, key = self.key
        return Notification(seq, self.id, channel, self.transition, key, digest, created_at=now, not_before=due)


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
                db.do("INSERT INTO shapes (columns) VALUES (%s) ON CONFLICT (columns) DO NOTHING", (text,))
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
) -> Callable[[], Appended]:
    """Write transitions and their notifications. `shapes`: the numbers of their columns. `room`: how many of a channel
    this process claims at once. What it returns is called after the commit."""
    given = [
        _Given(
            notification_id(transition, address.channel),
            transition,
            address,
            (address.channel, address.ordering_key or transition.fingerprint),
        )
        for transition, addresses in routed
        for address in addresses
    ]
    rooms = _Rooms(room)
    if len(given) <= FEW and not any(one.address.interval for one in given):
        return _append_few(db, given, shapes, now, owner, rooms)
    stored = Result()
    if merged := {(one.address.channel, one.address.ordering_key) for one in given if one.address.interval}:
        stored = db.add(_WINDOWS, (keys_text(merged),))
    ids, keys = names_text(one.id for one in given), keys_text({one.key for one in given})
    found = await db.get("SELECT * FROM before_append(%s, %s)", (ids, keys))
    # Numbers of a transaction that is rolled back are lost, never used twice.
    [(numbers, known, *held)] = found.rows
    pending = {(channel, key): stays for channel, key, stays in zip(*(part or () for part in held), strict=True)}
    windows = {(channel, key): Window(*window) for channel, key, *window in stored.rows}
    placing = _Placing(pending, Windows(windows.get, now), now, owner, rooms)
    new = _new(given, {*(known or ())})
    await db.insert("notifications", _NOTIFICATION, placing.rows(new, sorted(numbers)))
    await db.insert("transitions", _TRANSITION, _transitions(placing.transitions, shapes))
    placing.write_windows(db)
    return lambda: Appended(placing.notifications, placing.owned, placing.blocked)


def _append_few(
    db: Transaction, given: Sequence[_Given], shapes: Mapping[Columns, int], now: float, owner: int, rooms: "_Rooms"
) -> Callable[[], Appended]:
    """Have the server place them: another message to ask it first would take longer than all the rest."""
    if not given:
        return lambda: Appended([], set(), set())
    transitions: dict[int, Transition] = {}
    rows: list[tuple[object, ...]] = []
    for place, one in enumerate(given):
        if one.transition is not transitions.get(len(transitions)):
            transitions[len(transitions) + 1] = one.transition
        channel, key = one.key
        rows.append((place, one.id, len(transitions), storable(channel), storable(key), rooms.take(channel)))
    changed = rows_text(_TRANSITION, _transitions(transitions, shapes))
    found = db.add("SELECT * FROM append_few(%s, %s, %s, %s)", (rows_text(_FEW_COLUMNS, rows), changed, now, owner))

    def appended() -> Appended:
        return Appended(
            [given[place].notification(seq, None, now, 0.0) for place, seq, *_ in found.rows],
            {seq for _, seq, owned, _ in found.rows if owned},
            {seq for _, seq, _, blocked in found.rows if blocked},
        )

    return appended


def _new(given: Iterable[_Given], known: set[str]) -> Iterator[_Given]:
    """Those that were not written before, each once."""
    for one in given:
        if one.id not in known:
            known.add(one.id)
            yield one


class _Rooms:
    """How many of each channel this process still claims."""

    def __init__(self, room: Callable[[str], int]) -> None:
        self._room = room
        self._left: dict[str, int] = {}

    def take(self, channel: str) -> bool:
        """Whether there is room for one more."""
        left = self._left.get(channel)
        left = self._left[channel] = (self._room(channel) if left is None else left) - 1
        return left >= 0


class _Placing:
    """Decides of each notification of a batch when it may be sent and by whom."""

    def __init__(
        self,
        pending: dict[Key, bool],
        windows: Windows,
        now: float,
        owner: int,
        rooms: "_Rooms",
    ) -> None:
        """`pending`: see the function `before_append` of the tables."""
        self.notifications: list[Notification] = []
        """To send, of a digest only the first."""
        self.owned: set[int] = set()
        self.blocked: set[int] = set()
        self.transitions: dict[int, Transition] = {}
        """Those that have notifications, by number: that of the first of them."""
        self._pending = pending
        self._windows = windows
        self._now = now
        self._owner = owner
        self._rooms = rooms

    def rows(self, given: Iterable[_Given], numbers: Iterable[int]) -> Iterator[tuple[object, ...]]:
        """The columns of new notifications. `numbers`: those they get, in order."""
        last, number = None, 0
        for one, seq in zip(given, numbers, strict=False):
            if one.transition is not last:
                last, number = one.transition, seq
                self.transitions[number] = last
            yield self._place(one, seq, number)

    def _place(self, one: _Given, seq: int, transition: int) -> tuple[object, ...]:
        digest, due, first = self._windows.place(one.address, seq) if one.address.interval else _AT_ONCE
        channel, key = one.key
        blocked = self._pending.get(one.key)
        self._pending[one.key] = True
        mine = blocked is None and not due and self._rooms.take(channel)
        if mine:
            self.owned.add(seq)
        if blocked:
            self.blocked.add(seq)
        if first:
            self.notifications.append(one.notification(seq, digest, self._now, due))
        ready_at = None if blocked else due
        owner = self._owner if mine else None
        return (seq, one.id, transition, storable(channel), self._now, due, storable(key), digest, ready_at, owner)

    def write_windows(self, db: Transaction) -> None:
        """Write the windows that were opened, or that gather a digest now."""
        if changed := self._windows.changed:
            rows = [
                (*map(storable, key), window.interval, window.due, window.digest) for key, window in changed.items()
            ]
            db.do(_WRITE_WINDOWS, (rows_text(_WINDOW, rows),))


_AT_ONCE = Placed(None, 0.0, first=True)


def _transitions(transitions: Mapping[int, Transition], shapes: Mapping[Columns, int]) -> Iterator[tuple[object, ...]]:
    by_identity = {id(columns): number for columns, number in shapes.items()}  # most are the same object
    for number, transition in transitions.items():
        shape = by_identity.get(id(transition.columns)) or shapes[transition.columns]
        yield transition_values(number, storable(transition.alert), transition, shape)
