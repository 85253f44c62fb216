"""Bringing the tables in PostgreSQL up to date: by the process that begins, or by an operator."""

from typing import LiteralString, NamedTuple

from psycopg import sql

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.postgres import schema
from tocsin.ledger.postgres.connection import LedgerServer, in_settings
from tocsin.ledger.tables import unfinished
from tocsin.postgres import PgConnection


async def migrate(
    db: PgConnection, server: LedgerServer, *, allowed: bool, alone: bool = True, copying: bool = False
) -> None:
    """Bring the tables up to date if that is `allowed`: an older process may be running on them. Raises LedgerError for
    tables of another version, and unless `copying` for an unfinished copy.

    `alone`: no other process runs alerts on them. Otherwise older tables stay as they are.
    """
    namespace = sql.Identifier(server.namespace)
    async with in_settings(db, server):
        version = await _version(db, server)
        if version < len(schema.MIGRATIONS):
            if not allowed:
                raise LedgerError(
                    f"{server.display}: there is no ledger of this version in the schema {server.namespace};"
                    " `tocsin run` makes it",
                    LedgerReason.OLDER,
                )
            if version and not alone:
                return
            if not version:
                _require_encoding(db, server)
            version = await _locked_version(db, server)
        await db.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(namespace))
        if version == len(schema.MIGRATIONS):
            cursor = await db.execute("SELECT copying FROM ledger")
            if not copying and (row := await cursor.fetchone()) is not None and row[0] is not None:
                raise LedgerError(f"{server.display}: {unfinished(row[0])}", LedgerReason.LOCKED)
            return
        found = await db.execute("SELECT FROM pg_namespace WHERE nspname = %s", (server.namespace,))
        if not found.rowcount:  # IF NOT EXISTS needs the right to create one all the same
            await db.execute(sql.SQL("CREATE SCHEMA {}").format(namespace))
        for script in schema.MIGRATIONS[version:]:
            await db.execute(script)
        await db.execute("UPDATE ledger SET version = %s", (len(schema.MIGRATIONS),))


def _require_encoding(db: PgConnection, server: LedgerServer) -> None:
    """Raise LedgerError for a database that cannot hold every text. SQL_ASCII holds all bytes."""
    encoding = db.info.parameter_status("server_encoding")
    if encoding not in ("UTF8", "SQL_ASCII", None):
        raise LedgerError(
            f"{server.display}: the encoding of the database is {encoding}, which lacks most characters; create one"
            " with `CREATE DATABASE ... ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0`",
            LedgerReason.UNREADABLE,
        )


async def update(db: PgConnection, server: LedgerServer, *, dry_run: bool) -> "Update":
    """Bring the tables up to date, as the owner of their schema where the role that is logged in may be that.
    `dry_run`: change nothing. Raises LedgerError, also while processes run alerts on older tables."""
    async with in_settings(db, server):
        version = await _locked_version(db, server)
        if 0 < version < len(schema.MIGRATIONS) and (names := await _running(db, server.namespace)):
            raise LedgerError(
                f"{server.display}: {' and '.join(names)} {'runs' if len(names) == 1 else 'run'} the alerts on tables"
                f" {version}, with an older version of Tocsin; stop {'it' if len(names) == 1 else 'them'} first, or let"
                " `tocsin run` of this version wait for that",
                LedgerReason.LOCKED,
            )
        if not dry_run:
            await db.execute(_AS_OWNER, (server.namespace,))
            await migrate(db, server, allowed=True, copying=True)
        return Update(version, schema.MIGRATIONS[version:])


class Update(NamedTuple):
    """An update of the tables."""

    version: int
    """Theirs before it; 0: there are none."""
    steps: tuple[str, ...]
    """SQL, one for each version that follows."""


_AS_OWNER = """
    SELECT set_config('role', pg_get_userbyid(nspowner), true)
    FROM pg_namespace WHERE nspname = %s AND pg_has_role(nspowner, 'MEMBER')
"""


async def _running(db: PgConnection, namespace: str) -> list[str]:
    """The processes that run alerts on the tables. Until the end of the transaction none joins them."""
    name = sql.Identifier(namespace)
    await db.execute(sql.SQL("SELECT 1 FROM {}.ledger FOR UPDATE").format(name))
    statement: LiteralString = "SELECT name FROM {}.instances WHERE until >= clock_timestamp() ORDER BY epoch"
    cursor = await db.execute(sql.SQL(statement).format(name))
    return [row[0] for row in await cursor.fetchall()]


async def _locked_version(db: PgConnection, server: LedgerServer) -> int:
    """As `_version`; no other process changes it until the end of the transaction."""
    # A lost connection must not keep the lock: no other process could begin.
    await db.execute(
        sql.SQL("SET LOCAL idle_in_transaction_session_timeout = {}").format(round(server.connect_timeout * 1000))
    )
    # Two processes that create tables at once fail, even with IF NOT EXISTS.
    await db.execute("SELECT pg_advisory_xact_lock(hashtext('tables of tocsin'))")
    return await _version(db, server)


async def _version(db: PgConnection, server: LedgerServer) -> int:
    """The version of the tables; 0: there are none. Raises LedgerError for a newer one."""
    # Not to_regclass: within a transaction it may go on missing a table that another one has just made.
    found = await db.execute(
        "SELECT FROM pg_tables WHERE schemaname = %s AND tablename = 'ledger'", (server.namespace,)
    )
    if not found.rowcount:
        return 0
    cursor = await db.execute(sql.SQL("SELECT version FROM {}.ledger").format(sql.Identifier(server.namespace)))
    row = await cursor.fetchone()
    version = 0 if row is None else int(row[0])
    if version > len(schema.MIGRATIONS):
        raise LedgerError(
            f"{server.display}: written by a newer version of Tocsin (tables {version}, this one knows"
            f" {len(schema.MIGRATIONS)}); run that version, or choose another ledger.namespace",
            LedgerReason.NEWER,
        )
    return version
