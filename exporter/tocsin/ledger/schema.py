"""The tables, as a list of migrations: number n brings a file from version n to n + 1. Released ones never change."""

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
)
