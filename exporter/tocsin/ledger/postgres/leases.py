"""Who may write: a lease by the clock of the server, with an epoch that each transaction asks for.

A row, not an advisory lock: behind a pooler that shares sessions two clients get the same advisory lock.
"""

from typing import NamedTuple

from tocsin.ledger.postgres.transaction import Transaction


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


_END_OTHERS = """
    SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a
    WHERE a.state = 'idle in transaction' AND a.pid <> pg_backend_pid() AND a.usename = current_user
      AND EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.relation = 'alerts'::regclass)
"""
"""A process that was paused or cut off in the middle of a transaction holds locks until the server notices."""


async def take(db: Transaction, name: str, holder: str, seconds: float) -> Lease | str:
    """Take a lease that no other process holds. Returns who holds it otherwise."""
    taken = db.add(_TAKE, (name, holder, seconds))
    found = await db.get("SELECT holder FROM leases WHERE name = %s", (name,))
    if not taken.rows:
        return str(found.rows[0][0])
    db.add(_END_OTHERS)
    return Lease(name, taken.rows[0][0], seconds)


def renew(db: Transaction, lease: Lease) -> None:
    """Renew a lease: the last statement of each transaction, which fails where another process has taken it."""
    db.add("SELECT renew(%s, %s, %s)", (lease.name, lease.epoch, lease.seconds))


def give_up(db: Transaction, lease: Lease) -> None:
    """Let another process take a lease at once, instead of `renew`."""
    renew(db, lease)
    db.add("DELETE FROM leases WHERE name = %s", (lease.name,))
