"""The SQL for Materialize on a real PostgreSQL.

PostgreSQL has no sources and no `mz_now()`: a table replaces a source, and a function that returns the test's clock
replaces `mz_now()`. Otherwise every view runs as it is shipped.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

from sql_plan import Statement
from tocsin_producer.events import CUSTOMER_EVENTS

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SCHEMA = 'Odd "name"; x'
EVENT = {
    "customer_id": 7,
    "customer_name": "Zoë \U0001f355",
    "deployment_type": "cloud",
    "organization": "A",
    "event_type": "deployment_created",
    "event_ts": int(NOW.timestamp()),
}
BID = {
    "auction_id": 1,
    "item": "Best Pizza in Town",
    "amount": "90.50",
    "bidder": "Jo",
    "bid_ts": int(NOW.timestamp()),
}


def for_postgres(statement: Statement) -> str:
    """Return the replacement of a statement in PostgreSQL; empty for one that it does not know."""
    match statement.action:
        case "CREATE SCHEMA" | "CREATE TABLE" | "INSERT":
            return statement.text
        case "CREATE SOURCE":
            columns = 'key bytea, data bytea NOT NULL, partition int, "offset" bigint, received_at timestamp NOT NULL'
            return f"CREATE TABLE {sql.Identifier(SCHEMA, statement.name).as_string()} ({columns})"
        case "CREATE VIEW" | "CREATE MATERIALIZED VIEW":
            head = r"^CREATE (?:MATERIALIZED )?VIEW IF NOT EXISTS (.+?)(?: IN CLUSTER \"\w+\")? AS SELECT"
            return re.sub(head, r"CREATE VIEW \1 AS SELECT", statement.text, count=1)
    return ""


class Model:
    """The shipped model, in the transaction of a connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._offset = 0

    def run(self, statement: str, *parameters: object) -> list[Any]:
        cursor = self._connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def build(self, script: Sequence[Statement]) -> None:
        self.run("CREATE TABLE clock (now timestamptz)")
        self.run("INSERT INTO clock VALUES (%s)", NOW)
        self.run("CREATE FUNCTION mz_now() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT now FROM clock'")
        for statement in filter(None, map(for_postgres, script)):
            self.run(statement)

    def receive(self, *messages: bytes | dict[str, Any], topic: str = CUSTOMER_EVENTS, at: datetime = NOW) -> None:
        """Let messages reach a source."""
        name = self.name(f"{topic}_raw")
        for message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode()
            self._offset += 1
            row = (data, self._offset, at.replace(tzinfo=None))
            self.run(f'INSERT INTO {name} (data, partition, "offset", received_at) VALUES (%s, 0, %s, %s)', *row)

    def at(self, moment: datetime) -> None:
        """Set the clock."""
        self.run("UPDATE clock SET now = %s", moment)

    def rows(self, view: str, columns: str = "*") -> list[tuple[Any, ...]]:
        return sorted(self.run(f"SELECT {columns} FROM {self.name(view)}"))

    def name(self, name: str) -> str:
        return sql.Identifier(SCHEMA, name).as_string()

    def columns(self, schema: str, view: str) -> dict[str, str]:
        return dict(
            self.run(
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
                schema,
                view,
            )
        )
