"""The processes that run alerts on a ledger, each with an epoch and a lease by the clock of the server.

Rows, not advisory locks: behind a pooler that shares sessions two clients get the same advisory lock. The last
statement of each transaction renews the lease, and fails where another process has ended it (`fence`).
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from tocsin.ledger.postgres import schema
from tocsin.ledger.postgres.outbox import release_all
from tocsin.ledger.postgres.transaction import Job, Result, Transaction
from tocsin.ledger.postgres.values import storable
from tocsin.ledger.sharing import Held, Instance, Shares, shares


@dataclass(slots=True)
class Member:
    """This process, as one of those that share the ledger."""

    epoch: int
    """Rises with each process."""
    lease: float
    """Seconds after which others may end it, when it no longer reaches the server."""
    writes: int = 0
    """Transactions of it that the server has confirmed. A server that has fewer has lost some."""


class Met(NamedTuple):
    """What a process learned of the others."""

    instances: tuple[Instance, ...]
    leads: frozenset[str]
    gives: frozenset[str]
    waiting: frozenset[str]
    holds: Mapping[str, Held]
    left: tuple[float, ...]
    """Seconds of the leases of the others that are left."""


# Joining and leaving.

_ONE_BY_ONE = "SELECT 1 FROM ledger FOR UPDATE"
_OTHERS = """
    SELECT i.name, l.configuration FROM instances AS i, ledger AS l
    WHERE i.until >= clock_timestamp() AND l.configuration <> %s AND i.epoch <> %s
      AND NOT (i.stops AND l.configuration LIKE %s) ORDER BY i.epoch
"""
"""One that stops only records what it has begun to send; that needs no more than its tables."""
_END_FORMER = """
    DELETE FROM instances WHERE NOT (stops AND until >= clock_timestamp())
      AND EXISTS (SELECT FROM ledger WHERE configuration <> %s)
"""
_JOIN = """
    INSERT INTO instances (epoch, name, address, since, until)
    VALUES (nextval('epochs'), %s, %s, clock_timestamp(), clock_timestamp() + make_interval(secs => %s))
    RETURNING epoch
"""


def join(configuration: Mapping[str, str], name: str, address: str, lease: float) -> Job[Member | str]:
    """Join the processes of a ledger. Returns why not, while others run another configuration on it."""
    ours = _text(configuration)

    async def job(db: Transaction) -> Callable[[], Member | str]:
        db.do(_ONE_BY_ONE)
        others = await db.get(_OTHERS, (ours, 0, _beside(configuration)))
        if others.rows:
            why = _another(others, json.loads(ours))
            return lambda: why
        # What is left of another configuration has ended; otherwise `meet` ends what is overdue.
        db.do(_END_FORMER, (ours,))
        db.do("UPDATE ledger SET configuration = %s WHERE configuration <> %s", (ours, ours))
        joined = db.add(_JOIN, (storable(name), storable(address), lease))
        return lambda: Member(joined.rows[0][0], lease)

    return job


def change(member: Member, configuration: Mapping[str, str]) -> Job[bool]:
    """Go on with another configuration. Returns False where others run the former one."""
    ours = _text(configuration)

    async def job(db: Transaction) -> Callable[[], bool]:
        db.do(_ONE_BY_ONE)
        others = await db.get(_OTHERS, (ours, member.epoch, _beside(configuration)))
        if not others.rows:
            db.do("UPDATE ledger SET configuration = %s WHERE configuration <> %s", (ours, ours))
        return lambda: not others.rows

    return job


_TABLES = {"version of the tables": str(len(schema.MIGRATIONS))}


def _text(configuration: Mapping[str, str]) -> str:
    # Two versions of the tables are two configurations: an update of them waits until no older process runs.
    return json.dumps({**configuration, **_TABLES}, sort_keys=True)


def _beside(configuration: Mapping[str, str]) -> str:
    """A pattern of the configurations beside whose stopping processes this one may begin."""
    return "" if "copy" in configuration else f"%{json.dumps(_TABLES)[1:-1]}%"


def _another(others: Result, ours: Mapping[str, str]) -> str:
    theirs = json.loads(others.rows[0][1] or "{}")
    # Containers may have one name, and the same process number.
    names = Counter(name for name, _ in others.rows)
    who = _listed([name if count == 1 else f"{count} times {name}" for name, count in names.items()])
    if "copy" in theirs:
        return f"{who} copies a ledger"
    run = "runs" if len(others.rows) == 1 else "run"
    if "copy" in ours:
        return f"{who} {run} the alerts"
    differ = differing(theirs, ours)
    if len(differ) > 4:
        differ[3:] = [f"{len(differ) - 3} more"]
    return (
        f"{who} {run} another configuration ({_listed(differ)} {'differ' if len(differ) > 1 else 'differs'});"
        " `tocsin run` waits until they run this one or have ended."
        " Set another ledger.namespace if they are another installation"
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])


def differing(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """The parts in which two configurations differ, as they are called in the file.

    `channels.hook.alerts` is what its alerts send through it: that of the channel, and over it what `notify` sets. It
    is named, in words, only where no setting of the channel is, for the file has no such key.
    """
    found = {part for part in theirs.keys() | ours.keys() if theirs.get(part) != ours.get(part)}
    routed = {part for part in found if part.startswith("channels.") and part.endswith(".alerts")}
    channels = {part.removesuffix(".alerts") for part in routed}
    alone = {one for one in channels if not any(part.startswith(f"{one}.") for part in found - routed)}
    return sorted(found - routed) + [f"what `notify` sets for {one}" for one in sorted(alone)]


def others(configuration: Mapping[str, str]) -> Job[str]:
    """Why a process with this configuration would wait; empty where it would not."""
    ours = _text(configuration)

    async def job(db: Transaction) -> Callable[[], str]:
        found = db.add(_OTHERS, (ours, 0, _beside(configuration)))
        return lambda: _another(found, json.loads(ours)) if found.rows else ""

    return job


def fence(db: Transaction, member: Member) -> Callable[[], None]:
    """Renew the lease: the last statement of each transaction, which fails where another process has ended it, and
    where the server has lost what it confirmed. Returns what is called after the commit."""
    renewed = db.add("SELECT renew(%s, %s, %s)", (member.epoch, member.lease, member.writes))

    def confirmed() -> None:
        member.writes = max(member.writes, renewed.rows[0][0])

    return confirmed


def leave(db: Transaction, member: Member) -> None:
    """Give everything back, so that others go on at once."""
    fence(db, member)
    db.do("DELETE FROM instances WHERE epoch = %s", (member.epoch,))
    release_all(db, member.epoch)


# Meeting.

_END = """
    WITH ended AS (DELETE FROM instances WHERE until < clock_timestamp() AND epoch <> %s RETURNING epoch)
    SELECT pg_terminate_backend(a.pid) FROM ended JOIN pg_stat_activity AS a
      ON a.application_name = ANY (ARRAY(SELECT format(name, ended.epoch) FROM unnest(%s::text[]) AS name))
    WHERE a.usename = current_user AND a.datname = current_database()
"""
"""A process that was paused or cut off in the middle of a transaction holds locks until the server notices."""
_INSTANCES = """
    SELECT i.epoch, i.name, i.address, extract(epoch FROM i.since)::double precision,
           coalesce(array_agg(l.alert) FILTER (WHERE l.alert IS NOT NULL), '{}'), i.stops,
           extract(epoch FROM i.until - clock_timestamp())::double precision
    FROM instances AS i LEFT JOIN leaders AS l USING (epoch) GROUP BY i.epoch ORDER BY i.epoch
"""
_TAKE = """
    INSERT INTO leaders (alert, epoch) SELECT alert, %s FROM unnest(%s::text[]) AS wanted (alert)
    ON CONFLICT (alert) DO NOTHING RETURNING alert
"""
_WAITING = """
    SELECT channel FROM unnest(%s::text[]) AS asked (channel) WHERE EXISTS (
      SELECT FROM notifications AS n WHERE n.channel = asked.channel AND n.status = 'pending'
        AND n.ready_at <= extract(epoch FROM clock_timestamp()) AND n.owner IS NULL)
"""
_HOLDS = """
    SELECT channel, extract(epoch FROM held)::double precision, why FROM channels
    WHERE held > clock_timestamp() AND epoch <> %s
"""
_NOTHING = Shares(frozenset(), frozenset())


def instances(db: Transaction) -> Callable[[], tuple[Instance, ...]]:
    """The processes that run alerts, the first one first; without those that no other has ended yet."""
    found = db.add(_INSTANCES)
    return lambda: tuple(one for one, row in zip(_instances(found), found.rows, strict=True) if row[-1] >= 0)


def meet(member: Member, wanted: AbstractSet[str], channels: Collection[str], *, end: Collection[str]) -> Job[Met]:
    """See what the others do, and take what has no leader. `end`: the sessions of those whose lease is over, which are
    ended with them; `%s` is the epoch. Empty: none is ended."""

    async def job(db: Transaction) -> Callable[[], Met]:
        if end:
            db.do(_END, (member.epoch, [*end]))
        waiting = db.add(_WAITING, ([storable(channel) for channel in channels],))
        holds = db.add(_HOLDS, (member.epoch,))
        found = await db.get(_INSTANCES)
        everyone = _instances(found)
        led = {one.epoch: one.leads for one in everyone if not one.stops}
        mine = led.get(member.epoch, frozenset())
        take, gives = shares(member.epoch, led, wanted) if member.epoch in led else _NOTHING
        taken = db.add(_TAKE, (member.epoch, sorted(take))) if take else Result()

        def met() -> Met:
            leads = mine | {row[0] for row in taken.rows}
            now = tuple(one._replace(leads=leads) if one.epoch == member.epoch else one for one in everyone)
            held = {channel: Held(until, why) for channel, until, why in holds.rows}
            left = tuple(row[-1] for row in found.rows if row[0] != member.epoch)
            return Met(now, leads, gives, frozenset(row[0] for row in waiting.rows), held, left)

        return met

    return job


def hand_over(db: Transaction, member: Member, alerts: Collection[str]) -> None:
    """Let others lead alerts."""
    fence(db, member)  # first, as who ends this process locks its row first
    db.do("DELETE FROM leaders WHERE epoch = %s AND alert = ANY(%s)", (member.epoch, [*alerts]))


def resign(db: Transaction, member: Member) -> None:
    """Let others lead all alerts, and take none again."""
    fence(db, member)
    db.do("UPDATE instances SET stops = true WHERE epoch = %s", (member.epoch,))
    db.do("DELETE FROM leaders WHERE epoch = %s", (member.epoch,))


# Channels.

_TURN = """
    INSERT INTO channels AS c (channel, turn) VALUES (%(channel)s, clock_timestamp() + %(turn)s)
    ON CONFLICT (channel) DO UPDATE SET turn = greatest(c.turn, clock_timestamp()) + %(turn)s
    RETURNING extract(epoch FROM turn - %(turn)s - clock_timestamp())::double precision
"""
_HOLD = """
    INSERT INTO channels (channel, held, why, epoch)
    VALUES (%(channel)s, clock_timestamp() + %(held)s, %(why)s, %(epoch)s)
    ON CONFLICT (channel) DO UPDATE SET held = excluded.held, why = excluded.why, epoch = excluded.epoch
"""


def turn(db: Transaction, channel: str, seconds: float) -> Callable[[], float]:
    """See `Outbox.turn`."""
    found = db.add(_TURN, {"channel": storable(channel), "turn": timedelta(seconds=seconds)})
    return lambda: max(0.0, found.rows[0][0])


def hold(db: Transaction, member: Member, channel: str, seconds: float, why: str) -> None:
    """See `Outbox.hold`."""
    held = timedelta(seconds=seconds)
    db.do(_HOLD, {"channel": storable(channel), "held": held, "why": storable(why), "epoch": member.epoch})


def _instances(found: Result) -> tuple[Instance, ...]:
    return tuple(
        Instance(epoch, name, address, since, frozenset(leads), stops)
        for epoch, name, address, since, leads, stops, _ in found.rows
    )
