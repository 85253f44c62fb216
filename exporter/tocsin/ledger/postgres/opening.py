"""Opening the ledger: its tables, who may write, and what an administrator has to do before."""

import asyncio
import os
import socket
from collections.abc import Callable

import psycopg
from psycopg import sql

from tocsin.errors import LedgerError
from tocsin.ledger.postgres.clock import ServerClock
from tocsin.ledger.postgres.connection import LedgerServer, Link, begin, ledger_error
from tocsin.ledger.postgres.leases import Lease, take
from tocsin.ledger.postgres.ledger import PostgresLedger, changes
from tocsin.ledger.postgres.schema import migrate
from tocsin.ledger.postgres.transaction import Transaction, in_one
from tocsin.postgres import granted, script, within

_LEASE = "ledger"


async def open_ledger(
    server: LedgerServer,
    *,
    exclusive: bool = True,
    waiting: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] | None = None,
    observe: Callable[[float], None] = lambda _: None,
) -> PostgresLedger:
    """Open the ledger on a server; the process that runs alerts also makes its tables and brings them up to date.

    `exclusive`: for the process that runs alerts. While another one does, this waits, and calls `waiting` with a word
    for the other now and then. Commands open it without.
    `clock`: instead of the server's. `observe`: called with the seconds that each transaction took.
    Raises LedgerError: in use, made by a newer version, no rights, not reachable.
    """
    times = ServerClock()
    links = Link(server, times), Link(server, times)
    try:
        db = await links[0].get()
        await within(server.timeout, db, migrate(db, server, allowed=exclusive, alone=False))
        lease = await _taken(links[0], server, waiting) if exclusive else None
        db = await links[0].get()
        if exclusive:
            # Now that no other process runs alerts on it; or one of a newer version did, while this one stood by.
            await within(server.timeout, db, migrate(db, server, allowed=True))
        changed = await in_one(db, begin(server), changes)
    except BaseException as error:
        await links[0].close()
        if isinstance(error, (psycopg.Error, OSError)):
            raise ledger_error(error, server) from None
        raise
    return PostgresLedger(server, links, lease, changed, clock or times, observe)


async def verify(server: LedgerServer) -> list[str]:
    """What would keep `tocsin run` from using this ledger. Writes nothing."""
    link = Link(server)
    try:
        db = await link.get()
        async with db.transaction(force_rollback=True):
            await within(server.timeout, db, migrate(db, server, allowed=True))
            await db.execute("UPDATE leases SET holder = holder WHERE false")  # needs the right all the same
    except LedgerError as error:
        return [str(error)]
    except (psycopg.Error, OSError) as error:
        return [str(ledger_error(error, server))]
    finally:
        await link.close()
    return []


def ddl(server: LedgerServer) -> str:
    """SQL that makes a role and the schema that it owns, for an administrator to read and run. Run again, it gives back
    rights that were revoked."""
    schema, role = sql.Identifier(server.namespace), server.role
    made = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema)
    if role is None:
        return script([made + sql.SQL(";")])
    owner = sql.Identifier(role)
    made += sql.SQL(" AUTHORIZATION {};\nGRANT ALL ON SCHEMA {} TO {};").format(owner, schema, owner)
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        made += sql.SQL(f"\nGRANT ALL ON ALL {kind} IN SCHEMA {{}} TO {{}};").format(schema, owner)
    return script([*granted(role, {}), made])


async def _taken(link: Link, server: LedgerServer, waiting: Callable[[str], None]) -> Lease:
    while True:
        try:
            found = await try_to_take(link, server)
        except (psycopg.OperationalError, OSError) as error:  # the server restarts, say
            found = str(ledger_error(error, server))
        if isinstance(found, Lease):
            return found
        waiting(found)
        await asyncio.sleep(min(0.2, server.lease / 10))


async def try_to_take(link: Link, server: LedgerServer) -> Lease | str:
    """Take the lease of the ledger. Returns who has it, if another process does. Raises psycopg.Error, OSError."""
    holder = f"process {os.getpid()} on {socket.gethostname()}"

    async def job(db: Transaction) -> Callable[[], Lease | str]:
        found = await take(db, _LEASE, holder, server.lease)
        return lambda: found

    db = await link.get()
    found = await within(server.connect_timeout, db, in_one(db, begin(server), job))
    return found if isinstance(found, Lease) else f"{found} runs the alerts"
