"""Writing transitions and their notifications to the outbox. Runs in the writer's thread, within its transaction."""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from tocsin.ledger.base import Routed
from tocsin.ledger.opening import one
from tocsin.ledger.rows import Shapes, transition_values
from tocsin.model import Address, Notification, notification_id

_INSERT = """
    INSERT INTO notifications (seq, id, transition, channel, created_at, not_before, ordering_key, digest, ready_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, CASE WHEN NOT EXISTS (
      SELECT 1 FROM notifications WHERE channel = ?4 AND ordering_key = ?7 AND status = 'pending') THEN ?6 END)
    ON CONFLICT (id) DO NOTHING
"""


class Appended(NamedTuple):
    """What was appended."""

    notifications: list[Notification]
    """Those that are new, of a digest only the first."""
    blocked: set[int]
    """Those that wait for another of their ordering key, by `seq`."""


class Appender:
    """Appends to the outbox of one file. Numbers rows itself, so that one statement writes many."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._next_transition = one(connection, "SELECT coalesce(max(id), 0) + 1 FROM transitions")
        self._next_seq = one(connection, "SELECT coalesce(max(seq), 0) + 1 FROM notifications")

    def append(self, db: sqlite3.Connection, routed: Iterable[Routed], now: float) -> Appended:
        """Write transitions and their notifications."""
        first_seq, first_transition = self._next_seq, self._next_transition
        transitions: list[tuple[object, ...]] = []
        notifications: list[Notification] = []
        values: list[tuple[object, ...]] = []
        shapes: dict[int, int] = {}  # by identity: documents alternate between a few lists of columns
        digests = _Digests(db, now)
        # Numbers of a transaction that is rolled back are lost, never used twice.
        for transition, addresses in routed:
            if not addresses:
                continue
            shape = shapes.get(id(transition.columns))
            if shape is None:
                shape = shapes[id(transition.columns)] = Shapes.number(db, transition.columns)
            number, self._next_transition = self._next_transition, self._next_transition + 1
            transitions.append(transition_values(number, transition, shape))
            for address in addresses:
                name = notification_id(transition, address.channel)
                key = address.ordering_key or transition.fingerprint
                digest, due, first = None, 0.0, True
                if address.interval:
                    if digests.has_notification(name):
                        continue
                    digest, due, first = digests.place(address, self._next_seq)
                seq, self._next_seq = self._next_seq, self._next_seq + 1
                values.append((seq, name, number, address.channel, now, due, key, digest))
                if first:
                    notifications.append(
                        Notification(
                            seq, name, address.channel, transition, key, digest, created_at=now, not_before=due
                        )
                    )
        db.executemany("INSERT INTO transitions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", transitions)
        written = db.executemany(_INSERT, values).rowcount
        if transitions and (digests.skipped or written < len(values)):
            known = {row[0] for row in db.execute("SELECT seq FROM notifications WHERE seq >= ?", (first_seq,))}
            notifications = [notification for notification in notifications if notification.seq in known]
            db.execute(
                "DELETE FROM transitions WHERE id >= ?"
                " AND NOT EXISTS (SELECT 1 FROM notifications WHERE transition = transitions.id)",
                (first_transition,),
            )
        blocked = db.execute("SELECT seq FROM notifications WHERE seq >= ? AND ready_at IS NULL", (first_seq,))
        return Appended(notifications, {row[0] for row in blocked})


class _Digests:
    """Places the notifications of one append in digests.

    The first of an ordering key is sent at once and opens a window of `interval`. What comes within the window waits in
    a digest, which is due at its end. Sending the digest opens the next window (`tocsin.ledger.outbox.digest`).
    """

    def __init__(self, db: sqlite3.Connection, now: float) -> None:
        self.skipped = False
        self._db = db
        self._now = now
        self._ids: set[str] = set()
        self._new: set[int] = set()

    def has_notification(self, id_: str) -> bool:
        """Whether a notification was written before. Then it opens no window."""
        known = id_ in self._ids or one(self._db, "SELECT 1 FROM notifications WHERE id = ?", id_) is not None
        self._ids.add(id_)
        self.skipped = self.skipped or known
        return known

    def place(self, address: Address, seq: int) -> tuple[int | None, float, bool]:
        """The digest of notification `seq` (None: it is sent at once), when it is due, and whether `seq` is the first
        in it."""
        db, key = self._db, (address.channel, address.ordering_key)
        found = db.execute("SELECT due, digest FROM windows WHERE channel = ? AND ordering_key = ?", key).fetchone()
        due, digest = found or (0.0, None)
        if digest is not None and self._is_open(digest):
            return digest, due, False
        if digest is not None or due > self._now:
            # The window has no digest yet, or all of its digest was dropped or given up on.
            self._new.add(seq)
            db.execute(
                "UPDATE windows SET digest = ?, interval = ? WHERE channel = ? AND ordering_key = ?",
                (seq, address.interval, *key),
            )
            return seq, due, True
        db.execute(
            "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, NULL)",
            (*key, address.interval, self._now + address.interval),
        )
        return None, 0.0, True

    def _is_open(self, digest: int) -> bool:
        statement = "SELECT 1 FROM notifications WHERE digest = ? AND status = 'pending' LIMIT 1"
        return digest in self._new or one(self._db, statement, digest) is not None
