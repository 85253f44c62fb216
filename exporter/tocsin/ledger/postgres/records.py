"""What operators ask of the outbox, and maintenance, as in `tocsin.ledger.records`."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from operator import attrgetter

from tocsin.errors import Reason
from tocsin.firing import Phase
from tocsin.ledger.attempts import UNFINISHED
from tocsin.ledger.base import MOST_MERGED, Attempt, Backlog, Episode, Filter, Line, Record, Status
from tocsin.ledger.postgres.outbox import keys_text, make_ready
from tocsin.ledger.postgres.transaction import Transaction
from tocsin.ledger.postgres.values import storable
from tocsin.ledger.records import FINAL, KEPT_SIGHTINGS, deliveries
from tocsin.ledger.rows import HELD, columns_of, record_of, row_of
from tocsin.ledger.windows import Key
from tocsin.model import Kind

_RECORD = """
    SELECT n.seq, n.id, t.alert, n.channel, t.kind, n.status, t.fingerprint, t.started_at, t.at, n.attempts,
           n.created_at, n.not_before, n.settled_at, n.reason, n.detail, n.digest, n.generation, n.ordering_key,
           CASE WHEN n.status = 'held' THEN n.silence END, silences.reason, s.columns, t."row", t.previous
    FROM notifications AS n JOIN transitions AS t ON t.id = n.transition JOIN shapes AS s ON s.id = t.shape
    LEFT JOIN silences ON silences.id = n.silence AND n.status = 'held'
"""

# Reading.


async def backlog(db: Transaction) -> Callable[[], dict[str, Backlog]]:
    """See `Ledger.backlog`."""
    pending = db.add(
        "SELECT channel, count(*), min(CASE WHEN digest IS NULL OR attempts > 0 THEN created_at"
        " ELSE greatest(created_at, not_before) END) FROM notifications WHERE status = 'pending' GROUP BY channel"
    )
    dead = db.add("SELECT channel, count(*) FROM notifications WHERE status = 'dead' GROUP BY channel")
    held = db.add("SELECT channel, count(*), min(created_at) FROM notifications WHERE status = 'held' GROUP BY channel")

    def found() -> dict[str, Backlog]:
        backlogs = {name: Backlog(dead=count) for name, count in dead.rows}
        for channel, count, oldest in pending.rows:
            backlogs[channel] = Backlog(pending=count, oldest=oldest, dead=dict(dead.rows).get(channel, 0))
        for channel, count, oldest in held.rows:
            backlogs[channel] = replace(backlogs.get(channel, Backlog()), silenced=count, oldest_silenced=oldest)
        return backlogs

    return found


async def find(db: Transaction, wanted: Filter) -> Callable[[], list[Record]]:
    """See `Ledger.find`."""
    prefix = wanted.id_prefix
    pending = wanted.status is Status.PENDING
    choices = {
        "n.status = ANY(%s)": wanted.status and [wanted.status.value, *([HELD] if pending else [])],
        "n.channel = %s": None if wanted.channel is None else storable(wanted.channel),
        "t.alert = %s": None if wanted.alert is None else storable(wanted.alert),
        "n.reason = %s": wanted.reason,
        "t.fingerprint = %s": wanted.fingerprint,
        "n.id = %s": wanted.id,
        "starts_with(n.id, %s)": prefix,
        "n.status = 'held' AND n.silence = %s": wanted.silence,
        "n.seq < %s": wanted.before,
    }
    conditions = {text: value for text, value in choices.items() if value is not None}
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"{_RECORD} {where} ORDER BY n.seq DESC LIMIT %s"
    found = db.add(statement, (*conditions.values(), wanted.limit))
    return lambda: [record_of(row, columns_of) for row in found.rows]


async def attempts(db: Transaction, id_: str) -> Callable[[], list[Attempt]]:
    """See `Ledger.attempts`."""
    found = db.add(
        "SELECT a.at, a.reason, a.detail FROM attempts AS a JOIN notifications AS n ON n.seq = a.seq"
        " WHERE n.id = %s ORDER BY a.number",
        (id_,),
    )
    return lambda: [Attempt(at=at, reason=reason, detail=detail) for at, reason, detail in found.rows]


async def ended(db: Transaction, since: int, limit: int) -> Callable[[], list[tuple[str, int, int]]]:
    """See `Ledger.ended`."""
    found = db.add(
        "SELECT alert, started_at, at FROM transitions WHERE kind IN ('resolved', 'event') AND at >= %s"
        " ORDER BY id DESC LIMIT %s",
        (since, limit),
    )
    return lambda: [(alert, started_at, at) for alert, started_at, at in found.rows]


async def line(db: Transaction, channel: str, ordering_key: str) -> Callable[[], Line]:
    """See `Ledger.line`."""
    key = storable(channel), storable(ordering_key)
    ours = "WHERE n.channel = %s AND n.ordering_key = %s AND n.status = 'pending'"
    count = db.add(f"SELECT count(*) FROM notifications AS n {ours}", key)  # noqa: S608 - made of constants
    first = db.add(f"{_RECORD} {ours} ORDER BY n.seq LIMIT %s", (*key, MOST_MERGED))
    window = db.add("SELECT due FROM windows WHERE channel = %s AND ordering_key = %s", key)
    return lambda: Line(
        count=count.rows[0][0],
        first=[record_of(row, columns_of) for row in first.rows],
        due=window.rows[0][0] if window.rows else None,
    )


_EPISODES = """
    WITH latest AS (
      SELECT fingerprint, started_at FROM transitions WHERE alert = %(alert)s
      GROUP BY fingerprint, started_at ORDER BY max(id) DESC LIMIT %(limit)s
    )
    SELECT e.fingerprint, e.started_at, newest.kind, newest.at, s.columns, newest."row", EXISTS (
      SELECT FROM firings AS f WHERE f.alert = %(alert)s AND f.fingerprint = e.fingerprint
        AND f.started_at = e.started_at AND f.phase = ANY(%(phases)s))
    FROM latest AS e, LATERAL (
      SELECT t.kind, t.at, t.shape, t."row" FROM transitions AS t
      WHERE t.fingerprint = e.fingerprint AND t.started_at = e.started_at AND t.alert = %(alert)s
      ORDER BY t.at DESC, CASE t.kind WHEN 'resolved' THEN 1 WHEN 'repeated' THEN 2 ELSE 0 END, t.id DESC LIMIT 1
    ) AS newest JOIN shapes AS s ON s.id = newest.shape
"""
_DELIVERIES = """
    SELECT n.channel, n.status, count(*) FROM transitions AS t JOIN notifications AS n ON n.transition = t.id
    WHERE t.fingerprint = %s AND t.started_at = %s AND t.alert = %s GROUP BY n.channel, n.status
    ORDER BY n.channel, n.status
"""


async def episodes(db: Transaction, alert: str, limit: int) -> Callable[[], list[Episode]]:
    """See `Ledger.episodes`."""
    phases = [str(Phase.FIRING), str(Phase.KEEPING)]
    found = await db.get(_EPISODES, {"alert": storable(alert), "limit": limit, "phases": phases})
    counts = [db.add(_DELIVERIES, (fingerprint, at, storable(alert))) for fingerprint, at, *_ in found.rows]

    def episodes() -> list[Episode]:
        made = [
            Episode(
                alert=alert,
                fingerprint=fingerprint,
                started_at=started_at,
                ended_at=at if kind in (Kind.RESOLVED, Kind.EVENT) and not fires else None,
                firing=fires,
                kind=kind,
                columns=columns_of(columns),
                row=row_of(row),
                deliveries=deliveries(counted.rows),
            )
            for (fingerprint, started_at, kind, at, columns, row, fires), counted in zip(
                found.rows, counts, strict=True
            )
        ]
        return sorted(made, key=attrgetter("started_at"), reverse=True)

    return episodes


# Changing.

_RETRY = """
    UPDATE notifications SET
      status = 'pending', attempts = 0, not_before = 0, created_at = %s, settled_at = NULL, ready_at = NULL,
      owner = NULL, silence = NULL, passes = 0, generation = generation + CASE WHEN reason = ANY(%s) THEN 1 ELSE 0 END
    WHERE id = ANY(%s) AND status IN ('dead', 'dropped')
    RETURNING channel, ordering_key
"""
_HOLD_BACK = """
    UPDATE notifications SET ready_at = NULL WHERE seq IN (
      SELECT ready.seq FROM keys(%s) AS a, LATERAL (
        SELECT n.seq FROM notifications AS n
        WHERE n.channel = a.channel AND n.ordering_key = a.ordering_key AND n.status = 'pending'
          AND n.ready_at + 0 IS NOT NULL OFFSET 0) AS ready)
"""
"""`OFFSET` has each key looked up by itself, and the sum keeps the index of everything sendable out of it."""
_DROP = """
    UPDATE notifications SET status = 'dropped', settled_at = %s, request = NULL, owner = NULL
    WHERE id = ANY(%s) AND status IN ('dead', 'pending', 'held')
    RETURNING channel, ordering_key
"""


_FORGET_UNFINISHED = """
    DELETE FROM attempts WHERE reason = %s AND seq IN (
      SELECT seq FROM notifications WHERE id = ANY(%s) AND status IN ('dead', 'dropped'))
"""


async def retry(db: Transaction, ids: Sequence[str], now: float) -> Callable[[], int]:
    """See `Ledger.retry`."""
    db.do(_FORGET_UNFINISHED, (UNFINISHED[0], [*ids]))
    changed = await db.get(_RETRY, (now, [str(reason) for reason in FINAL], [*ids]))
    order_again(db, {(channel, key) for channel, key in changed.rows})
    return lambda: changed.count


def order_again(db: Transaction, keys: AbstractSet[Key]) -> None:
    """Have what became pending again, which is older than what is pending now, sent before it."""
    db.do(_HOLD_BACK, (keys_text(keys),))
    make_ready(db, keys)


async def drop(db: Transaction, ids: Sequence[str], now: float) -> Callable[[], int]:
    """See `Ledger.drop`."""
    changed = await db.get(_DROP, (now, [*ids]))
    make_ready(db, {(channel, key) for channel, key in changed.rows})
    return lambda: changed.count


async def dead_letter_unrouted(db: Transaction, channels: Sequence[str], now: float) -> Callable[[], int]:
    """See `Ledger.dead_letter_unrouted`."""
    changed = db.add(
        "UPDATE notifications SET status = 'dead', settled_at = %s, reason = %s, detail = %s, owner = NULL"
        " WHERE status IN ('pending', 'held') AND NOT channel = ANY(%s)",
        (now, str(Reason.UNROUTED), "the channel is no longer in the configuration", [*map(storable, channels)]),
    )
    return lambda: changed.count


_PRUNABLE = """
    SELECT n.seq, n.transition FROM notifications AS n JOIN transitions AS t ON t.id = n.transition
    WHERE n.status IN ('delivered', 'dropped') AND n.settled_at < %s AND NOT EXISTS (
      SELECT FROM firings AS f WHERE f.alert = t.alert AND f.fingerprint = t.fingerprint
        AND f.started_at = t.started_at)
    ORDER BY n.seq LIMIT %s
"""


async def prune(db: Transaction, before: float, limit: int, now: float) -> Callable[[], int]:
    """See `Ledger.prune`. An episode that still fires keeps its notifications: the one that ends it may name them (a
    cancel)."""
    found = (await db.get(_PRUNABLE, (before, limit))).rows
    seqs, transitions = [seq for seq, _ in found], [transition for _, transition in found]
    db.do("DELETE FROM notifications WHERE seq = ANY(%s) AND status IN ('delivered', 'dropped')", (seqs,))
    db.do(
        "DELETE FROM attempts WHERE seq = ANY(%s)"
        " AND NOT EXISTS (SELECT FROM notifications AS n WHERE n.seq = attempts.seq)",
        (seqs,),
    )
    db.do(
        "DELETE FROM transitions WHERE id = ANY(%s)"
        " AND NOT EXISTS (SELECT FROM notifications AS n WHERE n.transition = transitions.id)",
        (transitions,),
    )
    db.do("DELETE FROM silences WHERE closed_at < %s", (before,))
    db.do("DELETE FROM windows WHERE digest IS NULL AND due < %s", (now,))
    db.do("DELETE FROM sightings WHERE until < %s", (int((now - KEPT_SIGHTINGS) * 1000),))
    return lambda: len(found)
