"""The SQL that a database needs for this source, for its administrator to read and run. Pure; it may be run again."""

from collections.abc import Sequence

from psycopg import sql

from tocsin.postgres import code, derived_name, granted, name_parts, relation, script
from tocsin.sources.postgres_events.settings import HANDLED_AS, HANDLED_AT, Config


def new_table(config: Config) -> str:
    """SQL that makes a table of events from nothing. Where a table is there that was not made by it, the SQL ends with
    an error and changes nothing; with a companion, it adds the same as that of `existing_table` and says nothing about
    the table itself."""
    parts = _parts(config)
    columns = ["{id} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "{name} text NOT NULL"]
    comments = ["COMMENT ON TABLE {table} IS 'Events, one a row, for Tocsin to tell.';", _COMMENTS]
    taken = {config.id, config.name}
    if config.key and config.key not in {*taken, config.time}:
        columns.append("{key} text")
        comments.append("COMMENT ON COLUMN {table}.{key} IS 'Events with the same key are taken in order.';")
    if config.time and config.time not in taken:
        columns.append("{time} timestamptz NOT NULL DEFAULT clock_timestamp()")
        comments.append("COMMENT ON COLUMN {table}.{time} IS 'When it happened.';")
    if "data" not in {*taken, config.key, config.time}:
        columns.append("data jsonb NOT NULL DEFAULT '{{}}'")
        comments.append("COMMENT ON COLUMN {table}.data IS 'What there is to tell of it.';")
    if not config.companion:
        # Here and not by ALTER TABLE: in a table that was there before, all rows would be events still to be told.
        columns += [f"{HANDLED_AT} timestamptz", f"{HANDLED_AS} text"]
    made = "CREATE TABLE IF NOT EXISTS {table} (\n  " + ",\n  ".join(columns) + "\n);"
    # With a companion the table may be somebody else's, and so are the comments on it.
    steps = [made, _COMPANION] if config.companion else ["\n".join((made, *comments))]
    return _written(config, steps, parts)


def existing_table(config: Config, *, backlog: bool = False) -> str:
    """SQL that adds to a table of somebody else's what this source needs. `backlog`: whether rows that are there
    already are events still to be told; without it they count as handled."""
    if config.companion:
        return _written(config, [_COMPANION], _parts(config), [_COMPANION_BACKLOG] if backlog else [])
    return _written(config, [_COLUMNS_OF_PENDING if backlog else _COLUMNS_OF_HANDLED], _parts(config))


def _written(config: Config, steps: Sequence[str], parts: dict[str, sql.Composable], last: Sequence[str] = ()) -> str:
    steps = [*steps, _PENDING, _COMPANION_TRIGGER if config.companion else _TRIGGER, *last]
    made = [sql.SQL(step).format(**parts) for step in steps]
    writes = [f"UPDATE ({HANDLED_AT}, {HANDLED_AS})", *(["DELETE"] if config.after == "delete" else [])]
    rights = {config.table: ["SELECT"]}
    rights[config.companion or config.table] = ["SELECT", *writes]
    return script([*made, *granted(config.role, rights), sql.SQL(_FOR_PUBLISHERS).format(**parts)])


def _parts(config: Config) -> dict[str, sql.Composable]:
    notes = name_parts(config.companion or config.table)
    parts: dict[str, sql.Composable] = {
        "table": relation(config.table),
        "notes": sql.Identifier(*notes),
        **{part: sql.Identifier(getattr(config, part) or "") for part in ("id", "name", "key", "time")},
        "channel": sql.Literal(config.channel),
        "pending": sql.Identifier(derived_name(notes, "_pending")),
        "unique": sql.Identifier(derived_name(notes, "_id")),
        "function": sql.Identifier(*notes[:-1], derived_name(notes, "_notify")),
        "trigger": sql.Identifier(derived_name(notes, "_notify")),
    }
    body = _COMPANION_BODY if config.companion else _BODY
    return {**parts, "body": code(sql.SQL(body).format(**parts))}


_COMMENTS = """\
COMMENT ON COLUMN {table}.handled_at IS 'When Tocsin was done with it; NULL: it is still to be told.';
COMMENT ON COLUMN {table}.handled_as IS 'What became of it: taken, unmatched (no alert takes it) or refused.';"""

_COLUMNS_OF_PENDING = (
    """\
ALTER TABLE {table}
  ADD COLUMN IF NOT EXISTS handled_at timestamptz,
  ADD COLUMN IF NOT EXISTS handled_as text;
"""
    + _COMMENTS
)

_COLUMNS_OF_HANDLED = (
    """\
-- The rows that are there already count as handled: the default is for them alone.
ALTER TABLE {table} ADD COLUMN IF NOT EXISTS handled_at timestamptz DEFAULT now();
ALTER TABLE {table} ALTER COLUMN handled_at DROP DEFAULT;
"""
    + _COLUMNS_OF_PENDING
)

_COMPANION = """\
CREATE TABLE IF NOT EXISTS {notes} AS SELECT {id} FROM {table} WITH NO DATA;
ALTER TABLE {notes}
  ADD COLUMN IF NOT EXISTS handled_at timestamptz,
  ADD COLUMN IF NOT EXISTS handled_as text;
CREATE UNIQUE INDEX IF NOT EXISTS {unique} ON {notes} ({id});
COMMENT ON TABLE {notes} IS 'What is still to be told of the events of another table, kept by Tocsin.';
COMMENT ON COLUMN {notes}.handled_at IS 'When Tocsin was done with it; NULL: it is still to be told.';
COMMENT ON COLUMN {notes}.handled_as IS 'What became of it: taken, unmatched (no alert takes it) or refused.';"""

_COMPANION_BACKLOG = """\
-- The rows that are there already are still to be told. Run this part once.
INSERT INTO {notes} ({id}) SELECT {id} FROM {table} ON CONFLICT DO NOTHING;"""

_PENDING = "CREATE INDEX IF NOT EXISTS {pending} ON {notes} ({id}) WHERE handled_at IS NULL;"

_BODY = """
BEGIN
  PERFORM pg_notify({channel}, NEW.{id}::text);
  RETURN NULL;
END
"""

_COMPANION_BODY = """
BEGIN
  INSERT INTO {notes} ({id}) VALUES (NEW.{id}) ON CONFLICT DO NOTHING;
  PERFORM pg_notify({channel}, NEW.{id}::text);
  RETURN NULL;
END
"""

_ATTACHED = """
DROP TRIGGER IF EXISTS {trigger} ON {table};
CREATE TRIGGER {trigger} AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}();"""

_TRIGGER = "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body};" + _ATTACHED

_COMPANION_TRIGGER = (
    """\
-- It runs with the rights of who creates it, so that those who publish need none on the companion.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body};
REVOKE EXECUTE ON FUNCTION {function}() FROM PUBLIC;"""
    + _ATTACHED
)

_FOR_PUBLISHERS = "-- Who publishes needs: GRANT INSERT, SELECT ({id}) ON {table} TO ...;"
