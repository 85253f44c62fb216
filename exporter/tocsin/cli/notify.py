"""`tocsin notify`: insert one event into an events table."""

from argparse import Namespace
from contextlib import closing

import psycopg

from tocsin.cli import Exit
from tocsin.cli.configuration import configuration
from tocsin.client import EventsTable, publish
from tocsin.errors import SourceReason, TocsinError
from tocsin.sources import postgres_events
from tocsin.sources.documents import parsed
from tocsin.sources.server_errors import connect_error, translated


def command(chosen: Namespace) -> Exit:
    source = configuration(chosen).sources.get(chosen.source)
    if source is None or not isinstance(source.settings, postgres_events.Config):
        raise TocsinError(f"there is no source of type postgres_events called {chosen.source}")
    settings = source.settings
    data, columns = _data(chosen), _columns(chosen, settings)
    into = EventsTable(table=settings.table, id=settings.id, name=settings.name, channel=settings.channel)
    try:
        connection = psycopg.connect(settings.conninfo())
        for statement in settings.configured():
            connection.execute(statement)
    except psycopg.Error as error:
        raise connect_error(error, settings, settings.connect_timeout) from None
    # psycopg leaves a connection open when its COMMIT fails.
    with translated(settings.display, _FIXES), closing(connection), connection:
        id_ = publish(connection, _text("NAME", chosen.name), data, columns=columns, into=into)
    print(id_)
    return Exit.OK


_FIXES = {
    SourceReason.MISSING: "`tocsin check --online` says what the database lacks",
    SourceReason.PERMISSION: "a publisher needs INSERT on the table, and SELECT on its id",
}


def _text(argument: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TocsinError(f"{argument}: it is not UTF-8 text") from None
    return value


def _data(chosen: Namespace) -> dict[str, object] | None:
    if chosen.data is None:
        return None
    try:
        return parsed(_text("--data", chosen.data))
    except ValueError as error:
        raise TocsinError(f"--data: {error}; write for example --data '{{\"order\": 17}}'") from None


def _columns(chosen: Namespace, settings: postgres_events.Config) -> dict[str, object]:
    columns: dict[str, object] = {}
    for text in chosen.set:
        column, equals, value = _text("--set", text).partition("=")
        if not column or not equals:
            raise TocsinError(f"--set: {text!r} is not COLUMN=TEXT")
        columns[column] = value
    if chosen.key is not None:
        if settings.key is None:
            raise TocsinError(f"--key: the source {chosen.source} names no column for it; set `key` there")
        columns[settings.key] = _text("--key", chosen.key)
    return columns
