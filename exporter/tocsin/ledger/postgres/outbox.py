"""Claiming and settling notifications, as in `tocsin.ledger.outbox`. A claim is in the table: `owner` is the epoch of
the process that has it."""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from tocsin.ledger.base import MOST_MERGED, Claimed, Settlement, Status
from tocsin.ledger.outbox import Read
from tocsin.ledger.postgres.values import rows_text, storable
from tocsin.ledger.rows import columns_of, notification_of
from tocsin.ledger.windows import Key
from tocsin.model import Notification
from tocsin.postgres import PgConnection

_KEPT_ATTEMPTS = 50
"""Failed attempts kept of one notification: it may have thousands."""

NOTIFICATION = """
    SELECT n.seq, n.id, n.channel, n.attempts, n.created_at, n.not_before, n.ordering_key, n.digest, n.generation,
           t.alert, t.fingerprint, t.kind, t.started_at, t.at, s.columns, t."row", t.previous
    FROM notifications AS n JOIN transitions AS t ON t.id = n.transition JOIN shapes AS s ON s.id = t.shape
"""
_BY_SEQ = f"{NOTIFICATION} WHERE n.seq = ANY(%s)"
_OF_REQUEST = f"{NOTIFICATION} WHERE n.request = %s AND n.status = 'pending' ORDER BY n.seq FOR UPDATE OF n SKIP LOCKED"
_OF_DIGEST = f"{NOTIFICATION} WHERE n.digest = %s AND n.status = 'pending' ORDER BY n.seq LIMIT %s"

# Claiming.

_READY = """
    WITH ready AS MATERIALIZED (
      SELECT n.seq, n.ordering_key, n.request, n.ready_at FROM notifications AS n
      WHERE n.channel = %(channel)s AND n.status = 'pending' AND n.ready_at {when}
        AND (n.owner IS NULL OR n.owner = %(owner)s) AND NOT n.seq = ANY(%(held)s)
      ORDER BY n.ready_at, n.seq LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    SELECT seq, ordering_key, request, ready_at FROM ready WHERE (
      SELECT other.seq FROM notifications AS other
      WHERE other.channel = %(channel)s AND other.ordering_key = ready.ordering_key AND other.status = 'pending'
        AND other.seq <> ready.seq
        AND (other.seq < ready.seq OR other.owner <> %(owner)s OR other.seq = ANY(%(held)s))
      ORDER BY other.seq LIMIT 1) IS NULL
    ORDER BY ready_at, seq
"""
"""Sendable notifications, if they are the first of their ordering key and none of it is sent now."""
_CLAIMED = """
    SELECT count(*), coalesce(bool_or(EXISTS (
      SELECT FROM notifications AS other
      WHERE other.channel = n.channel AND other.ordering_key = n.ordering_key AND other.status = 'pending'
        AND other.owner IS NOT NULL
        AND (other.seq <> n.seq OR other.owner <> %(owner)s OR other.seq = ANY(%(held)s)))), false)
    FROM notifications AS n WHERE n.request = %(request)s AND n.status = 'pending'
"""
"""The members of a request, and whether the ordering key of one is claimed."""
_AT_ONCE = _READY.format(when="= 0")
_AT_A_TIME = _READY.format(when="> 0")


async def notifications(db: PgConnection, statement: str, *arguments: object) -> list[Notification]:
    """The notifications that a statement which begins with `NOTIFICATION` finds."""
    cursor = await db.execute(statement, arguments)
    return [notification_of(row, columns_of) for row in await cursor.fetchall()]


async def claim(
    db: PgConnection,
    known: Mapping[int, Notification],
    channel: str,
    held: Iterable[int],
    limit: int,
    now: float,
    owner: int,
) -> Read:
    """See `Outbox.claim`. `known`: notifications that need not be read, by `seq`. `held`: what this process sends now,
    by `seq`."""
    half = max(1, limit // 2)
    cursor = await db.execute("SELECT coalesce(max(seq), 0) FROM notifications")
    row = await cursor.fetchone()
    assert row is not None
    asked = {"channel": storable(channel), "owner": owner, "held": [*held]}
    timed = await (await db.execute(_AT_A_TIME, {**asked, "limit": half + 1})).fetchall()
    due = [found for found in timed[:half] if found[-1] <= now]
    at_once = await (await db.execute(_AT_ONCE, {**asked, "limit": limit - len(due)})).fetchall()
    heads: list[int] = []
    repeats: list[list[Notification]] = []
    busy: set[str] = set()
    for seq, key, request, _ in (*due, *at_once):
        if key in busy:
            continue
        if request is None:
            heads.append(seq)
            busy.add(key)
            continue
        members = await notifications(db, _OF_REQUEST, request)
        keys = {member.ordering_key for member in members}
        cursor = await db.execute(_CLAIMED, {**asked, "request": request})
        free = await cursor.fetchone() == (len(members), False)
        if free and busy.isdisjoint(keys) and all(member.not_before <= now for member in members):
            repeats.append(members)
            busy |= keys
    chosen = [*heads, *(member.seq for members in repeats for member in members)]
    await db.execute("UPDATE notifications SET owner = %s WHERE seq = ANY(%s) AND owner IS NULL", (owner, chosen))
    found = [one for seq in heads if (one := known.get(seq)) is not None]
    if len(found) < len(heads):
        found += await notifications(db, _BY_SEQ, [*({*heads} - {one.seq for one in found})])
    full = len(due) == half or len(due) + len(at_once) == limit
    claimed = Claimed(
        heads=sorted(found, key=attrgetter("seq")),
        repeats=repeats,
        more=full and bool(heads or repeats),
        next_at=next((row[-1] for row in timed if row[-1] > now), None),
    )
    return Read(claimed, full, row[0])


async def release(db: PgConnection, seqs: Sequence[int], owner: int) -> None:
    """See `Outbox.release`."""
    await db.execute("UPDATE notifications SET owner = NULL WHERE seq = ANY(%s) AND owner = %s", ([*seqs], owner))


async def release_all(db: PgConnection, owner: int) -> None:
    """Give back what a process has claimed."""
    await db.execute("UPDATE notifications SET owner = NULL WHERE owner = %s AND status = 'pending'", (owner,))


async def recover(db: PgConnection, channel: str, since: float, ready_at: float) -> None:
    """See `Outbox.recover`."""
    await db.execute(
        "UPDATE notifications SET owner = NULL, ready_at ="
        " CASE WHEN created_at <= %s THEN greatest(ready_at, %s) ELSE ready_at END"
        " WHERE channel = %s AND status = 'pending' AND ready_at IS NOT NULL"
        " AND (owner IS NOT NULL OR ready_at < %s AND created_at <= %s)",
        (since, ready_at, storable(channel), ready_at, since),
    )


async def bind(db: PgConnection, requests: Sequence[Sequence[int]]) -> None:
    """See `Outbox.bind`. A request has the number of its first member."""
    rows = [(members[0], seq) for members in requests for seq in members]
    await db.execute(
        "UPDATE notifications AS n SET request = given.request"
        " FROM json_to_recordset(%s) AS given (request bigint, seq bigint)"
        " WHERE n.seq = given.seq AND n.status = 'pending'",
        (rows_text(("request", "seq"), rows),),
    )


# Settling.

_SETTLEMENT = ("seq", "status", "attempts", "not_before", "settled_at", "reason", "detail", "keep", "at", "key")
_GIVEN = """
    json_to_recordset(%s) AS given (
      seq bigint, status text, attempts integer, not_before double precision, settled_at double precision, reason text,
      detail text, keep boolean, at double precision, key boolean)
"""
_SETTLE = f"""
    UPDATE notifications AS n SET
      status = given.status, attempts = given.attempts, not_before = given.not_before, settled_at = given.settled_at,
      reason = given.reason, detail = given.detail, request = CASE WHEN given.keep THEN n.request END,
      owner = NULL,
      ordering_key = CASE WHEN given.key AND given.status = 'pending' THEN 'released ' || n.seq ELSE n.ordering_key
        END,
      ready_at = CASE WHEN given.key AND given.status = 'pending' THEN given.not_before END
    FROM {_GIVEN} WHERE n.seq = given.seq AND n.status = 'pending'
"""  # noqa: S608 - made of constants
_NOTE_ATTEMPTS = f"""
    INSERT INTO attempts (seq, at, reason, detail) SELECT seq, at, reason, detail FROM {_GIVEN}
    WHERE reason <> '' AND NOT EXISTS (SELECT FROM attempts WHERE seq = given.seq AND at = given.at)
"""  # noqa: S608 - made of constants
_FORGET_ATTEMPTS = """
    DELETE FROM attempts WHERE seq = ANY(%s) AND number <= (
      SELECT a.number FROM attempts AS a WHERE a.seq = attempts.seq ORDER BY a.number DESC LIMIT 1 OFFSET %s)
"""
_MAKE_READY = """
    UPDATE notifications SET ready_at = not_before WHERE seq IN (
      SELECT head.seq FROM unnest(%s::text[], %s::text[]) AS asked (channel, ordering_key), LATERAL (
        SELECT n.seq FROM notifications AS n
        WHERE n.channel = asked.channel AND n.ordering_key = asked.ordering_key AND n.status = 'pending'
        ORDER BY n.seq LIMIT 1) AS head)
"""


async def settle(db: PgConnection, settlements: Sequence[Settlement]) -> bool:
    """See `Outbox.settle`."""
    rows = rows_text(_SETTLEMENT, map(_values, sorted(settlements, key=attrgetter("seq"))))
    await db.execute(_SETTLE, (rows,))
    if failed := [one.seq for one in settlements if one.reason]:
        await db.execute(_NOTE_ATTEMPTS, (rows,))
        await db.execute(_FORGET_ATTEMPTS, (failed, _KEPT_ATTEMPTS))
    # Also of what an operator has dropped meanwhile: it no longer holds back the next.
    ready = await make_ready(db, {(one.channel, one.ordering_key) for one in settlements})
    return ready or any(one.release_key for one in settlements)


def _values(one: Settlement) -> tuple[object, ...]:
    settled_at = None if one.status is Status.PENDING else one.at
    # Half of a surrogate pair cannot be stored, and would stop the channel.
    detail = storable(one.detail.encode("utf-8", "replace").decode())
    plain = (one.seq, one.status.value, one.attempts, one.not_before, settled_at, str(one.reason), detail)
    return (*plain, one.repeat, one.at, one.release_key)


async def make_ready(db: PgConnection, keys: Iterable[Key]) -> bool:
    """Make the first pending notification of each ordering key sendable. Returns whether there is any."""
    return (await db.execute(_MAKE_READY, keys_of(keys))).rowcount > 0


def keys_of(keys: Iterable[Key]) -> tuple[list[str], list[str]]:
    """Ordering keys as the arguments of `unnest`, in an order that all processes have."""
    ordered = sorted(keys)
    return [storable(channel) for channel, _ in ordered], [storable(key) for _, key in ordered]


# Digests.


async def digest(db: PgConnection, head: Notification, now: float) -> list[Notification]:
    """See `Outbox.digest`."""
    await db.execute(
        "UPDATE windows SET digest = NULL, due = greatest(due, %s) + interval"
        " WHERE channel = %s AND ordering_key = %s AND digest = %s",
        (now, storable(head.channel), storable(head.ordering_key), head.digest),
    )
    return await notifications(db, _OF_DIGEST, head.digest, MOST_MERGED)


async def split_digest(db: PgConnection, head: Notification, at: int, *, refused: bool) -> None:
    """See `Outbox.split_digest`. A digest has the number of its first notification, so that of the new one is free."""
    await db.execute(
        "UPDATE notifications SET digest = %s WHERE digest = %s AND seq >= %s AND status = 'pending'",
        (at, head.digest, at),
    )
    await db.execute(
        "UPDATE notifications SET request = NULL, generation = generation + %s WHERE seq = %s",
        (int(refused), head.seq),
    )


async def previous_ids(db: PgConnection, notification: Notification) -> tuple[str, ...]:
    """See `Outbox.previous_ids`."""
    of = notification.transition
    cursor = await db.execute(
        "SELECT n.id FROM transitions AS t JOIN notifications AS n ON n.transition = t.id"
        " WHERE t.fingerprint = %s AND t.started_at = %s AND t.alert = %s AND n.channel = %s"
        " AND n.status = 'delivered' AND n.seq < %s ORDER BY n.seq",
        (of.fingerprint, of.started_at, storable(of.alert), storable(notification.channel), notification.seq),
    )
    return tuple(row[0] for row in await cursor.fetchall())
