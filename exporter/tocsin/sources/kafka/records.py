"""A record of Kafka as an event or as a row. Pure: no connection, no clock."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from tocsin.errors import RefusedReason
from tocsin.model import Column, Columns, Event, Row
from tocsin.sources.documents import Unreadable, parsed, readable, row_of
from tocsin.sources.kafka.settings import About, Type

Cell: TypeAlias = tuple[int, str | None]
"""A value: its type's number, and its text."""

TEXT, BYTEA, INT8, NUMERIC, FLOAT8, JSONB, TIMESTAMPTZ, BOOL = 25, 17, 20, 1700, 701, 3802, 1184, 16
TYPES: Mapping[Type, int] = {
    "text": TEXT,
    "boolean": BOOL,
    "integer": INT8,
    "numeric": NUMERIC,
    "float": FLOAT8,
    "jsonb": JSONB,
    "timestamptz": TIMESTAMPTZ,
}
_NUMBERS = frozenset({INT8, NUMERIC, FLOAT8})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000 = 253_402_300_800_000
_PREFIX = re.compile(rb"\x00.{4}", re.DOTALL)
"""Written by the serializers of schema registries: a zero and the id of a schema."""
_MILLISECONDS = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,6})?")


def place(message: Message) -> str:
    """Return `topic/partition/offset`: the identity of a record within a cluster."""
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def event(message: Message, include: Sequence[About], limit: int, now: Callable[[], float]) -> Event:
    """Return a record as an event. Raises Unreadable."""
    value = message.value()
    if value is None:
        raise Unreadable(RefusedReason.MISSING, "it has no value")
    columns, row = row_of(_document(value, limit))
    if include:
        about = cells(message, include)
        columns += tuple(Column(name=name, oid=oid) for name, (oid, _) in about.items())
        row += tuple(text for _, text in about.values())
    stamp = _stamp(message)
    return Event(
        name=message.topic() or "",
        # With its time: a recreated topic gives its offsets again.
        id=place(message) if stamp is None else f"{place(message)}@{stamp}",
        at=int(now() * 1000) if stamp is None else stamp,
        columns=columns,
        row=row,
    )


def _document(value: bytes, limit: int) -> dict[str, Any]:
    """Return the object in a value. Raises Unreadable."""
    try:
        return readable(_json(value), limit)
    except Unreadable as why:
        if why.reason is not RefusedReason.MALFORMED or not _PREFIX.match(value):
            raise
        raise Unreadable(
            RefusedReason.MALFORMED,
            "it has the prefix of a schema registry and is not JSON but Avro or Protobuf; have it written as JSON, in "
            "Kafka Connect with the value.converter org.apache.kafka.connect.json.JsonConverter",
        ) from None


def _json(raw: bytes) -> bytes:
    """Return a key or value without the prefix of a schema registry if JSON follows it."""
    return raw[5:] if raw[5:6] == b"{" and _PREFIX.match(raw) else raw


def cells(message: Message, include: Iterable[About]) -> dict[str, Cell]:
    """Return the metadata of a record as columns."""
    return {f"_{name}": _ABOUT[name](message) for name in include}


def _text(raw: bytes | str | None) -> Cell:
    if raw is None or isinstance(raw, str):
        return TEXT, raw
    try:
        return TEXT, _json(raw).decode()
    except UnicodeDecodeError:
        return BYTEA, "\\x" + raw.hex()


def _timestamp(message: Message) -> Cell:
    stamp = _stamp(message)
    if stamp is None:
        return TIMESTAMPTZ, None
    return TIMESTAMPTZ, (_EPOCH + timedelta(milliseconds=stamp)).isoformat(sep=" ", timespec="milliseconds")


def _stamp(message: Message) -> int | None:
    """Return the record's time in milliseconds; None for values outside of any calendar: producers set it freely."""
    kind, stamp = message.timestamp()
    return stamp if kind != TIMESTAMP_NOT_AVAILABLE and 0 <= stamp < _YEAR_10000 else None


def _headers(message: Message) -> Cell:
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return JSONB, json.dumps({name: _text(value)[1] for name, value in pairs}, ensure_ascii=False)


_ABOUT: Mapping[About, Callable[[Message], Cell]] = {
    "key": lambda message: _text(message.key()),
    "topic": lambda message: (TEXT, message.topic()),
    "partition": lambda message: (INT8, str(message.partition())),
    "offset": lambda message: (INT8, str(message.offset())),
    "timestamp": _timestamp,
    "headers": _headers,
}


class Reader:
    """Records of a compacted topic as cells by column name: the fields of key and value; the value's win."""

    def __init__(self, *, debezium: bool, include: Sequence[About], limit: int) -> None:
        self._debezium = debezium
        self._include = include
        self._limit = limit

    def read(self, message: Message) -> dict[str, Cell] | None:
        """Return the row of a record, None for a tombstone. Raises Unreadable."""
        if message.key() is None:
            raise Unreadable(RefusedReason.MISSING, "it has no key")
        value = message.value()
        if value is None:
            return None
        fields: Any = _document(value, self._limit)
        if self._debezium:
            # The JSON converter with schemas wraps the change once more.
            fields = fields["payload"] if "after" not in fields and "payload" in fields else fields
            fields = fields.get("after") if isinstance(fields, dict) else fields
            if fields is None:
                return None
            if not isinstance(fields, dict):
                raise Unreadable(RefusedReason.MALFORMED, "`after` is not a JSON object")
        columns, row = row_of({**self._key(message), **fields})
        found = {column.name: (column.oid, text) for column, text in zip(columns, row, strict=True)}
        return found | cells(message, self._include) if self._include else found

    def _key(self, message: Message) -> dict[str, Any]:
        key = _json(message.key() or b"")
        if key[:1] != b"{":
            return {}
        try:
            fields = parsed(key)
        except ValueError:
            return {}
        return fields["payload"] if self._debezium and fields.keys() == {"schema", "payload"} else fields


def columns_of(rows: Iterable[Mapping[str, Cell]]) -> Columns:
    """Return columns for rows whose fields differ, in order of appearance. Numbers of several types become `numeric`,
    other mixtures `text`."""
    types: dict[str, int | None] = {}
    for row in rows:
        for name, (oid, text) in row.items():
            known = types.get(name)
            if text is None or known == oid:
                types.setdefault(name, None)
            elif known is None:
                types[name] = oid
            else:
                types[name] = NUMERIC if known in _NUMBERS and oid in _NUMBERS else TEXT
    return tuple(Column(name=name, oid=TEXT if oid is None else oid) for name, oid in types.items())


def row(columns: Columns, found: Mapping[str, Cell]) -> Row:
    """Return the row for these columns, NULL where a field is missing."""
    return tuple(_fitted(column.oid, *found.get(column.name, _NULL)) for column in columns)


_NULL: Cell = (TEXT, None)


def _fitted(wanted: int, oid: int, text: str | None) -> str | None:
    """The text of a value in a column of type `wanted`: JSON in a JSON column, a time in a column of times. Under any
    other type it is the same."""
    if text is None or wanted == oid:
        return text
    if wanted == TIMESTAMPTZ:
        return _time(text)
    if wanted != JSONB:
        return text
    return {"t": "true", "f": "false"}[text] if oid == BOOL else text if oid in _NUMBERS else json.dumps(text)


def _time(text: str) -> str:
    # A sink of Materialize writes milliseconds since 1970 as text; others as a number. Sixteen digits are microseconds.
    if not _MILLISECONDS.fullmatch(text):
        return text
    try:
        moment = _EPOCH + timedelta(microseconds=int(Decimal(text) * 1000))
    except OverflowError:
        return text
    return moment.isoformat(sep=" ")
