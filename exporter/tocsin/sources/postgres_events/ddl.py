"""The SQL that a database needs for this source, for its administrator to read and run. Pure; it may be run again."""

from psycopg import sql

from tocsin.postgres import code, derived_name, granted, name_parts, relation, script
from tocsin.sources.postgres_events.settings import HANDLED_AS, HANDLED_AT, Config


def new_table(config: Config) -> str:
    """Return SQL that creates the table. It ends with an error and changes nothing where a table exists that it did not
    create."""
    columns = ["{id} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "{name} text NOT NULL"]
    comments = ["COMMENT ON TABLE {table} IS 'Events for Tocsin, one per row.';", _COMMENTS]
    used = {config.id, config.name}
    if config.key and config.key not in {*used, config.time}:
        columns.append("{key} text")
        comments.append("COMMENT ON COLUMN {table}.{key} IS 'Events with the same key are read in order.';")
    if config.time and config.time not in used:
        columns.append("{time} timestamptz NOT NULL DEFAULT clock_timestamp()")
        comments.append("COMMENT ON COLUMN {table}.{time} IS 'When it happened.';")
    if "data" not in {*used, config.key, config.time}:
        columns.append("data jsonb NOT NULL DEFAULT '{{}}'")
        comments.append("COMMENT ON COLUMN {table}.data IS 'What the event is about.';")
    # Not by ALTER TABLE: in a table that exists already, all rows would become pending events.
    columns += [f"{HANDLED_AT} timestamptz", f"{HANDLED_AS} text"]
    created = "CREATE TABLE IF NOT EXISTS {table} (\n  " + ",\n  ".join(columns) + "\n);"
    return _script(config, "\n".join((created, *comments)))


def existing_table(config: Config, *, backlog: bool = False) -> str:
    """Return SQL that adds to an existing table what this source needs. `backlog`: whether the rows that it holds are
    pending events; otherwise they count as handled."""
    return _script(config, _ADDED if backlog else _ADDED_AS_HANDLED + _ADDED)


def _script(config: Config, table: str) -> str:
    parts = name_parts(config.table)
    names: dict[str, sql.Composable] = {
        "table": relation(config.table),
        **{part: sql.Identifier(getattr(config, part) or "") for part in ("id", "name", "key", "time")},
        "channel": sql.Literal(config.channel),
        "pending": sql.Identifier(derived_name(parts, "_pending")),
        "function": sql.Identifier(*parts[:-1], derived_name(parts, "_notify")),
        "trigger": sql.Identifier(derived_name(parts, "_notify")),
    }
    names["body"] = code(sql.SQL(_BODY).format(**names))
    rights = ["SELECT", f"UPDATE ({HANDLED_AT}, {HANDLED_AS})", *(["DELETE"] if config.after == "delete" else [])]
    steps = [sql.SQL(step).format(**names) for step in (table, _PENDING, _TRIGGER)]
    return script([*steps, *granted(config.role, {config.table: rights}), sql.SQL(_FOR_PUBLISHERS).format(**names)])


_COMMENTS = """\
COMMENT ON COLUMN {table}.handled_at IS 'When Tocsin finished with it; NULL: pending.';
COMMENT ON COLUMN {table}.handled_as IS 'The result: taken, unmatched (no alert takes it) or refused.';"""

_ADDED = (
    """\
ALTER TABLE {table}
  ADD COLUMN IF NOT EXISTS handled_at timestamptz,
  ADD COLUMN IF NOT EXISTS handled_as text;
"""
    + _COMMENTS
)

_ADDED_AS_HANDLED = """\
-- Existing rows count as handled: the default is for them alone.
ALTER TABLE {table} ADD COLUMN IF NOT EXISTS handled_at timestamptz DEFAULT now();
ALTER TABLE {table} ALTER COLUMN handled_at DROP DEFAULT;
"""

_PENDING = "CREATE INDEX IF NOT EXISTS {pending} ON {table} ({id}) WHERE handled_at IS NULL;"

_BODY = """
BEGIN
  PERFORM pg_notify({channel}, NEW.{id}::text);
  RETURN NULL;
END
"""

_TRIGGER = """\
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body};
DROP TRIGGER IF EXISTS {trigger} ON {table};
CREATE TRIGGER {trigger} AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}();"""

_FOR_PUBLISHERS = "-- Publishers need: GRANT INSERT, SELECT ({id}) ON {table} TO ...;"
