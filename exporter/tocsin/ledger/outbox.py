"""What is asked of the outbox, as statements. Each function runs on a connection of its caller's choice: those that
change something on the writer's, within a transaction."""

import json
import sqlite3
from collections.abc import Sequence
from operator import attrgetter

from tocsin.errors import Reason
from tocsin.firing import Phase
from tocsin.ledger import bulks
from tocsin.ledger.base import MOST_MERGED, Attempt, Backlog, Episode, Filter, Record, Settlement, Status
from tocsin.ledger.encoding import NOTIFICATION, RECORD, notification_of, record_of
from tocsin.ledger.shapes import Shapes
from tocsin.model import Kind, Notification

_KEPT_ATTEMPTS = 50
"""Failed attempts of one notification that are remembered: one that waits for a receiver that asks for patience may
have thousands."""


_PENDING = f"""{NOTIFICATION}
    WHERE n.channel = ? AND n.status = 'pending' AND n.seq > ? AND (n.digest IS NULL OR n.seq =
      (SELECT min(m.seq) FROM notifications AS m WHERE m.digest = n.digest AND m.status = 'pending'))
    ORDER BY n.seq LIMIT ?
"""  # noqa: S608 - made of constants


def pending(db: sqlite3.Connection, shapes: Shapes, channel: str, after: int, limit: int) -> list[Notification]:
    """See `Ledger.pending`."""
    return _notifications(db, shapes, _PENDING, channel, after, limit)


def gather(db: sqlite3.Connection, shapes: Shapes, first: Notification, now: float) -> list[Notification]:
    """See `Ledger.gather`."""
    db.execute(
        "UPDATE windows SET digest = NULL, due = max(due, ?) + interval WHERE channel = ? AND lane = ? AND digest = ?",
        (now, first.channel, first.lane, first.digest),
    )
    statement = NOTIFICATION + "WHERE n.digest = ? AND n.status = 'pending' ORDER BY n.seq LIMIT ?"
    return _notifications(db, shapes, statement, first.digest, MOST_MERGED)


def cut(db: sqlite3.Connection, shapes: Shapes, first: Notification, at: int, *, refused: bool) -> Notification | None:
    """See `Ledger.cut`. A digest is known by the number of its first notification, so the new one's is not taken."""
    db.execute(
        "UPDATE notifications SET digest = ? WHERE digest = ? AND seq >= ? AND status = 'pending'",
        (at, first.digest, at),
    )
    if refused:
        db.execute("UPDATE notifications SET generation = generation + 1 WHERE seq = ?", (first.seq,))
    statement = NOTIFICATION + "WHERE n.digest = ? AND n.status = 'pending' ORDER BY n.seq LIMIT 1"
    return next(iter(_notifications(db, shapes, statement, at)), None)


def _notifications(db: sqlite3.Connection, shapes: Shapes, statement: str, *arguments: object) -> list[Notification]:
    return [notification_of(row, lambda shape: shapes.columns(db, shape)) for row in db.execute(statement, arguments)]


def settle(db: sqlite3.Connection, settlements: Sequence[Settlement]) -> None:
    """See `Ledger.settle`."""
    values = [
        (
            one.status,
            one.attempts,
            one.not_before,
            None if one.status is Status.PENDING else one.at,
            one.reason,
            _storable(one.detail),
            one.seq,
        )
        for one in settlements
    ]
    db.executemany(
        "UPDATE notifications SET status = ?, attempts = ?, not_before = ?, settled_at = ?,"
        " reason = ?, detail = ? WHERE seq = ? AND status = 'pending'",
        values,
    )
    failed = [one for one in settlements if one.reason]
    if not failed:
        return
    db.executemany(
        "INSERT INTO attempts VALUES (?, ?, ?, ?)",
        ((one.seq, one.at, one.reason, _storable(one.detail)) for one in failed),
    )
    db.executemany(
        "DELETE FROM attempts WHERE seq = ? AND rowid <= (SELECT rowid FROM attempts WHERE seq = ?"
        " ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
        ((one.seq, one.seq, _KEPT_ATTEMPTS) for one in failed),
    )


def _storable(detail: str) -> str:
    # A receiver's words: half of a surrogate pair would not go into the file, and stop the channel.
    return detail.encode("utf-8", "replace").decode()


def earlier(db: sqlite3.Connection, notification: Notification) -> tuple[str, ...]:
    """See `Ledger.earlier`."""
    transition = notification.transition
    rows = db.execute(
        "SELECT n.id FROM transitions AS t JOIN notifications AS n ON n.transition = t.id"
        " WHERE t.fingerprint = ? AND t.started_at = ? AND t.alert = ? AND n.channel = ?"
        " AND n.status = 'delivered' AND n.seq < ? ORDER BY n.seq",
        (
            transition.fingerprint,
            transition.started_at,
            transition.alert,
            notification.channel,
            notification.seq,
        ),
    )
    return tuple(row[0] for row in rows)


def backlog(db: sqlite3.Connection) -> dict[str, Backlog]:
    """See `Ledger.backlog`. Two statements, so that each finds its rows in its own small index."""
    waiting = db.execute(
        "SELECT channel, count(*), min(CASE WHEN digest IS NULL OR attempts > 0 THEN created_at"
        " ELSE max(created_at, not_before) END) FROM notifications WHERE status = 'pending' GROUP BY channel"
    ).fetchall()
    dead = dict(db.execute("SELECT channel, count(*) FROM notifications WHERE status = 'dead' GROUP BY channel"))
    found = {name: Backlog(dead=count) for name, count in dead.items()}
    for channel, count, oldest in waiting:
        found[channel] = Backlog(pending=count, oldest=oldest, dead=dead.get(channel, 0))
    return found


def find(db: sqlite3.Connection, shapes: Shapes, wanted: Filter) -> list[Record]:
    """See `Ledger.find`."""
    choices = {
        "n.status = ?": wanted.status,
        "n.channel = ?": wanted.channel,
        "t.alert = ?": wanted.alert,
        "n.id = ?": wanted.id,
        "n.seq < ?": wanted.before,
    }
    conditions = {text: value for text, value in choices.items() if value is not None}
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = db.execute(f"{RECORD} {where} ORDER BY n.seq DESC LIMIT ?", (*conditions.values(), wanted.limit))
    return [record_of(row, lambda shape: shapes.columns(db, shape)) for row in rows]


def attempts(db: sqlite3.Connection, id_: str) -> list[Attempt]:
    """See `Ledger.attempts`."""
    rows = db.execute(
        "SELECT a.at, a.reason, a.detail FROM attempts AS a JOIN notifications AS n ON n.seq = a.seq"
        " WHERE n.id = ? ORDER BY a.rowid",
        (id_,),
    )
    return [Attempt(at=at, reason=reason, detail=detail) for at, reason, detail in rows]


def episodes(db: sqlite3.Connection, shapes: Shapes, alert: str, limit: int) -> list[Episode]:
    """See `Ledger.episodes`. Passed backwards, since an index for this alone would make every batch dearer."""
    latest: dict[tuple[str, int], None] = {}
    rows = db.execute("SELECT fingerprint, started_at FROM transitions WHERE alert = ? ORDER BY id DESC", (alert,))
    for episode in rows:
        latest[episode] = None
        if len(latest) == limit:
            break
    found = [_episode(db, shapes, alert, fingerprint, started_at) for fingerprint, started_at in latest]
    return sorted(found, key=attrgetter("started_at"), reverse=True)


_NEWEST = """
    SELECT kind, at, shape, row FROM transitions WHERE fingerprint = ? AND started_at = ? AND alert = ?
    ORDER BY at DESC, CASE kind WHEN 'resolved' THEN 1 WHEN 'repeated' THEN 2 ELSE 0 END, id DESC LIMIT 1
"""
"""The newest transition of an episode. A row that goes from one route to another resolves on the first and fires on the
second at one time: then it goes on."""


def _episode(db: sqlite3.Connection, shapes: Shapes, alert: str, fingerprint: str, started_at: int) -> Episode:
    kind, at, shape, row = db.execute(_NEWEST, (fingerprint, started_at, alert)).fetchone()
    # What was told may lack the end, by `on`, or be an end for one channel alone, by `when`.
    fires = db.execute(
        "SELECT 1 FROM firings WHERE alert = ? AND fingerprint = ? AND started_at = ? AND phase IN (?, ?)",
        (alert, fingerprint, started_at, Phase.FIRING, Phase.KEEPING),
    ).fetchone()
    counts = db.execute(
        "SELECT n.channel, n.status, count(*) FROM transitions AS t JOIN notifications AS n ON n.transition = t.id"
        " WHERE t.fingerprint = ? AND t.started_at = ? AND t.alert = ? GROUP BY n.channel, n.status"
        " ORDER BY n.channel, n.status",
        (fingerprint, started_at, alert),
    )
    return Episode(
        alert=alert,
        fingerprint=fingerprint,
        started_at=started_at,
        ended_at=at if kind in (Kind.RESOLVED, Kind.EVENT) and not fires else None,
        firing=fires is not None,
        kind=kind,
        columns=shapes.columns(db, shape),
        row=tuple(json.loads(row)),
        deliveries={(channel, Status(status)): count for channel, status, count in counts},
    )


def retry(db: sqlite3.Connection, ids: Sequence[str], now: float) -> int:
    """See `Ledger.retry`."""
    final = ", ".join(f"'{reason}'" for reason in _FINAL)
    return _restate(
        db,
        ids,
        now,
        "UPDATE notifications SET status = 'pending', attempts = 0, not_before = 0, created_at = ?, settled_at = NULL,"  # noqa: S608 - made of constants
        f" generation = generation + (reason IN ({final})) WHERE id = ? AND status IN ('dead', 'dropped')",
    )


_FINAL = (Reason.REJECTED, Reason.NOT_FOUND, Reason.TOO_LARGE, Reason.NOT_PROCESSED)
"""What a receiver says for good. One that keeps answers under idempotency keys says it again under the same key, though
its cause may be gone. Other dead letters keep their key: the receiver may have them."""


def drop(db: sqlite3.Connection, ids: Sequence[str], now: float) -> int:
    """See `Ledger.drop`."""
    dropped = _restate(
        db,
        ids,
        now,
        "UPDATE notifications SET status = 'dropped', settled_at = ? WHERE id = ? AND status IN ('dead', 'pending')",
    )
    bulks.leave_out_settled(db)
    return dropped


def _restate(db: sqlite3.Connection, ids: Sequence[str], now: float, statement: str) -> int:
    return sum(db.execute(statement, (now, name)).rowcount for name in ids)


def dead_letter_unrouted(db: sqlite3.Connection, channels: Sequence[str], now: float) -> int:
    """See `Ledger.dead_letter_unrouted`. The list travels as JSON, so that the statement is the same for any number of
    channels."""
    return db.execute(
        "UPDATE notifications SET status = 'dead', settled_at = ?, reason = ?, detail = ?"
        " WHERE status = 'pending' AND channel NOT IN (SELECT value FROM json_each(?))",
        (now, Reason.UNROUTED, "the channel is no longer in the configuration", json.dumps(list(channels))),
    ).rowcount


def old(db: sqlite3.Connection, before: float, limit: int) -> list[tuple[int, int]]:
    """Numbers and transitions of what `prune` may delete. An episode that still fires keeps its notifications: what
    ends it may have to name them (a cancel)."""
    return db.execute(
        "SELECT n.seq, n.transition FROM notifications AS n JOIN transitions AS t ON t.id = n.transition"
        " WHERE n.status IN ('delivered', 'dropped') AND n.settled_at < ? AND NOT EXISTS ("
        "   SELECT 1 FROM firings AS f WHERE f.alert = t.alert AND f.fingerprint = t.fingerprint"
        "   AND f.started_at = t.started_at)"
        " ORDER BY n.seq LIMIT ?",
        (before, limit),
    ).fetchall()


def forget(db: sqlite3.Connection, found: Sequence[tuple[int, int]]) -> None:
    """Delete what `old` found, if it is still settled."""
    db.executemany(
        "DELETE FROM notifications WHERE seq = ? AND status IN ('delivered', 'dropped')", ((seq,) for seq, _ in found)
    )
    db.executemany(
        "DELETE FROM attempts WHERE seq = ? AND NOT EXISTS (SELECT 1 FROM notifications WHERE seq = attempts.seq)",
        ((seq,) for seq, _ in found),
    )
    db.executemany(
        "DELETE FROM transitions WHERE id = ? AND NOT EXISTS"
        " (SELECT 1 FROM notifications WHERE transition = transitions.id)",
        ((transition,) for _, transition in found),
    )


def forget_past(db: sqlite3.Connection, now: float) -> None:
    """Delete windows that are over, sightings that count no more, and bulks of which nothing is left."""
    bulks.leave_out_settled(db)
    db.execute("DELETE FROM windows WHERE digest IS NULL AND due < ?", (now,))
    db.execute("DELETE FROM sightings WHERE until < ?", (int(now * 1000),))
