"""For programs that publish events: one call that inserts an event into the table and sends NOTIFY.

    from tocsin.client import publish

    with psycopg.connect(...) as connection:
        connection.execute("UPDATE orders SET ...")
        publish(connection, "order_late", {"order": 17})   # is sent only if the transaction is committed

Needs psycopg 3, and the table that `tocsin sql` describes. Tocsin does not have to run.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from tocsin.postgres import relation

__all__ = ["DEFAULT", "EventsTable", "publish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsTable:
    """Where events go: the table as SQL writes its name, its columns, and the channel of NOTIFY. The names are those of
    the configuration of a source `postgres_events`; `data` is the column that `publish` fills with JSON."""

    table: str = "events"
    id: str = "id"
    name: str = "name"
    data: str = "data"
    channel: str = "events"


DEFAULT = EventsTable()


def publish(
    to: "psycopg.Connection[Any] | str",
    name: str,
    data: Mapping[str, object] | None = None,
    *,
    columns: Mapping[str, object] | None = None,
    into: EventsTable = DEFAULT,
) -> str:
    """Publish one event durably and return its id as text.

    `to`: a connection of the caller, in whose transaction the event is inserted (it exists only if that is committed);
    or a connection string, for a transaction of its own. `data`: a JSON value for the column of that name; without it,
    the column has its default. `columns`: values of further columns.

    Raises psycopg.Error; psycopg.DataError where a trigger or rule of the table dropped the event, or the event has no
    id (then the row exists unless the transaction is rolled back). The text of psycopg's errors may contain values of
    the event, never the password.
    """
    if isinstance(to, str):
        # psycopg leaves a connection open when its COMMIT fails.
        with closing(psycopg.connect(to)) as connection, connection:
            return publish(connection, name, data, columns=columns, into=into)
    values: dict[str, object] = {into.name: name, **(columns or {})}
    if data is not None:
        values[into.data] = Jsonb(dict(data))
    # One statement, so that it is atomic without a transaction too. No placeholders, since names may contain a %.
    statement = sql.SQL(
        "WITH new AS (INSERT INTO {table} ({columns}) VALUES ({values}) RETURNING {id}::text AS id)"
        " SELECT id, pg_notify({channel}, id) FROM new"
    ).format(
        table=relation(into.table),
        columns=sql.SQL(", ").join(map(sql.Identifier, values)),
        values=sql.SQL(", ").join(map(sql.Literal, values.values())),
        id=sql.Identifier(into.id),
        channel=sql.Literal(into.channel),
    )
    with to.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        row = cursor.execute(statement).fetchone()
    if row is None:
        raise psycopg.DataError(
            f"no event was written: a trigger or rule of {into.table} dropped it; check its BEFORE INSERT triggers"
        )
    if row[0] is None:
        raise psycopg.DataError(
            f"the event has no {into.id}, so it is never read; add a default to that column of {into.table}"
        )
    return str(row[0])
