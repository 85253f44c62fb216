"""The tables in PostgreSQL, as a list of migrations: number n brings them from version n to n + 1. Released ones never
change.

As in SQLite (`tocsin.ledger.schema`), except that a list of columns is a key by itself, that a claim is in the table,
and that the processes which share it are.
"""

from tocsin.ledger.schema import INTEGERS

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
    """
    -- Writes a few notifications, so that a commit is one message: see `append.py`, which places many by itself. Of
    -- pending ones of the same ordering key it knows what `before_append` says.
    -- `given`: notifications; `changed`: their transitions, by number within the batch; `room`: whether it is claimed.
    CREATE FUNCTION append_few (given json, changed json, made double precision, mine bigint)
    RETURNS TABLE (place integer, number bigint, owned boolean, blocked boolean) LANGUAGE plpgsql AS $$
      DECLARE
        one record;
        pending boolean;
        numbers bigint[];                        -- of the transitions: that of the first notification
      BEGIN
        FOR one IN SELECT * FROM json_to_recordset(given) AS g (
          place integer, id text, transition integer, channel text, ordering_key text, room boolean)
        LOOP
          CONTINUE WHEN EXISTS (SELECT FROM notifications AS n WHERE n.id = one.id);
          pending := EXISTS (
            SELECT FROM notifications AS n
            WHERE n.channel = one.channel AND n.ordering_key = one.ordering_key AND n.status = 'pending');
          blocked := false;
          IF pending THEN
            PERFORM FROM notifications AS n
            WHERE n.channel = one.channel AND n.ordering_key = one.ordering_key AND n.status = 'pending'
            ORDER BY n.seq LIMIT 1 FOR SHARE SKIP LOCKED;
            blocked := FOUND;
          END IF;
          place := one.place;
          number := nextval('numbers');
          owned := one.room AND NOT pending;
          numbers[one.transition] := coalesce(numbers[one.transition], number);
          INSERT INTO notifications (seq, id, transition, channel, created_at, ordering_key, ready_at, owner)
          VALUES (
            number, one.id, numbers[one.transition], one.channel, made, one.ordering_key,
            CASE WHEN NOT blocked THEN 0 END, CASE WHEN owned THEN mine END);
          RETURN NEXT;
        END LOOP;
        INSERT INTO transitions
          SELECT numbers[c.id], c.alert, c.fingerprint, c.kind, c.started_at, c.at, c.shape, c."row", c.previous
          FROM json_to_recordset(changed) AS c (
            id integer, alert text, fingerprint text, kind text, started_at bigint, at bigint, shape integer,
            "row" text, previous text)
          WHERE numbers[c.id] IS NOT NULL;
      END
    $$;
    -- Writes outcomes, and makes the next of their ordering keys sendable. One by one: of a join the plan that is kept
    -- would be that for an empty table, which reads all of it.
    CREATE FUNCTION settle (given json, asked json) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
      DECLARE
        one record;
      BEGIN
        FOR one IN SELECT * FROM json_to_recordset(given) AS g (
          seq bigint, status text, attempts integer, not_before double precision, settled_at double precision,
          reason text, detail text, keep boolean, key boolean)
        LOOP
          UPDATE notifications AS n SET
            status = one.status, attempts = one.attempts, not_before = one.not_before, settled_at = one.settled_at,
            reason = one.reason, detail = one.detail, request = CASE WHEN one.keep THEN n.request END, owner = NULL,
            ordering_key =
              CASE WHEN one.key AND one.status = 'pending' THEN 'released ' || n.seq ELSE n.ordering_key END,
            ready_at = CASE WHEN one.key AND one.status = 'pending' THEN one.not_before END
          WHERE n.seq = one.seq AND n.status IS NOT DISTINCT FROM 'pending';
        END LOOP;
        RETURN QUERY SELECT * FROM make_ready(asked);
      END
    $$;
    """,
)
