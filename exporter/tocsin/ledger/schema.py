"""The tables, as a list of migrations: number n brings a file from version n to n + 1. Released ones never change."""

from typing import LiteralString

INTEGERS: LiteralString = """
    -- Materialize's own integers, which have the numbers of bigint and bigint[] now: what is pending is sent as before.
    UPDATE shapes SET columns = known.columns FROM (
      SELECT max(id) AS id, columns FROM (
        SELECT id, replace(replace(replace(replace(replace(replace(replace(replace(columns,
          '",16460,', '",20,'), '",16462,', '",20,'), '",16464,', '",20,'), '",16552,', '",20,'),
          '",16461,', '",1016,'), '",16463,', '",1016,'), '",16465,', '",1016,'), '",16553,', '",1016,') AS columns
        FROM shapes) AS each
      GROUP BY columns HAVING count(*) = 1) AS known             -- no two lists become the same
    WHERE shapes.id = known.id;
"""
"""The same in every store."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE shapes (
      id      INTEGER PRIMARY KEY,
      columns TEXT NOT NULL UNIQUE               -- JSON: [[name, type number, type modifier], ...]
    );
    CREATE TABLE alerts (
      alert      TEXT PRIMARY KEY,
      definition TEXT NOT NULL,
      shape      INTEGER NOT NULL,
      frontier   INTEGER                         -- source ms; everything strictly before it is in this file
    ) WITHOUT ROWID;
    CREATE TABLE firings (
      alert       TEXT NOT NULL,
      fingerprint TEXT NOT NULL,
      phase       TEXT NOT NULL,
      started_at  INTEGER NOT NULL,
      marked_at   INTEGER NOT NULL,
      row         TEXT NOT NULL,                 -- JSON: [text or null, ...]
      counts      TEXT NOT NULL,                 -- JSON: [[count, row], ...], '' for one copy of `row`
      PRIMARY KEY (alert, fingerprint)
    ) WITHOUT ROWID;
    CREATE TABLE transitions (
      id          INTEGER PRIMARY KEY,
      alert       TEXT NOT NULL,
      fingerprint TEXT NOT NULL,
      kind        TEXT NOT NULL,
      started_at  INTEGER NOT NULL,
      at          INTEGER NOT NULL,
      shape       INTEGER NOT NULL,
      row         TEXT NOT NULL,
      previous    TEXT
    );
    CREATE INDEX transitions_by_episode ON transitions (fingerprint, started_at);
    CREATE TABLE notifications (
      seq        INTEGER PRIMARY KEY,
      id         TEXT NOT NULL UNIQUE,
      transition INTEGER NOT NULL,
      channel    TEXT NOT NULL,
      status     TEXT NOT NULL DEFAULT 'pending',
      attempts   INTEGER NOT NULL DEFAULT 0,
      created_at REAL NOT NULL,
      not_before REAL NOT NULL DEFAULT 0,
      settled_at REAL,
      reason     TEXT NOT NULL DEFAULT '',
      detail     TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX notifications_pending ON notifications (channel, seq) WHERE status = 'pending';
    CREATE INDEX notifications_parked ON notifications (channel) WHERE status = 'dead';
    CREATE INDEX notifications_by_transition ON notifications (transition);
    """,
    """
    ALTER TABLE notifications ADD COLUMN lane TEXT NOT NULL DEFAULT '';  -- goes in order; '': the fingerprint
    ALTER TABLE notifications ADD COLUMN digest INTEGER;                 -- one message with others of this number
    CREATE INDEX notifications_by_digest ON notifications (digest, seq) WHERE digest IS NOT NULL AND status = 'pending';
    CREATE TABLE windows (
      channel  TEXT NOT NULL,
      lane     TEXT NOT NULL,
      interval REAL NOT NULL,
      due      REAL NOT NULL,                    -- from when on the next message may be sent
      digest   INTEGER,                          -- what gathers until then; NULL: nothing yet
      PRIMARY KEY (channel, lane)
    ) WITHOUT ROWID;
    CREATE TABLE attempts (                      -- those that failed; a notification has its successful one
      seq    INTEGER NOT NULL,
      at     REAL NOT NULL,
      reason TEXT NOT NULL,
      detail TEXT NOT NULL
    );
    CREATE INDEX attempts_by_notification ON attempts (seq);
    CREATE TABLE sightings (
      alert TEXT NOT NULL,
      key   TEXT NOT NULL,
      event TEXT NOT NULL,                       -- the fingerprint of the event that was sent
      until INTEGER NOT NULL,                    -- source ms; others of this key are repeats until then
      PRIMARY KEY (alert, key)
    ) WITHOUT ROWID;
    CREATE TABLE positions (
      source    TEXT NOT NULL,
      partition TEXT NOT NULL,
      position  INTEGER NOT NULL,                -- everything before it is in this file
      PRIMARY KEY (source, partition)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE notifications ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;  -- of the idempotency key
    CREATE TABLE bulks (                         -- requests whose outcome is not known
      first   INTEGER PRIMARY KEY,               -- seq of the first member
      channel TEXT NOT NULL,
      members TEXT NOT NULL                      -- JSON: [seq, ...], in the order of the request
    );
    """,
    """
    ALTER TABLE notifications RENAME COLUMN lane TO ordering_key;      -- of these one after another, by seq
    ALTER TABLE windows RENAME COLUMN lane TO ordering_key;
    ALTER TABLE notifications ADD COLUMN ready_at REAL;    -- the first pending one of its ordering key: sent from then
    ALTER TABLE notifications ADD COLUMN request INTEGER;  -- the first member of its request, whose outcome is unknown
    UPDATE notifications SET ordering_key = (SELECT fingerprint FROM transitions WHERE id = transition)
      WHERE ordering_key = '' AND status <> 'delivered';
    UPDATE notifications SET request = bulks.first FROM bulks, json_each(bulks.members) AS member
      WHERE notifications.seq = member.value;
    UPDATE notifications SET ready_at = not_before WHERE seq IN
      (SELECT min(seq) FROM notifications WHERE status = 'pending' GROUP BY channel, ordering_key);
    DROP TABLE bulks;
    DROP INDEX notifications_pending;
    CREATE INDEX notifications_by_key ON notifications (channel, ordering_key, seq) WHERE status = 'pending';
    CREATE INDEX notifications_ready ON notifications (channel, ready_at, seq)
      WHERE status = 'pending' AND ready_at IS NOT NULL;
    CREATE INDEX notifications_by_request ON notifications (request, seq)
      WHERE status = 'pending' AND request IS NOT NULL;
    """,
    """
    ALTER TABLE notifications ADD COLUMN silence TEXT;                       -- that holds it, or has held it last
    -- 1: no silence holds it any more. 2: it may have been sent, by a process that ended before it knew.
    ALTER TABLE notifications ADD COLUMN passes INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX notifications_held ON notifications (silence, channel, created_at) WHERE status = 'held';
    CREATE TABLE silences (
      id         TEXT PRIMARY KEY,
      matchers   TEXT NOT NULL,
      starts_at  REAL NOT NULL,
      ends_at    REAL NOT NULL,
      reason     TEXT NOT NULL,
      made_by    TEXT NOT NULL,
      created_at REAL NOT NULL,
      closed_at  REAL,                           -- when what it held was sent on or dropped
      released   INTEGER NOT NULL DEFAULT 0,
      dropped    INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    """,
    INTEGERS,
)
