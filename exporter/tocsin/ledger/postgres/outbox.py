"""Claiming and settling notifications, as in `tocsin.ledger.outbox`. A claim is in the table: `owner` is the epoch of
the process that has it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter

from tocsin.ledger.attempts import UNFINISHED
from tocsin.ledger.base import MOST_MERGED, Claimed, Settlement, Status
from tocsin.ledger.outbox import Read
from tocsin.ledger.postgres.transaction import Result, Transaction
from tocsin.ledger.postgres.values import rows_text, storable
from tocsin.ledger.rows import columns_of, encode, notification_of
from tocsin.ledger.windows import Key
from tocsin.model import Notification

_KEPT_ATTEMPTS = 50
"""Failed attempts kept of one notification: it may have thousands."""

NOTIFICATION = """
    SELECT n.seq, n.id, n.channel, n.attempts, n.created_at, n.not_before, n.ordering_key, n.digest, n.generation,
           n.silence IS NOT NULL, n.passes = 1,
           t.alert, t.fingerprint, t.kind, t.started_at, t.at, s.columns, t."row", t.previous
    FROM notifications AS n JOIN transitions AS t ON t.id = n.transition JOIN shapes AS s ON s.id = t.shape
"""
_BY_SEQ = f"{NOTIFICATION} WHERE n.seq = ANY(%s)"
_OF_REQUEST = f"{NOTIFICATION} WHERE n.request = %s AND n.status = 'pending' ORDER BY n.seq FOR UPDATE OF n SKIP LOCKED"
_OF_DIGEST = f"{NOTIFICATION} WHERE n.digest = %s AND n.status = 'pending' ORDER BY n.seq LIMIT %s"

# Claiming.

_PENDING = "n.status IS NOT DISTINCT FROM 'pending'"
"""With `=`, a planner to which the table looks small would read an index of everything pending for each row."""
_BIND = f"""
    UPDATE notifications AS n SET request = given.request
    FROM json_to_recordset(%s) AS given (request bigint, seq bigint) WHERE n.seq = given.seq AND {_PENDING}
"""  # noqa: S608 - made of constants

_READY = """
    WITH ready AS MATERIALIZED (
      SELECT n.seq, n.ordering_key, n.request, n.ready_at FROM notifications AS n
      WHERE n.channel = %(channel)s AND n.status = 'pending' AND n.ready_at {when}
        AND (n.owner IS NULL OR n.owner = %(owner)s) AND NOT n.ordering_key = ANY(%(held)s)
      ORDER BY n.ready_at, n.seq LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    SELECT seq, ordering_key, request, ready_at FROM ready WHERE (
      SELECT other.seq FROM notifications AS other
      WHERE other.channel = %(channel)s AND other.ordering_key = ready.ordering_key AND other.status = 'pending'
        AND other.seq <> ready.seq AND (other.seq < ready.seq OR other.owner <> %(owner)s)
      ORDER BY other.seq LIMIT 1) IS NULL
    ORDER BY ready_at, seq
"""
"""Sendable notifications, if they are the first of their ordering key and none of it is sent now."""
_CLAIMED = """
    SELECT count(*), coalesce(bool_or(n.ordering_key = ANY(%(held)s) OR EXISTS (
      SELECT FROM notifications AS other
      WHERE other.channel = n.channel AND other.ordering_key = n.ordering_key AND other.status = 'pending'
        AND other.owner <> %(owner)s)), false)
    FROM notifications AS n WHERE n.request = %(request)s AND n.status = 'pending'
"""
"""The members of a request, and whether the ordering key of one is claimed."""
_GIVE_WAY = """
    UPDATE notifications SET owner = NULL
    WHERE channel = %s AND ordering_key = ANY(%s) AND status = 'pending' AND owner = %s AND NOT seq = ANY(%s)
"""
"""A later one of the ordering key was claimed when it was committed; then an earlier one became pending again."""
_RECOVER = """
    UPDATE notifications AS n SET owner = NULL, passes = CASE WHEN n.passes = 0 THEN 2 ELSE n.passes END,
      ready_at = CASE WHEN n.created_at <= %s THEN greatest(n.ready_at, %s) ELSE n.ready_at END
    WHERE n.channel = %s AND n.status = 'pending' AND n.owner IS NOT NULL
      AND (n.owner = %s OR NOT EXISTS (SELECT FROM instances WHERE epoch = n.owner))
"""
_AT_ONCE = _READY.format(when="= 0")
_AT_A_TIME = _READY.format(when="> 0")


def notifications(result: Result) -> list[Notification]:
    """The notifications that a statement which begins with `NOTIFICATION` has found."""
    return [notification_of(row, columns_of) for row in result.rows]


async def claim(
    db: Transaction,
    known: Mapping[int, Notification],
    channel: str,
    held: Iterable[str],
    limit: int,
    now: float,
    owner: int,
) -> Callable[[], Read]:
    """See `Outbox.claim`. `known`: notifications that need not be read, by `seq`. `held`: the ordering keys of what
    this process sends now, also of what an operator has dropped meanwhile."""
    half = max(1, limit // 2)
    asked = {"channel": storable(channel), "owner": owner, "held": [*map(storable, held)]}
    last = db.add("SELECT coalesce(max(seq), 0) FROM notifications")
    timed = db.add(_AT_A_TIME, {**asked, "limit": half + 1})
    ready = await db.get(_AT_ONCE, {**asked, "limit": limit})
    due = [row for row in timed.rows[:half] if row[-1] <= now]
    at_once = ready.rows[: limit - len(due)]
    heads: list[int] = []
    repeats: list[list[Notification]] = []
    busy: set[str] = set()
    for seq, key, request, _ in (*due, *at_once):
        if key in busy:
            continue
        if request is None:
            heads.append(seq)
            busy.add(key)
        elif members := await _free_members(db, {**asked, "request": request}, busy, now):
            repeats.append(members)
            busy |= {member.ordering_key for member in members}
    chosen = [*heads, *(member.seq for members in repeats for member in members)]
    db.do(_GIVE_WAY, (asked["channel"], [*map(storable, busy)], owner, chosen))
    db.do("UPDATE notifications SET owner = %s WHERE seq = ANY(%s) AND owner IS NULL", (owner, chosen))
    in_memory = [one for seq in heads if (one := known.get(seq)) is not None]
    others = db.add(_BY_SEQ, ([*({*heads} - {one.seq for one in in_memory})],))
    full = len(due) == half or len(due) + len(at_once) == limit

    def read() -> Read:
        claimed = Claimed(
            heads=sorted([*in_memory, *notifications(others)], key=attrgetter("seq")),
            repeats=repeats,
            more=full and bool(heads or repeats),
            next_at=next((row[-1] for row in timed.rows if row[-1] > now), None),
        )
        return Read(claimed, full, last.rows[0][0])

    return read


async def _free_members(
    db: Transaction, asked: dict[str, object], busy: AbstractSet[str], now: float
) -> list[Notification] | None:
    """The members of a request; None if one of them cannot be sent now."""
    found = db.add(_OF_REQUEST, (asked["request"],))
    claimed = await db.get(_CLAIMED, asked)
    members = notifications(found)
    if claimed.rows != [(len(members), False)] or any(member.not_before > now for member in members):
        return None
    return members if busy.isdisjoint({member.ordering_key for member in members}) else None


def release(db: Transaction, seqs: Sequence[int], owner: int) -> None:
    """See `Outbox.release`."""
    db.do("UPDATE notifications SET owner = NULL WHERE seq = ANY(%s) AND owner = %s", ([*seqs], owner))


def release_all(db: Transaction, owner: int) -> None:
    """Give back what a process has claimed."""
    db.do(
        "UPDATE notifications SET owner = NULL, passes = CASE WHEN passes = 0 THEN 2 ELSE passes END"
        " WHERE owner = %s AND status = 'pending'",
        (owner,),
    )


def recover(db: Transaction, channel: str, owner: int, since: float, ready_at: float) -> None:
    """See `Outbox.recover`: of the claims of `owner`, and of processes that have ended."""
    db.do(_RECOVER, (since, ready_at, storable(channel), owner))


def bind(db: Transaction, requests: Sequence[Sequence[int]]) -> None:
    """See `Outbox.bind`. A request has the number of its first member."""
    rows = [(members[0], seq) for members in requests for seq in members]
    db.do(_BIND, (rows_text(("request", "seq"), rows),))


_UNFINISHED = """
    SELECT count(*) FROM notifications AS n JOIN attempts AS a ON a.seq = n.seq
    WHERE n.id = %s AND a.reason = %s
"""
_BEGIN = "INSERT INTO attempts (seq, at, reason, detail) SELECT seq, %s, %s, %s FROM notifications WHERE id = %s"
_END = """
    DELETE FROM attempts WHERE number = (
      SELECT max(a.number) FROM notifications AS n JOIN attempts AS a ON a.seq = n.seq
      WHERE n.id = %s AND a.reason = %s)
"""


def begin(db: Transaction, id_: str, now: float) -> Callable[[], int]:
    """See `Outbox.begin`."""
    before = db.add(_UNFINISHED, (id_, UNFINISHED[0]))
    db.do(_BEGIN, (now, *UNFINISHED, id_))
    return lambda: int(before.rows[0][0])


def end(db: Transaction, id_: str) -> None:
    """See `Outbox.end`."""
    db.do(_END, (id_, UNFINISHED[0]))


# Settling.

_SETTLEMENT = ("seq", "status", "attempts", "not_before", "settled_at", "reason", "detail", "keep", "at", "key")
_GIVEN = """
    json_to_recordset(%s) AS given (
      seq bigint, status text, attempts integer, not_before double precision, settled_at double precision, reason text,
      detail text, keep boolean, at double precision, key boolean)
"""
_NOTE_ATTEMPTS = f"""
    INSERT INTO attempts (seq, at, reason, detail) SELECT seq, at, reason, detail FROM {_GIVEN}
    WHERE reason <> '' AND NOT EXISTS (SELECT FROM attempts WHERE seq = given.seq AND at = given.at)
"""  # noqa: S608 - made of constants
_FORGET_ATTEMPTS = """
    DELETE FROM attempts WHERE seq = ANY(%s) AND number <= (
      SELECT a.number FROM attempts AS a WHERE a.seq = attempts.seq ORDER BY a.number DESC LIMIT 1 OFFSET %s)
"""


def settle(db: Transaction, settlements: Sequence[Settlement]) -> Callable[[], bool]:
    """See `Outbox.settle`."""
    rows = rows_text(_SETTLEMENT, map(_values, sorted(settlements, key=attrgetter("seq"))))
    # Also the next of what an operator has dropped meanwhile: it is no longer held back.
    keys = keys_text({(one.channel, one.ordering_key) for one in settlements})
    ready = db.add("SELECT FROM settle(%s, %s)", (rows, keys))
    if failed := [one.seq for one in settlements if one.reason]:
        db.do(_NOTE_ATTEMPTS, (rows,))
        db.do(_FORGET_ATTEMPTS, (failed, _KEPT_ATTEMPTS))
    return lambda: ready.count > 0 or any(one.release_key for one in settlements)


def _values(one: Settlement) -> tuple[object, ...]:
    settled_at = None if one.status is Status.PENDING else one.at
    # Half of a surrogate pair cannot be stored, and would stop the channel.
    detail = storable(one.detail.encode("utf-8", "replace").decode())
    plain = (one.seq, one.status.value, one.attempts, one.not_before, settled_at, str(one.reason), detail)
    return (*plain, one.repeat, one.at, one.release_key)


def make_ready(db: Transaction, keys: Iterable[Key]) -> None:
    """Make the first pending notification of each ordering key sendable."""
    db.do("SELECT FROM make_ready(%s)", (keys_text(keys),))


def keys_text(keys: Iterable[Key]) -> str:
    """Ordering keys as the argument of functions of the tables, in an order that all processes have."""
    by_channel: defaultdict[str, list[str]] = defaultdict(list)
    for channel, key in sorted(keys):
        by_channel[storable(channel)].append(storable(key))
    return encode(by_channel)


# Digests.


def digest(db: Transaction, head: Notification, now: float) -> Callable[[], list[Notification]]:
    """See `Outbox.digest`."""
    db.do(
        "UPDATE windows SET digest = NULL, due = greatest(due, %s) + interval"
        " WHERE channel = %s AND ordering_key = %s AND digest = %s",
        (now, storable(head.channel), storable(head.ordering_key), head.digest),
    )
    found = db.add(_OF_DIGEST, (head.digest, MOST_MERGED))
    return lambda: notifications(found)


def split_digest(db: Transaction, head: Notification, at: int, *, refused: bool) -> None:
    """See `Outbox.split_digest`. A digest has the number of its first notification, so that of the new one is free."""
    db.do(
        "UPDATE notifications SET digest = %s WHERE digest = %s AND seq >= %s AND status = 'pending'",
        (at, head.digest, at),
    )
    db.do(
        "UPDATE notifications SET request = NULL, generation = generation + %s WHERE seq = %s",
        (int(refused), head.seq),
    )


def previous_ids(db: Transaction, notification: Notification) -> Callable[[], tuple[str, ...]]:
    """See `Outbox.previous_ids`."""
    of = notification.transition
    found = db.add(
        "SELECT n.id FROM transitions AS t JOIN notifications AS n ON n.transition = t.id"
        " WHERE t.fingerprint = %s AND t.started_at = %s AND t.alert = %s AND n.channel = %s"
        " AND n.status = 'delivered' AND n.seq < %s ORDER BY n.seq",
        (of.fingerprint, of.started_at, storable(of.alert), storable(notification.channel), notification.seq),
    )
    return lambda: tuple(row[0] for row in found.rows)
