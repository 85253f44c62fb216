"""The requests whose outcome is not known, as statements: which notifications are in each, in which order.

A row is written before a request of several is sent, and deleted with its outcome. It stays while its members are
pending or dead: a dead one that is tried again may be in a request that the receiver has accepted.
"""

import json
import sqlite3

from tocsin.ledger.base import Bulks
from tocsin.ledger.encoding import NOTIFICATION, notification_of
from tocsin.ledger.shapes import Shapes
from tocsin.model import Notification

_MEMBERS = (
    f"{NOTIFICATION} JOIN json_each(?) AS member ON member.value = n.seq WHERE n.status = 'pending' ORDER BY member.key"
)


def change(db: sqlite3.Connection, bulks: Bulks) -> None:
    """See `Ledger.bind`."""
    db.executemany("DELETE FROM bulks WHERE first = ?", ((first,) for first in bulks.ended))
    db.executemany(
        "INSERT OR REPLACE INTO bulks VALUES (?, ?, ?)",
        ((members[0], bulks.channel, json.dumps(list(members))) for members in bulks.made),
    )


def bound(db: sqlite3.Connection, shapes: Shapes, channel: str) -> list[list[Notification]]:
    """See `Ledger.bound`."""
    rows = db.execute("SELECT members FROM bulks WHERE channel = ? ORDER BY first", (channel,)).fetchall()
    found = [
        [notification_of(row, lambda shape: shapes.columns(db, shape)) for row in db.execute(_MEMBERS, (members,))]
        for (members,) in rows
    ]
    return [members for members in found if members]


def leave_out_settled(db: sqlite3.Connection) -> None:
    """Take out of each bulk what is delivered, dropped or deleted. What is left of it is another request."""
    for first, channel, text in db.execute("SELECT first, channel, members FROM bulks").fetchall():
        members = json.loads(text)
        statement = "SELECT seq FROM notifications WHERE seq IN (SELECT value FROM json_each(?))"
        alive = {seq for (seq,) in db.execute(statement + " AND status IN ('pending', 'dead')", (text,))}
        left = [seq for seq in members if seq in alive]
        if left != members:
            change(db, Bulks(channel=channel, made=[left] if left else [], ended=[first]))
