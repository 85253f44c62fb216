"""Claiming and settling notifications, as SQL.

`ready_at` is set where a notification is the first pending one of its ordering key: then it may be sent from that time
on. So a claim reads an index of sendable notifications, however many wait behind them. `request` is the number of the
request that a notification is in, until the outcome of the request is known.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence

from tocsin.ledger.base import MOST_MERGED, Page, Settlement, Status
from tocsin.ledger.rows import NOTIFICATION, Shapes
from tocsin.model import Notification

_KEPT_ATTEMPTS = 50
"""Failed attempts kept of one notification: it may have thousands."""

Key = tuple[str, str]
"""Channel and ordering key."""

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


def claim(
    db: sqlite3.Connection,
    shapes: Shapes,
    recent: dict[int, Notification],
    channel: str,
    claimed: Iterable[str],
    limit: int,
    now: float,
) -> Page:
    """See `Outbox.claim`. `recent`: notifications that were just written, by `seq`. `claimed`: ordering keys to
    skip."""
    busy = set(claimed)
    text = json.dumps(list(busy))
    half = max(1, limit // 2)
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
    known = [one for seq in heads if (one := recent.pop(seq, None)) is not None]
    if len(known) < len(heads):
        unknown = {*heads} - {one.seq for one in known}
        known += shapes.notifications(db, _BY_SEQ, json.dumps([*unknown]))
    return Page(
        heads=sorted(known, key=lambda head: head.seq),
        repeats=repeats,
        more=bool(heads or repeats) and (len(due) == half or len(due) + len(at_once) == limit),
        next_at=next((row[-1] for row in timed if row[-1] > now), None),
    )


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


# Settling.


def settle(db: sqlite3.Connection, settlements: Sequence[Settlement]) -> bool:
    """See `Outbox.settle`."""
    keys = _keys(db, [one.seq for one in settlements])
    db.executemany(_SETTLE, [_values(one) for one in settlements])
    released = [(one.seq,) for one in settlements if one.release_key]
    db.executemany(_RELEASE_KEY, released)
    more = make_ready(db, keys)
    failed = [one for one in settlements if one.reason]
    db.executemany(
        "INSERT INTO attempts VALUES (?, ?, ?, ?)",
        ((one.seq, one.at, one.reason, _storable(one.detail)) for one in failed),
    )
    db.executemany(
        "DELETE FROM attempts WHERE seq = ? AND rowid <= (SELECT rowid FROM attempts WHERE seq = ?"
        " ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
        ((one.seq, one.seq, _KEPT_ATTEMPTS) for one in failed),
    )
    return more or bool(released)


_SETTLE = """
    UPDATE notifications SET
      status = :status, attempts = :attempts, not_before = :not_before, settled_at = :settled_at,
      reason = :reason, detail = :detail,
      request = CASE WHEN :repeat THEN request END, ready_at = NULL
    WHERE seq = :seq AND status = 'pending'
"""
_RELEASE_KEY = """
    UPDATE notifications SET ready_at = not_before, ordering_key = 'released ' || seq
    WHERE seq = ? AND status = 'pending'
"""


def _values(one: Settlement) -> dict[str, object]:
    return {
        "seq": one.seq,
        "status": one.status.value,
        "attempts": one.attempts,
        "not_before": one.not_before,
        "settled_at": None if one.status is Status.PENDING else one.at,
        "reason": str(one.reason),
        "detail": _storable(one.detail),
        "repeat": one.repeat,
    }


def _keys(db: sqlite3.Connection, seqs: Sequence[int]) -> list[Key]:
    return db.execute(
        "SELECT DISTINCT channel, ordering_key FROM notifications WHERE seq IN (SELECT value FROM json_each(?))",
        (json.dumps(seqs),),
    ).fetchall()


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
