"""Who may write: a lease by the clock of the server, with an epoch that each transaction asks for.

A row, not an advisory lock: behind a pooler that shares sessions two clients get the same advisory lock.
"""

from typing import NamedTuple

from tocsin.ledger.postgres.connection import Fenced
from tocsin.postgres import PgConnection


class Lease(NamedTuple):
    """A lease that this process holds, as far as it knows."""

    name: str
    epoch: int
    """Rises with each holder."""
    seconds: float


_TAKE = """
    INSERT INTO leases VALUES (%s, nextval('epochs'), %s, clock_timestamp() + make_interval(secs => %s))
    ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, holder = excluded.holder, until = excluded.until
    WHERE leases.until < clock_timestamp() RETURNING epoch
"""
_RENEW = """
    UPDATE leases SET until = clock_timestamp() + make_interval(secs => %s) WHERE name = %s AND epoch = %s
"""


_TAKEN_OVER = "another process has taken over; this one writes nothing any more"


async def take(db: PgConnection, name: str, holder: str, seconds: float) -> Lease | str:
    """Take a lease that no other process holds. Returns who holds it otherwise."""
    cursor = await db.execute(_TAKE, (name, holder, seconds))
    if (found := await cursor.fetchone()) is not None:
        return Lease(name, found[0], seconds)
    cursor = await db.execute("SELECT holder FROM leases WHERE name = %s", (name,))
    found = await cursor.fetchone()
    return "another process" if found is None else str(found[0])


async def renew(db: PgConnection, lease: Lease) -> None:
    """Renew a lease: the last statement of each transaction, which so is the holder's or nothing. Raises Fenced."""
    cursor = await db.execute(_RENEW, (lease.seconds, lease.name, lease.epoch))
    if not cursor.rowcount:
        raise Fenced(_TAKEN_OVER)


async def give_up(db: PgConnection, lease: Lease) -> None:
    """Let another process take a lease at once."""
    cursor = await db.execute("DELETE FROM leases WHERE name = %s AND epoch = %s", (lease.name, lease.epoch))
    if not cursor.rowcount:
        raise Fenced(_TAKEN_OVER)
