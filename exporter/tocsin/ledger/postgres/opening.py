"""Opening the ledger: its tables, who may write, and what an administrator has to do before."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import psycopg
from psycopg import sql

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.postgres.clock import ServerClock
from tocsin.ledger.postgres.connection import LedgerServer, Link, begin, ledger_error
from tocsin.ledger.postgres.instances import Member, instances, join, others
from tocsin.ledger.postgres.ledger import PostgresLedger, changes
from tocsin.ledger.postgres.migrating import Update, migrate
from tocsin.ledger.postgres.migrating import update as update_tables
from tocsin.ledger.postgres.transaction import Job, answering, in_one
from tocsin.ledger.sharing import Instance
from tocsin.postgres import granted, script, within

T = TypeVar("T")


async def open_ledger(
    server: LedgerServer,
    *,
    runs_alerts: bool = True,
    configuration: Callable[[], Mapping[str, str]] = dict,
    address: str = "",
    waiting: Callable[[str | LedgerError], None] = lambda _: None,
    clock: Callable[[], float] | None = None,
    observe: Callable[[float], None] = lambda _: None,
) -> PostgresLedger:
    """Open the ledger on a server; a process that runs alerts also makes its tables and brings them up to date.

    `runs_alerts`: for such a process, with this `configuration` (part -> hash). While others run another one, and while
    the server cannot be reached, this waits, and calls `waiting` with why now and then. Commands open it without.
    `address`: where it listens. `clock`: instead of the server's. `observe`: called with the seconds of transactions.
    Raises LedgerError: made by a newer version, no rights, a refused login; in a command also a server that is away.
    """
    times = ServerClock()
    links = Link(server, times), Link(server, times)
    try:
        member = await _joined(links[0], server, configuration, address, waiting) if runs_alerts else None
        db = await links[0].get()
        # Now only processes of this version run alerts on it; or one of a newer version did meanwhile.
        await within(server.timeout, db, migrate(db, server, allowed=runs_alerts))
        known = await within(server.timeout, db, in_one(db, begin(server), changes))
    except BaseException as error:
        await links[0].close()
        if isinstance(error, (psycopg.Error, OSError)):
            raise ledger_error(error, server) from None
        raise
    return PostgresLedger(server, links, member, known, clock or times, observe)


async def verify(server: LedgerServer) -> list[str]:
    """What would keep `tocsin run` from using this ledger. Writes nothing."""
    link = Link(server)
    try:
        db = await link.get()
        async with db.transaction(force_rollback=True):
            await within(server.timeout, db, migrate(db, server, allowed=True))
            await db.execute("UPDATE instances SET name = name WHERE false")  # needs the right all the same
    except LedgerError as error:
        return [str(error)]
    except (psycopg.Error, OSError) as error:
        return [str(ledger_error(error, server))]
    finally:
        await link.close()
    return []


async def update(server: LedgerServer, *, dry_run: bool = False) -> Update:
    """Bring the tables up to date, or with `dry_run` say how. Raises LedgerError, also while processes of an older
    version run alerts on them."""
    link = Link(server)
    try:
        db = await link.get()
        return await within(server.timeout, db, update_tables(db, server, dry_run=dry_run))
    except (psycopg.Error, OSError) as error:
        raise ledger_error(error, server) from None
    finally:
        await link.close()


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


async def listed(server: LedgerServer) -> Sequence[Instance]:
    """The processes that run alerts on a ledger. Raises LedgerError."""
    return await _read(server, answering(instances))


async def waits_for(server: LedgerServer, configuration: Mapping[str, str]) -> str:
    """Why a process with this configuration would wait; empty where it would not. Raises LedgerError."""
    return await _read(server, others(configuration))


async def _read(server: LedgerServer, job: Job[T]) -> T:
    link = Link(server)
    try:
        db = await link.get()
        await within(server.timeout, db, migrate(db, server, allowed=False, copying=True))
        return await within(server.timeout, db, in_one(db, begin(server), job))
    except (psycopg.Error, OSError) as error:
        raise ledger_error(error, server) from None
    finally:
        await link.close()


async def _joined(
    link: Link,
    server: LedgerServer,
    configuration: Callable[[], Mapping[str, str]],
    address: str,
    waiting: Callable[[str | LedgerError], None],
) -> Member:
    reached = False
    while True:
        found: Member | LedgerError | str
        try:
            db = await link.get()
            if not reached:
                await within(server.timeout, db, migrate(db, server, allowed=True, alone=False))
                reached = True
            found = await try_to_join(link, server, configuration(), address)
        # The server starts, say; or this process was paused in the middle.
        except (psycopg.OperationalError, OSError) as error:
            found = ledger_error(error, server)
            if found.reason is LedgerReason.UNREADABLE and not reached:
                raise found from None
        if isinstance(found, Member):
            return found
        waiting(found)
        await asyncio.sleep(min(0.2, server.lease / 10))


async def try_to_join(
    link: Link, server: LedgerServer, configuration: Mapping[str, str], address: str = ""
) -> Member | str:
    """Join the processes of the ledger. Returns who runs another configuration, if any does. Raises psycopg.Error,
    OSError."""
    host = socket.gethostname().encode("utf-8", "replace").decode()  # may be any bytes
    name = f"process {os.getpid()} on {host}"
    db = await link.get()
    # Of a lost connection, the server ends it as soon: it holds a lock that the next one waits for.
    quick = server.model_copy(update={"timeout": server.connect_timeout})
    joining = in_one(db, begin(quick), join(configuration, name, address, server.lease))
    return await within(server.connect_timeout, db, joining)
