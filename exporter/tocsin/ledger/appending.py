"""How transitions become rows of the outbox: their numbers, and the digest that each waits in. Runs in the writer's
thread, within its transaction."""

import sqlite3
from collections.abc import Iterable

from tocsin.ledger.base import Routed
from tocsin.ledger.encoding import transition_values
from tocsin.ledger.opening import one
from tocsin.ledger.shapes import Shapes
from tocsin.model import Address, Notification, notification_id


class Appender:
    """Appends to the outbox of one file. Numbers are given here, not by SQLite, so that one call writes many rows."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._next_transition = one(connection, "SELECT coalesce(max(id), 0) + 1 FROM transitions")
        self._next_seq = one(connection, "SELECT coalesce(max(seq), 0) + 1 FROM notifications")

    def append(self, db: sqlite3.Connection, told: Iterable[Routed], now: float) -> list[Notification]:
        """Write transitions and their notifications. Returns those to hand on: new ones, of a digest the first."""
        transition_id, seq = self._next_transition, self._next_seq
        transitions: list[tuple[object, ...]] = []
        notifications: list[Notification] = []
        values: list[tuple[object, ...]] = []
        shapes: dict[int, int] = {}  # by identity: documents take turns with a few lists of columns
        merging = _Merging(db, now)
        for transition, addresses in told:
            if not addresses:
                continue
            shape = shapes.get(id(transition.columns))
            if shape is None:
                shape = shapes[id(transition.columns)] = Shapes.number(db, transition.columns)
            transitions.append(transition_values(transition_id, transition, shape))
            for address in addresses:
                name = notification_id(transition, address.channel)
                digest, due, first = None, 0.0, True
                if address.interval:
                    if merging.known(name):
                        continue
                    digest, due, first = merging.window(address, seq)
                values.append((seq, name, transition_id, address.channel, now, due, address.lane, digest))
                if first:
                    notifications.append(
                        Notification(
                            seq=seq,
                            id=name,
                            channel=address.channel,
                            transition=transition,
                            created_at=now,
                            not_before=due,
                            lane=address.lane,
                            digest=digest,
                        )
                    )
                seq += 1
            transition_id += 1
        # Numbers of a transaction that is rolled back are lost, never given twice.
        self._next_transition, self._next_seq = transition_id, seq
        db.executemany("INSERT INTO transitions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", transitions)
        written = db.executemany(
            "INSERT INTO notifications (seq, id, transition, channel, created_at, not_before, lane, digest)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            values,
        ).rowcount
        if transitions and (merging.skipped or written < len(values)):
            known = {row[0] for row in db.execute("SELECT seq FROM notifications WHERE seq >= ?", (seq - len(values),))}
            notifications = [notification for notification in notifications if notification.seq in known]
            db.execute(
                "DELETE FROM transitions WHERE id >= ?"
                " AND NOT EXISTS (SELECT 1 FROM notifications WHERE transition = transitions.id)",
                (transitions[0][0],),
            )
        return notifications


class _Merging:
    """Which digest each notification of one append waits in.

    The first of a lane goes at once and opens a window of `interval`; what comes within it gathers in a digest that is
    due at its end. Sending the digest opens the next window (`tocsin.ledger.outbox.gather`).
    """

    def __init__(self, db: sqlite3.Connection, now: float) -> None:
        self.skipped = False
        self._db = db
        self._now = now
        self._ids: set[str] = set()
        self._opened: set[int] = set()

    def known(self, name: str) -> bool:
        """Whether this notification has been written before, so that it must open no window."""
        known = name in self._ids or one(self._db, "SELECT 1 FROM notifications WHERE id = ?", name) is not None
        self._ids.add(name)
        self.skipped = self.skipped or known
        return known

    def window(self, address: Address, seq: int) -> tuple[int | None, float, bool]:
        """The digest that notification `seq` waits in (None: it goes at once), until when, and whether it is the first
        in it."""
        db, lane = self._db, (address.channel, address.lane)
        found = db.execute("SELECT due, digest FROM windows WHERE channel = ? AND lane = ?", lane).fetchone()
        due, digest = found or (0.0, None)
        if digest is not None and self._gathers(digest):
            return digest, due, False
        if digest is not None or due > self._now:
            # Nobody gathers yet; or those who did were dropped or given up on.
            self._opened.add(seq)
            db.execute(
                "UPDATE windows SET digest = ?, interval = ? WHERE channel = ? AND lane = ?",
                (seq, address.interval, *lane),
            )
            return seq, due, True
        db.execute(
            "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, NULL)",
            (*lane, address.interval, self._now + address.interval),
        )
        return None, 0.0, True

    def _gathers(self, digest: int) -> bool:
        statement = "SELECT 1 FROM notifications WHERE digest = ? AND status = 'pending' LIMIT 1"
        return digest in self._opened or one(self._db, statement, digest) is not None
