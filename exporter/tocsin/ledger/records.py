"""What operators ask of the outbox, and maintenance, as SQL."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from operator import attrgetter

from tocsin.errors import Reason
from tocsin.firing import Phase
from tocsin.ledger.attempts import UNFINISHED
from tocsin.ledger.base import MOST_MERGED, Attempt, Backlog, Episode, Filter, Line, Record, Status
from tocsin.ledger.opening import one
from tocsin.ledger.outbox import make_ready
from tocsin.ledger.rows import RECORD, Shapes, row_of, status_of
from tocsin.ledger.windows import Key
from tocsin.model import Kind

# Reading.


def backlog(db: sqlite3.Connection) -> dict[str, Backlog]:
    """See `Ledger.backlog`. Three statements, so that each reads its own small index."""
    pending = db.execute(
        "SELECT channel, count(*), min(CASE WHEN digest IS NULL OR attempts > 0 THEN created_at"
        " ELSE max(created_at, not_before) END) FROM notifications WHERE status = 'pending' GROUP BY channel"
    ).fetchall()
    dead = dict(db.execute("SELECT channel, count(*) FROM notifications WHERE status = 'dead' GROUP BY channel"))
    found = {name: Backlog(dead=count) for name, count in dead.items()}
    for channel, count, oldest in pending:
        found[channel] = Backlog(pending=count, oldest=oldest, dead=dead.get(channel, 0))
    held = "SELECT channel, count(*), min(created_at) FROM notifications WHERE status = 'held' GROUP BY channel"
    for channel, count, oldest in db.execute(held):
        found[channel] = replace(found.get(channel, Backlog()), silenced=count, oldest_silenced=oldest)
    return found


def find(db: sqlite3.Connection, shapes: Shapes, wanted: Filter) -> list[Record]:
    """See `Ledger.find`."""
    choices = {
        "(n.status = ?1 OR ?1 = 'pending' AND n.status = 'held')": wanted.status,
        "n.channel = ?": wanted.channel,
        "t.alert = ?": wanted.alert,
        "n.reason = ?": wanted.reason,
        "t.fingerprint = ?": wanted.fingerprint,
        "n.id = ?": wanted.id,
        "n.id >= ?": wanted.id_prefix,
        "n.id < ? || '~'": wanted.id_prefix,
        "n.status = 'held' AND n.silence = ?": wanted.silence,
        "n.seq < ?": wanted.before,
    }
    conditions = {text: value for text, value in choices.items() if value is not None}
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = db.execute(f"{RECORD} {where} ORDER BY n.seq DESC LIMIT ?", (*conditions.values(), wanted.limit))
    return [shapes.record(db, row) for row in rows]


def attempts(db: sqlite3.Connection, id_: str) -> list[Attempt]:
    """See `Ledger.attempts`."""
    rows = db.execute(
        "SELECT a.at, a.reason, a.detail FROM attempts AS a JOIN notifications AS n ON n.seq = a.seq"
        " WHERE n.id = ? ORDER BY a.rowid",
        (id_,),
    )
    return [Attempt(at=at, reason=reason, detail=detail) for at, reason, detail in rows]


def line(db: sqlite3.Connection, shapes: Shapes, channel: str, ordering_key: str) -> Line:
    """See `Ledger.line`."""
    key = channel, ordering_key
    ours = "WHERE n.channel = ? AND n.ordering_key = ? AND n.status = 'pending'"
    rows = db.execute(f"{RECORD} {ours} ORDER BY n.seq LIMIT ?", (*key, MOST_MERGED))
    return Line(
        count=one(db, f"SELECT count(*) FROM notifications AS n {ours}", *key),  # noqa: S608 - made of constants
        first=[shapes.record(db, row) for row in rows],
        due=one(db, "SELECT due FROM windows WHERE channel = ? AND ordering_key = ?", *key),
    )


def episodes(db: sqlite3.Connection, shapes: Shapes, alert: str, limit: int) -> list[Episode]:
    """See `Ledger.episodes`. Scanned backwards: an index for this alone would make every batch more expensive."""
    latest: dict[tuple[str, int], None] = {}
    rows = db.execute("SELECT fingerprint, started_at FROM transitions WHERE alert = ? ORDER BY id DESC", (alert,))
    for episode in rows:
        latest[episode] = None
        if len(latest) == limit:
            break
    found = [_episode(db, shapes, alert, fingerprint, started_at) for fingerprint, started_at in latest]
    return sorted(found, key=attrgetter("started_at"), reverse=True)


def deliveries(counts: Iterable[tuple[str, str, int]]) -> Mapping[tuple[str, Status], int]:
    """`Episode.deliveries` of counts by channel and the status that the tables have."""
    found: Counter[tuple[str, Status]] = Counter()
    for channel, status, count in counts:
        found[channel, status_of(status)] += count
    return found


def ended(db: sqlite3.Connection, since: int, limit: int) -> list[tuple[str, int, int]]:
    """See `Ledger.ended`. A scan, as `episodes` is."""
    return db.execute(
        "SELECT alert, started_at, at FROM transitions WHERE kind IN ('resolved', 'event') AND at >= ?"
        " ORDER BY id DESC LIMIT ?",
        (since, limit),
    ).fetchall()


_NEWEST = """
    SELECT kind, at, shape, row FROM transitions WHERE fingerprint = ? AND started_at = ? AND alert = ?
    ORDER BY at DESC, CASE kind WHEN 'resolved' THEN 1 WHEN 'repeated' THEN 2 ELSE 0 END, id DESC LIMIT 1
"""
"""The newest transition of an episode. A row that moves between routes resolves on one and fires on the other at the
same time: then it still fires."""


def _episode(db: sqlite3.Connection, shapes: Shapes, alert: str, fingerprint: str, started_at: int) -> Episode:
    kind, at, shape, row = db.execute(_NEWEST, (fingerprint, started_at, alert)).fetchone()
    # Notifications may lack the end (`on`), or have an end for one channel only (`when`).
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
        row=row_of(row),
        deliveries=deliveries(counts),
    )


# Changing.

KEPT_SIGHTINGS = 900.0
"""Seconds that a sighting is kept after its end: the clock that an event has its time from may be behind."""

FINAL = (Reason.REJECTED, Reason.NOT_FOUND, Reason.TOO_LARGE, Reason.NOT_PROCESSED)
"""Final answers of a receiver. One that keeps answers by idempotency key would repeat them under the same key, though
their cause may be fixed. Other dead letters keep their key: the receiver may have accepted them."""

_RETRY = f"""
    UPDATE notifications SET
      status = 'pending', attempts = 0, not_before = 0, created_at = ?, settled_at = NULL, ready_at = NULL,
      silence = NULL, passes = 0, generation = generation + (reason IN ({", ".join(f"'{reason}'" for reason in FINAL)}))
    WHERE id = ? AND status IN ('dead', 'dropped')
    RETURNING channel, ordering_key
"""  # noqa: S608 - made of constants
_DROP = """
    UPDATE notifications SET status = 'dropped', settled_at = ?, request = NULL
    WHERE id = ? AND status IN ('dead', 'pending', 'held')
    RETURNING channel, ordering_key
"""


_FORGET_UNFINISHED = """
    DELETE FROM attempts WHERE reason = ? AND seq = (
      SELECT seq FROM notifications WHERE id = ? AND status IN ('dead', 'dropped'))
"""


def retry(db: sqlite3.Connection, ids: Sequence[str], now: float) -> int:
    """See `Ledger.retry`."""
    db.executemany(_FORGET_UNFINISHED, ((UNFINISHED[0], id_) for id_ in ids))
    keys = _restate(db, _RETRY, ids, now)
    order_again(db, set(keys))
    return len(keys)


def order_again(db: sqlite3.Connection, keys: AbstractSet[Key]) -> None:
    """Have what became pending again, which is older than what is pending now, sent before it."""
    # Without the sign, the index of everything sendable would be read for each key.
    db.executemany(
        "UPDATE notifications SET ready_at = NULL"
        " WHERE channel = ? AND ordering_key = ? AND status = 'pending' AND +ready_at IS NOT NULL",
        keys,
    )
    make_ready(db, keys)


def drop(db: sqlite3.Connection, ids: Sequence[str], now: float) -> int:
    """See `Ledger.drop`."""
    keys = _restate(db, _DROP, ids, now)
    make_ready(db, set(keys))
    return len(keys)


def _restate(db: sqlite3.Connection, statement: str, ids: Sequence[str], now: float) -> list[Key]:
    return [key for id_ in ids for key in db.execute(statement, (now, id_)).fetchall()]


def dead_letter_unrouted(db: sqlite3.Connection, channels: Sequence[str], now: float) -> int:
    """See `Ledger.dead_letter_unrouted`."""
    return db.execute(
        "UPDATE notifications SET status = 'dead', settled_at = ?, reason = ?, detail = ?"
        " WHERE status IN ('pending', 'held') AND channel NOT IN (SELECT value FROM json_each(?))",
        (now, Reason.UNROUTED, "the channel is no longer in the configuration", json.dumps(list(channels))),
    ).rowcount


def prunable(db: sqlite3.Connection, before: float, limit: int) -> list[tuple[int, int]]:
    """The seq and transition of what `Ledger.prune` deletes. An episode that still fires keeps its notifications: the
    one that ends it may name them (a cancel)."""
    return db.execute(
        "SELECT n.seq, n.transition FROM notifications AS n JOIN transitions AS t ON t.id = n.transition"
        " WHERE n.status IN ('delivered', 'dropped') AND n.settled_at < ? AND NOT EXISTS ("
        "   SELECT 1 FROM firings AS f WHERE f.alert = t.alert AND f.fingerprint = t.fingerprint"
        "   AND f.started_at = t.started_at)"
        " ORDER BY n.seq LIMIT ?",
        (before, limit),
    ).fetchall()


def prune(db: sqlite3.Connection, found: Sequence[tuple[int, int]], before: float, now: float) -> None:
    """Delete what `prunable` found, unless it is pending again; and windows, sightings and silences that are over."""
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
    db.execute("DELETE FROM silences WHERE closed_at < ?", (before,))
    db.execute("DELETE FROM windows WHERE digest IS NULL AND due < ?", (now,))
    db.execute("DELETE FROM sightings WHERE until < ?", (int((now - KEPT_SIGHTINGS) * 1000),))
