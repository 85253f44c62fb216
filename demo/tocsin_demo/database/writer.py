"""Writes the producer's events into the demo's tables."""

import time
from collections.abc import Callable

import psycopg
from psycopg import sql

from tocsin_demo.database.decoding import COLUMNS, RejectedError, Row, decode, sample
from tocsin_producer.errors import SinkError

_BATCH = 1000
_REJECTED = ("topic", "reason", "sample")


class DatabaseWriter:
    """A `tocsin_producer.sinks.Sink`: writes events with COPY, one transaction per flush, so that a spike appears as a
    whole and notifies listeners once. Events that cannot be read go to `rejected_events`.

    Args:
        clock: the time of arrival of an event, in epoch seconds.

    Raises:
        SinkError: the database does not answer.
    """

    def __init__(self, conninfo: str, *, clock: Callable[[], float] = time.time) -> None:
        try:
            self._connection = psycopg.connect(conninfo, application_name="tocsin-producer", autocommit=True)
        except psycopg.Error as error:
            raise _gone(error) from None
        self._clock = clock
        self._rows: dict[str, list[Row]] = {}
        self._rejected: list[Row] = []

    def send(self, topic: str, key: bytes, value: bytes | None) -> None:  # noqa: ARG002  # the key is in the value too
        try:
            self._rows.setdefault(topic, []).append(decode(topic, value, received=self._clock()))
        except RejectedError as error:
            self._rejected.append((topic, str(error), sample(value)))
        if len(self._rejected) + sum(map(len, self._rows.values())) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        filled = {topic: rows for topic, rows in self._rows.items() if rows}
        if not filled and not self._rejected:
            return
        try:
            with self._connection.transaction():
                for topic, rows in filled.items():
                    self._copy(topic, COLUMNS[topic], rows)
                if self._rejected:
                    self._copy("rejected_events", _REJECTED, self._rejected)
        except psycopg.Error as error:
            raise _gone(error) from None
        self._rows.clear()
        self._rejected.clear()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._connection.close()

    def _copy(self, table: str, columns: tuple[str, ...], rows: list[Row]) -> None:
        statement = sql.SQL("COPY demo.{} ({}) FROM STDIN").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)


def _gone(error: psycopg.Error) -> SinkError:
    return SinkError(f"the demo's database does not accept events: {' '.join(str(error).split())}")
