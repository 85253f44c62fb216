"""Claiming and settling notifications, as SQL.

`ready_at` is set where a notification is the first pending one of its ordering key: then it may be sent from that time
on. So a claim reads an index of sendable notifications, however many wait behind them. `request` is the number of the
request that a notification is in, until the outcome of the request is known.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from tocsin.ledger.attempts import UNFINISHED
from tocsin.ledger.base import MOST_MERGED, Claimed, Settlement, Status
from tocsin.ledger.opening import one
from tocsin.ledger.rows import NOTIFICATION, Shapes
from tocsin.ledger.windows import Key
from tocsin.model import Notification

_KEPT_ATTEMPTS = 50
"""Failed attempts kept of one notification: it may have thousands."""

# Claiming.

_READY = """
    SELECT seq, ordering_key, request, ready_at FROM notifications
    WHERE channel = ? AND status = 'pending' AND ready_at {when}
      AND ordering_key NOT IN (SELECT value FROM json_each(?))
    ORDER BY ready_at, seq LIMIT ?
"""
_AT_ONCE = _READY.format(when="= 0")
_AT_A_TIME = _READY.format(when="> 0")
_BY_SEQ = f"{NOTIFICATION} WHERE n.seq IN (SELECT value FROM json_each(?))"  # noqa: S608 - made of constants
_OF_REQUEST = f"{NOTIFICATION} WHERE n.request = ? AND n.status = 'pending' ORDER BY n.seq"
_OF_DIGEST = f"{NOTIFICATION} WHERE n.digest = ? AND n.status = 'pending' ORDER BY n.seq LIMIT ?"


class Read(NamedTuple):
    """What a claim finds in the file."""

    claimed: Claimed
    full: bool
    """Whether there may be more that could be sent now."""
    last_seq: int
    """The last notification that was written by then."""


def claim(
    db: sqlite3.Connection,
    shapes: Shapes,
    known: Mapping[int, Notification],
    channel: str,
    claimed: Iterable[str],
    limit: int,
    now: float,
) -> Read:
    """See `Outbox.claim`. `known`: notifications that need not be read, by `seq`. `claimed`: ordering keys to skip."""
    busy = set(claimed)
    text = json.dumps(list(busy))
    half = max(1, limit // 2)
    last_seq = one(db, "SELECT coalesce(max(seq), 0) FROM notifications")
    timed = db.execute(_AT_A_TIME, (channel, text, half + 1)).fetchall()
    due = [row for row in timed[:half] if row[-1] <= now]
    at_once = db.execute(_AT_ONCE, (channel, text, limit - len(due))).fetchall()
    heads: list[int] = []
    repeats: list[list[Notification]] = []
    for seq, key, request, _ in (*due, *at_once):
        if key in busy:
            continue
        if request is None:
            heads.append(seq)
            busy.add(key)
            continue
        members = shapes.notifications(db, _OF_REQUEST, request)
        keys = {member.ordering_key for member in members}
        if busy.isdisjoint(keys) and all(member.not_before <= now for member in members):
            repeats.append(members)
            busy |= keys
    found = [notification for seq in heads if (notification := known.get(seq)) is not None]
    if len(found) < len(heads):
        unknown = {*heads} - {notification.seq for notification in found}
        found += shapes.notifications(db, _BY_SEQ, json.dumps([*unknown]))
    full = len(due) == half or len(due) + len(at_once) == limit
    claimed_now = Claimed(
        heads=sorted(found, key=attrgetter("seq")),
        repeats=repeats,
        more=full and bool(heads or repeats),
        next_at=next((row[-1] for row in timed if row[-1] > now), None),
    )
    return Read(claimed_now, full, last_seq)


def recover(db: sqlite3.Connection, channel: str, since: float, ready_at: float) -> None:
    """See `Outbox.recover`."""
    db.execute(
        "UPDATE notifications SET ready_at = ?"
        " WHERE channel = ? AND status = 'pending' AND ready_at < ? AND created_at <= ?",
        (ready_at, channel, ready_at, since),
    )


def bind(db: sqlite3.Connection, requests: Sequence[Sequence[int]]) -> None:
    """See `Outbox.bind`. A request has the number of its first member."""
    db.executemany(
        "UPDATE notifications SET request = ? WHERE seq = ? AND status = 'pending'",
        ((members[0], seq) for members in requests for seq in members),
    )


_UNFINISHED = """
    SELECT count(*) FROM notifications AS n JOIN attempts AS a ON a.seq = n.seq
    WHERE n.id = ? AND a.reason = ?
"""
_BEGIN = "INSERT INTO attempts SELECT seq, ?, ?, ? FROM notifications WHERE id = ?"
_END = """
    DELETE FROM attempts WHERE rowid = (
      SELECT max(a.rowid) FROM notifications AS n JOIN attempts AS a ON a.seq = n.seq WHERE n.id = ? AND a.reason = ?)
"""


def begin(db: sqlite3.Connection, id_: str, now: float) -> int:
    """See `Outbox.begin`."""
    before: int = one(db, _UNFINISHED, id_, UNFINISHED[0])
    db.execute(_BEGIN, (now, *UNFINISHED, id_))
    return before


def end(db: sqlite3.Connection, id_: str) -> None:
    """See `Outbox.end`."""
    db.execute(_END, (id_, UNFINISHED[0]))


# Settling.


def settle(db: sqlite3.Connection, settlements: Sequence[Settlement]) -> bool:
    """See `Outbox.settle`."""
    db.executemany(_SETTLE, map(_values, settlements))
    released = [(each.seq,) for each in settlements if each.release_key]
    if released:
        db.executemany(_RELEASE_KEY, released)
    if failed := [each for each in settlements if each.reason]:
        db.executemany(
            "INSERT INTO attempts SELECT ?1, ?2, ?3, ?4"
            " WHERE NOT EXISTS (SELECT 1 FROM attempts WHERE seq = ?1 AND at = ?2)",
            ((each.seq, each.at, each.reason, _storable(each.detail)) for each in failed),
        )
        db.executemany(
            "DELETE FROM attempts WHERE seq = ? AND rowid <= (SELECT rowid FROM attempts WHERE seq = ?"
            " ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
            ((each.seq, each.seq, _KEPT_ATTEMPTS) for each in failed),
        )
    # Also of what an operator has dropped meanwhile: it no longer holds back the next.
    return make_ready(db, {(each.channel, each.ordering_key) for each in settlements}) or bool(released)


_SETTLE = """
    UPDATE notifications SET
      status = ?, attempts = ?, not_before = ?, settled_at = ?, reason = ?, detail = ?,
      request = CASE WHEN ? THEN request END, ready_at = NULL
    WHERE seq = ? AND status = 'pending'
"""
_RELEASE_KEY = """
    UPDATE notifications SET ready_at = not_before, ordering_key = 'released ' || seq
    WHERE seq = ? AND status = 'pending'
"""


def _values(one: Settlement) -> tuple[object, ...]:
    settled_at = None if one.status is Status.PENDING else one.at
    detail = _storable(one.detail)
    return (one.status.value, one.attempts, one.not_before, settled_at, str(one.reason), detail, one.repeat, one.seq)


def make_ready(db: sqlite3.Connection, keys: Iterable[Key]) -> bool:
    """Make the first pending notification of each ordering key sendable. Returns whether there is any."""
    cursor = db.executemany(
        "UPDATE notifications SET ready_at = not_before WHERE seq = (SELECT seq FROM notifications"
        " WHERE channel = ? AND ordering_key = ? AND status = 'pending' ORDER BY seq LIMIT 1)",
        keys,
    )
    return cursor.rowcount > 0


def _storable(detail: str) -> str:
    # Text of a receiver: half of a surrogate pair cannot be stored, and would stop the channel.
    return detail.encode("utf-8", "replace").decode()


# Digests.


def digest(db: sqlite3.Connection, shapes: Shapes, head: Notification, now: float) -> list[Notification]:
    """See `Outbox.digest`."""
    db.execute(
        "UPDATE windows SET digest = NULL, due = max(due, ?) + interval"
        " WHERE channel = ? AND ordering_key = ? AND digest = ?",
        (now, head.channel, head.ordering_key, head.digest),
    )
    return shapes.notifications(db, _OF_DIGEST, head.digest, MOST_MERGED)


def split_digest(db: sqlite3.Connection, head: Notification, at: int, *, refused: bool) -> None:
    """See `Outbox.split_digest`. A digest has the number of its first notification, so that of the new one is free."""
    db.execute(
        "UPDATE notifications SET digest = ? WHERE digest = ? AND seq >= ? AND status = 'pending'",
        (at, head.digest, at),
    )
    db.execute(
        "UPDATE notifications SET request = NULL, generation = generation + ? WHERE seq = ?", (refused, head.seq)
    )


def previous_ids(db: sqlite3.Connection, notification: Notification) -> tuple[str, ...]:
    """See `Outbox.previous_ids`."""
    transition = notification.transition
    rows = db.execute(
        "SELECT n.id FROM transitions AS t JOIN notifications AS n ON n.transition = t.id"
        " WHERE t.fingerprint = ? AND t.started_at = ? AND t.alert = ? AND n.channel = ?"
        " AND n.status = 'delivered' AND n.seq < ? ORDER BY n.seq",
        (transition.fingerprint, transition.started_at, transition.alert, notification.channel, notification.seq),
    )
    return tuple(row[0] for row in rows)
