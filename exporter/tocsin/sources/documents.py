"""JSON objects as rows, for sources whose events are JSON documents."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from tocsin.errors import RefusedReason
from tocsin.model import Column, Columns, Event, Row

_TEXT, _BOOL, _INT8, _NUMERIC, _FLOAT8, _JSON, _JSONB = 25, 16, 20, 1700, 701, 114, 3802
_SHORT, _FEW = 64, 64
"""Characters of a name and columns of a document that are cached; without limits, a sender could fill the memory."""
_DEEP = 100
"""Brackets from which a document may be nested so deeply that it can be read and not be written."""
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Unreadable(Exception):  # noqa: N818 - not an error of the program but of what was delivered
    """Why a record or message is not a valid event; `detail` holds none of its content."""

    def __init__(self, reason: RefusedReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def readable(document: bytes, limit: int) -> dict[str, Any]:
    """Parse a JSON object of at most `limit` bytes. Raises Unreadable."""
    if len(document) > limit:
        raise Unreadable(RefusedReason.TOO_LARGE, f"it has {len(document)} bytes, more than {limit}")
    try:
        return parsed(document)
    except ValueError as error:
        raise Unreadable(RefusedReason.MALFORMED, str(error)) from None


def parsed(document: bytes | str) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError, without any of the content, for anything else."""
    return _object(_value(document))


def lines(document: bytes) -> list[dict[str, Any]]:
    """Parse JSON objects: one, a list of them, or one per line. Raises ValueError as `parsed` does."""
    try:
        value = _value(document)
    except ValueError:
        texts = [line for line in document.split(b"\n") if line.strip()]
        if len(texts) < 2:
            raise
        return [parsed(line) for line in texts]
    return [_object(item) for item in value] if isinstance(value, list) else [_object(value)]


def form(body: bytes) -> dict[str, Any]:
    """Parse a form (`application/x-www-form-urlencoded`) as an object of texts; a repeated field is a list. If its one
    field is `payload`, as Slack and GitHub send it, that is the JSON object. Raises ValueError as `parsed` does."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not pairs:
        raise ValueError("it has no field")
    if [name for name, _ in pairs] == ["payload"]:
        return parsed(pairs[0][1])
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


def _value(document: bytes | str) -> Any:
    try:
        if isinstance(document, bytes):
            document = document.decode(json.detect_encoding(document))
        value = _DECODER.decode(document)
        if "\\u" in document or document.count("[") + document.count("{") > _DEEP:
            _COMPACT.encode(value).encode()
        return value
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except UnicodeEncodeError:  # it could neither be stored nor sent
        raise ValueError("it has half of a pair of surrogates") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        place = f" at character {error.pos}" if error.doc else ""  # that of a number is not known
        raise ValueError(f"it is not JSON: {error.msg}{place}") from None
    except ValueError:  # Python's limit of digits
        raise ValueError("it has a number that is too long") from None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it is not a JSON object but {_noun(value)}")
    return value


def row_of(document: Mapping[str, Any]) -> tuple[Columns, Row]:
    """Return the fields of a JSON object as columns, in order, with types from their values.

    Integers beyond 64 bits become `numeric`, lists and objects `jsonb`; null is a NULL of type `text`.
    """
    oids: list[int] = []
    row: list[str | None] = []
    for value in document.values():
        oid, text = _field(value)
        oids.append(oid)
        row.append(text)
    names = tuple(document)
    # Columns are expensive to create and to store, and successive documents have the same ones.
    ordinary = len(names) <= _FEW and all(len(name) <= _SHORT for name in names)
    make = _columns if ordinary else _columns.__wrapped__
    return make(names, tuple(oids)), tuple(row)


def with_nested(event: Event, names: Sequence[str]) -> Event:
    """Return the event with a column for each name (`data.customer`) that is a path into one of its JSON columns. A
    column of that name wins; a path without a field adds nothing."""
    places = {column.name: place for place, column in enumerate(event.columns)}
    columns: list[Column] = []
    row: list[str | None] = []
    for name in names:
        head, _, rest = name.partition(".")
        place = places.get(head)
        if name in places or place is None or event.columns[place].oid not in (_JSON, _JSONB):
            continue
        found = _inside(event.row[place], rest.split("."))
        if found is not None:
            columns.append(Column(name=name, oid=found[0]))
            row.append(found[1])
    if not columns:
        return event
    return replace(event, columns=(*event.columns, *columns), row=(*event.row, *row))


def _inside(text: str | None, path: Sequence[str]) -> tuple[int, str | None] | None:
    """Return type and text of the value at a path of keys in a JSON text; None where there is none."""
    try:
        value = None if text is None else _value(text)
    except ValueError:
        return None
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return _field(value)


@functools.lru_cache(maxsize=1024)
def _columns(names: tuple[str, ...], oids: tuple[int, ...]) -> Columns:
    return tuple(Column(name=name, oid=oid) for name, oid in zip(names, oids, strict=True))


def _field(value: Any) -> tuple[int, str | None]:
    if value is None:
        return _TEXT, None
    if isinstance(value, str):
        return _TEXT, value
    if isinstance(value, bool):
        return _BOOL, "t" if value else "f"
    if isinstance(value, int):
        return (_INT8 if -(2**63) <= value < 2**63 else _NUMERIC), str(value)
    if isinstance(value, float):
        return _FLOAT8, repr(value)
    return _JSONB, _COMPACT.encode(value)


def _refuse(constant: str) -> None:
    raise json.JSONDecodeError(f"{constant} is not a JSON value", "", 0)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise json.JSONDecodeError("a number that is too large", "", 0)
    return number


def _noun(value: object) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
