"""The tables in PostgreSQL, as a list of migrations: number n brings them from version n to n + 1. Released ones never
change.

As in SQLite (`tocsin.ledger.schema`), except that a list of columns is a key by itself, that a claim is in the table,
and that the processes which share it are.
"""

from typing import LiteralString, NamedTuple

from psycopg import sql

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.postgres.connection import LedgerServer, in_settings
from tocsin.ledger.schema import INTEGERS
from tocsin.ledger.tables import unfinished
from tocsin.postgres import PgConnection

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE ledger (                        -- one row
      version integer NOT NULL,
      changes bigint NOT NULL DEFAULT 0,         -- rises when an operator changes the outbox
      configuration text NOT NULL DEFAULT '',    -- of the processes that run: JSON, part -> hash
      copying text                               -- what is being copied into it, until that has ended
    );
    INSERT INTO ledger (version) VALUES (0);
    CREATE SEQUENCE epochs;
    CREATE TABLE instances (                     -- the processes that run alerts
      epoch   bigint PRIMARY KEY,
      name    text NOT NULL,                     -- process and host, for people
      address text NOT NULL,                     -- where it listens
      since   timestamptz NOT NULL,
      until   timestamptz NOT NULL,              -- end of its lease, which every transaction of it renews
      writes  bigint NOT NULL DEFAULT 0,         -- rises with each transaction of it
      stops   boolean NOT NULL DEFAULT false     -- it leads nothing any more
    );
    CREATE TABLE leaders (
      alert text PRIMARY KEY,
      epoch bigint NOT NULL REFERENCES instances ON DELETE CASCADE
    );
    CREATE FUNCTION renew (mine bigint, seconds double precision, seen bigint) RETURNS bigint LANGUAGE plpgsql AS $$
      DECLARE
        counted bigint;
      BEGIN
        UPDATE instances SET until = clock_timestamp() + make_interval(secs => seconds), writes = writes + 1
          WHERE epoch = mine RETURNING writes INTO counted;
        IF NOT FOUND THEN
          RAISE EXCEPTION 'another process has taken over' USING ERRCODE = 'TCFEN';
        ELSIF counted <= seen THEN
          RAISE EXCEPTION 'committed transactions are lost' USING ERRCODE = 'TCLST';
        END IF;
        RETURN counted;
      END
    $$;
    CREATE TABLE channels (                      -- what the processes that send to them have in common
      channel text PRIMARY KEY,
      turn    timestamptz NOT NULL DEFAULT '-infinity', -- end of the last turn under a rate limit
      held    timestamptz NOT NULL DEFAULT '-infinity', -- nothing is sent until then
      why     text NOT NULL DEFAULT '',
      epoch   bigint                             -- who found that out
    );
    CREATE TABLE shapes (
      id      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      columns text NOT NULL UNIQUE               -- JSON: [[name, type number, type modifier], ...]
    );
    CREATE TABLE alerts (
      alert      text PRIMARY KEY,
      definition text NOT NULL,
      shape      integer NOT NULL,
      frontier   bigint,                         -- source ms; everything strictly before it is in these tables
      commits    bigint NOT NULL DEFAULT 0       -- rises with each
    );
    CREATE FUNCTION progress (asked text, defined text, shaped integer, reached bigint, seen bigint, mine bigint)
    RETURNS void LANGUAGE plpgsql AS $$
      BEGIN
        IF EXISTS (SELECT FROM leaders WHERE alert = asked AND epoch <> mine) THEN
          RAISE EXCEPTION 'another process leads %', asked USING ERRCODE = 'TCFEN';
        END IF;
        INSERT INTO alerts VALUES (asked, defined, shaped, reached, 1) ON CONFLICT (alert) DO UPDATE
          SET definition = defined, shape = shaped, frontier = reached, commits = alerts.commits + 1
          WHERE seen IS NULL OR alerts.commits = seen;
        IF NOT FOUND THEN
          RAISE EXCEPTION 'the commit before is another one' USING ERRCODE = 'TCLAT';
        END IF;
      END
    $$;
    CREATE TABLE firings (
      alert       text NOT NULL,
      fingerprint text NOT NULL,
      phase       text NOT NULL,
      started_at  bigint NOT NULL,
      marked_at   bigint NOT NULL,
      "row"       text NOT NULL,                 -- JSON: [text or null, ...]
      counts      text NOT NULL,                 -- JSON: [[count, row], ...], '' for one copy of `row`
      PRIMARY KEY (alert, fingerprint)
    );
    CREATE SEQUENCE numbers;                     -- of transitions and notifications
    CREATE TABLE transitions (
      id          bigint PRIMARY KEY,
      alert       text NOT NULL,
      fingerprint text NOT NULL,
      kind        text NOT NULL,
      started_at  bigint NOT NULL,
      at          bigint NOT NULL,
      shape       integer NOT NULL,
      "row"       text NOT NULL,
      previous    text
    );
    CREATE INDEX transitions_by_episode ON transitions (fingerprint, started_at);
    CREATE TABLE notifications (
      seq          bigint PRIMARY KEY,
      id           text NOT NULL UNIQUE,
      transition   bigint NOT NULL,
      channel      text NOT NULL,
      status       text NOT NULL DEFAULT 'pending',
      attempts     integer NOT NULL DEFAULT 0,
      created_at   double precision NOT NULL,
      not_before   double precision NOT NULL DEFAULT 0,
      settled_at   double precision,
      reason       text NOT NULL DEFAULT '',
      detail       text NOT NULL DEFAULT '',
      ordering_key text NOT NULL,                -- of these one after another, by seq
      digest       bigint,                       -- one message with others of this number
      generation   integer NOT NULL DEFAULT 0,   -- of the idempotency key
      ready_at     double precision,             -- the first pending one of its ordering key: sent from then
      request      bigint,                       -- the first member of its request, whose outcome is unknown
      owner        bigint                        -- the epoch that has claimed it
    );
    CREATE INDEX notifications_dead ON notifications (channel) WHERE status = 'dead';
    CREATE INDEX notifications_by_transition ON notifications (transition);
    CREATE INDEX notifications_by_digest ON notifications (digest, seq) WHERE digest IS NOT NULL AND status = 'pending';
    CREATE INDEX notifications_by_key ON notifications (channel, ordering_key, seq) WHERE status = 'pending';
    CREATE INDEX notifications_ready ON notifications (channel, ready_at, seq)
      WHERE status = 'pending' AND ready_at IS NOT NULL;
    CREATE INDEX notifications_by_request ON notifications (request, seq)
      WHERE status = 'pending' AND request IS NOT NULL;
    CREATE UNIQUE INDEX notifications_claimed ON notifications (channel, ordering_key)
      WHERE status = 'pending' AND owner IS NOT NULL;
    CREATE TABLE windows (
      channel      text NOT NULL,
      ordering_key text NOT NULL,
      interval     double precision NOT NULL,
      due          double precision NOT NULL,    -- from when on the next message may be sent
      digest       bigint,                       -- what gathers until then; NULL: nothing yet
      PRIMARY KEY (channel, ordering_key)
    );
    CREATE TABLE attempts (                      -- those that failed; a notification has its successful one
      number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      seq    bigint NOT NULL,
      at     double precision NOT NULL,
      reason text NOT NULL,
      detail text NOT NULL
    );
    CREATE INDEX attempts_by_notification ON attempts (seq, number);
    CREATE TABLE sightings (
      alert text NOT NULL,
      key   text NOT NULL,
      event text NOT NULL,                       -- the fingerprint of the event that was sent
      until bigint NOT NULL,                     -- source ms; others of this key are repeats until then
      PRIMARY KEY (alert, key)
    );
    CREATE TABLE positions (
      source    text NOT NULL,
      partition text NOT NULL,
      position  bigint NOT NULL,                 -- everything before it is in these tables
      PRIMARY KEY (source, partition)
    );

    -- Functions for what every commit does: their plans are kept, and planning takes three times as long as running.
    -- `asked`: {channel: [ordering key, ...], ...}.
    CREATE FUNCTION keys (asked json) RETURNS TABLE (channel text, ordering_key text) LANGUAGE sql IMMUTABLE AS $$
      SELECT c.key, k.value FROM json_each(asked) AS c, json_array_elements_text(c.value) AS k
    $$;
    -- What a batch of notifications needs: a number for each, which of their ids are there already, and the ordering
    -- keys that have a pending notification with whether it stays pending until the end of the transaction. If another
    -- process settles it this moment, that process may not see what is written here: then the new one is sendable, and
    -- a claim finds out whether it is the first.
    CREATE FUNCTION before_append (
      ids text[], asked json,
      OUT numbers bigint[], OUT known text[], OUT channels text[], OUT ordering_keys text[], OUT held boolean[])
    LANGUAGE plpgsql AS $$
      BEGIN
        SELECT array_agg(nextval('numbers')) INTO numbers FROM generate_series(1, cardinality(ids));
        SELECT array_agg(n.id) INTO known FROM notifications AS n WHERE n.id = ANY(ids);
        SELECT array_agg(a.channel), array_agg(a.ordering_key), array_agg(held.seq IS NOT NULL)
        INTO channels, ordering_keys, held
        FROM keys(asked) AS a CROSS JOIN LATERAL (
          SELECT n.seq FROM notifications AS n
          WHERE n.channel = a.channel AND n.ordering_key = a.ordering_key AND n.status = 'pending'
          ORDER BY n.seq LIMIT 1) AS first
        LEFT JOIN LATERAL (
          SELECT n.seq FROM notifications AS n
          WHERE n.channel = a.channel AND n.ordering_key = a.ordering_key AND n.status = 'pending'
          ORDER BY n.seq LIMIT 1 FOR SHARE SKIP LOCKED) AS held ON true;
      END
    $$;
    -- Makes the first pending notification of each ordering key sendable.
    CREATE FUNCTION make_ready (asked json) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
      BEGIN
        RETURN QUERY UPDATE notifications SET ready_at = not_before WHERE seq IN (
          SELECT first.seq FROM keys(asked) AS a, LATERAL (
            SELECT n.seq FROM notifications AS n
            WHERE n.channel = a.channel AND n.ordering_key = a.ordering_key AND n.status = 'pending'
            ORDER BY n.seq LIMIT 1) AS first)
        RETURNING seq;
      END
    $$;
    """,
    """
    ALTER TABLE notifications ADD COLUMN silence text;                       -- that holds it, or has held it last
    -- 1: no silence holds it any more. 2: it may have been sent, by a process that ended before it knew.
    ALTER TABLE notifications ADD COLUMN passes integer NOT NULL DEFAULT 0;
    CREATE INDEX notifications_held ON notifications (silence, channel, created_at) WHERE status = 'held';
    CREATE TABLE silences (
      id         text PRIMARY KEY,
      matchers   text NOT NULL,
      starts_at  double precision NOT NULL,
      ends_at    double precision NOT NULL,
      reason     text NOT NULL,
      made_by    text NOT NULL,
      created_at double precision NOT NULL,
      closed_at  double precision,               -- when what it held was sent on or dropped
      released   integer NOT NULL DEFAULT 0,
      dropped    integer NOT NULL DEFAULT 0
    );
    """,
    INTEGERS,
)


async def migrate(
    db: PgConnection, server: LedgerServer, *, allowed: bool, alone: bool = True, copying: bool = False
) -> None:
    """Bring the tables up to date if that is `allowed`: an older process may be running on them. Raises LedgerError for
    tables of another version, and unless `copying` for an unfinished copy.

    `alone`: no other process runs alerts on them. Otherwise older tables stay as they are.
    """
    schema = sql.Identifier(server.namespace)
    async with in_settings(db, server):
        version = await _version(db, server)
        if version < len(MIGRATIONS):
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
        await db.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(schema))
        if version == len(MIGRATIONS):
            cursor = await db.execute("SELECT copying FROM ledger")
            if not copying and (row := await cursor.fetchone()) is not None and row[0] is not None:
                raise LedgerError(f"{server.display}: {unfinished(row[0])}", LedgerReason.LOCKED)
            return
        found = await db.execute("SELECT FROM pg_namespace WHERE nspname = %s", (server.namespace,))
        if not found.rowcount:  # IF NOT EXISTS needs the right to create one all the same
            await db.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        for script in MIGRATIONS[version:]:
            await db.execute(script)
        await db.execute("UPDATE ledger SET version = %s", (len(MIGRATIONS),))


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
        if 0 < version < len(MIGRATIONS) and (names := await _running(db, server.namespace)):
            raise LedgerError(
                f"{server.display}: {' and '.join(names)} {'runs' if len(names) == 1 else 'run'} the alerts on tables"
                f" {version}, with an older version of Tocsin; stop {'it' if len(names) == 1 else 'them'} first, or let"
                " `tocsin run` of this version wait for that",
                LedgerReason.LOCKED,
            )
        if not dry_run:
            await db.execute(_AS_OWNER, (server.namespace,))
            await migrate(db, server, allowed=True, copying=True)
        return Update(version, MIGRATIONS[version:])


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


async def _running(db: PgConnection, schema: str) -> list[str]:
    """The processes that run alerts on the tables. Until the end of the transaction none joins them."""
    name = sql.Identifier(schema)
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
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"{server.display}: written by a newer version of Tocsin (tables {version}, this one knows"
            f" {len(MIGRATIONS)}); run that version, or choose another ledger.namespace",
            LedgerReason.NEWER,
        )
    return version
