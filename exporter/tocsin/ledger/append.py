"""Writing transitions and their notifications to the outbox. Runs in the writer's thread, within its transaction."""

import sqlite3
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from tocsin.ledger.base import Routed
from tocsin.ledger.opening import one
from tocsin.ledger.rows import Shapes, transition_values
from tocsin.ledger.windows import Key, Window, Windows
from tocsin.model import Notification, notification_id

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
        windows = Windows(partial(_window, db), now)
        merged: set[str] = set()  # ids that have a place in a digest or window
        skipped = False
        # Numbers of a transaction that is rolled back are lost, never used twice.
        for transition, addresses in routed:
            if not addresses:
                continue
            shape = shapes.get(id(transition.columns))
            if shape is None:
                shape = shapes[id(transition.columns)] = Shapes.number(db, transition.columns)
            number, self._next_transition = self._next_transition, self._next_transition + 1
            transitions.append(transition_values(number, transition.alert, transition, shape))
            for address in addresses:
                name = notification_id(transition, address.channel)
                key = address.ordering_key or transition.fingerprint
                digest, due, first = None, 0.0, True
                if address.interval:
                    if name in merged or one(db, "SELECT 1 FROM notifications WHERE id = ?", name) is not None:
                        skipped = True  # written before: it opens no window
                        continue
                    merged.add(name)
                    digest, due, first = windows.place(address, self._next_seq)
                seq, self._next_seq = self._next_seq, self._next_seq + 1
                values.append((seq, name, number, address.channel, now, due, key, digest))
                if first:
                    notifications.append(
                        Notification(
                            seq, name, address.channel, transition, key, digest, created_at=now, not_before=due
                        )
                    )
        db.executemany("INSERT INTO transitions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", transitions)
        db.executemany(
            "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?)",
            ((*key, window.interval, window.due, window.digest) for key, window in windows.changed.items()),
        )
        written = db.executemany(_INSERT, values).rowcount
        if transitions and (skipped or written < len(values)):
            known = {row[0] for row in db.execute("SELECT seq FROM notifications WHERE seq >= ?", (first_seq,))}
            notifications = [notification for notification in notifications if notification.seq in known]
            db.execute(
                "DELETE FROM transitions WHERE id >= ?"
                " AND NOT EXISTS (SELECT 1 FROM notifications WHERE transition = transitions.id)",
                (first_transition,),
            )
        blocked = db.execute("SELECT seq FROM notifications WHERE seq >= ? AND ready_at IS NULL", (first_seq,))
        return Appended(notifications, {row[0] for row in blocked})


def _window(db: sqlite3.Connection, key: Key) -> Window | None:
    found = db.execute("SELECT interval, due, digest FROM windows WHERE channel = ? AND ordering_key = ?", key)
    if (row := found.fetchone()) is None:
        return None
    interval, due, digest = row
    pending = "SELECT 1 FROM notifications WHERE digest = ? AND status = 'pending' LIMIT 1"
    return Window(interval, due, digest, is_open=digest is not None and one(db, pending, digest) is not None)
