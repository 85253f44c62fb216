"""Values of columns: from the text a server sends to Python, and from Python to JSON. No function raises because of a
value.

psycopg's loaders read PostgreSQL's types. Text that does not parse as its type (a date in the year 12026, an infinite
timestamp, an enum) stays text, and NULL is `None`, never ''. What the types become:

| column | Python | JSON |
| --- | --- | --- |
| boolean | bool | true, false |
| integers, signed or not; mz_timestamp | int | number |
| real, double precision | float | number; "NaN", "Infinity", "-Infinity" |
| numeric | Decimal | string, exact, never in exponent form |
| timestamptz | datetime in UTC | ISO 8601 with `Z` |
| timestamp, date, time | datetime, date, time | ISO 8601 without an offset |
| uuid | UUID | string |
| bytea | bytes | `\\x` and hexadecimal digits, as the server writes it |
| json, jsonb | what it holds | what it holds |
| arrays, lists | list | array |
| maps | dict | object |
| interval, text, anything else | str | string |

An interval stays text (`1 mon 2 days 03:04:05.5`) because that is its only exact form: a month has no length.
Numbers inside JSON are floats where that loses nothing, else Decimal.
"""

import json
import math
import re
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from types import SimpleNamespace
from typing import Any, NoReturn
from uuid import UUID

import psycopg
from psycopg.adapt import AdaptersMap, Buffer, Loader, Transformer
from psycopg.postgres import types as postgres_types
from psycopg.pq import Format
from psycopg.types.string import TextLoader

from tocsin.model import Column, Columns, Row

MAX_DEPTH = 100
"""Lists and objects nested deeper than this stay text, so that no later step can run out of stack."""

FIRST_OWN_TYPE = 16384
"""Type numbers from here on are not PostgreSQL's own. Each server gives them to other types: Materialize to its own,
PostgreSQL to whatever an extension or a user creates next."""


def typed(column: Column, text: str | None) -> object:
    """Return the value of a column in Python (see the table above); the text itself where it does not parse."""
    if text is None:
        return None
    try:
        load = _loaders().get(column.oid)
        if load is None:
            return _shallow(_own_type(text)) if column.oid >= FIRST_OWN_TYPE else text
        value = load(text.encode())
        if isinstance(value, datetime):
            # Without a connection, psycopg takes UTC, except where that has no date: then this raises OverflowError.
            return value if value.tzinfo is None else value.astimezone(UTC)
        return _shallow(value) if isinstance(value, list | dict) else value
    except (ValueError, ArithmeticError, LookupError, RecursionError, psycopg.Error):
        return text


def reader(columns: Columns) -> Callable[[Row], dict[str, object]]:
    """Make the function that turns a row with these columns into a mapping of column name to value."""

    def read(row: Row) -> dict[str, object]:
        return {column.name: typed(column, text) for column, text in zip(columns, row, strict=False)}

    return read


def jsonable(value: object) -> Any:
    """Return the value as JSON can hold it, always in the same way (see the table above). Durations become seconds.
    Raises TypeError for a function."""
    convert = _TO_JSON.get(type(value))
    if convert is not None:
        return convert(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(jsonable(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(item) for item in value), key=repr)
    if isinstance(value, Iterator | KeysView | ValuesView | ItemsView | range):
        return [jsonable(item) for item in value]
    if callable(value):
        # Its text would hold an address of memory.
        name = getattr(value, "__name__", type(value).__name__)
        raise TypeError(f"{name} is a function, which has a value only where it is called: {name}()")
    return str(value)


NUMERIC = frozenset({16, 20, 21, 23, 26, 700, 701, 1082, 1114, 1184, 1186, 1700})
"""The types that `number` reads: numbers, booleans, and moments and spans as seconds."""


def number(text: str | None) -> float:
    """Return the text of a value column as the number of a gauge, NaN where it is not a number.

    Booleans (`t`, `f`) are 1 and 0, dates and timestamps seconds since the epoch (without an offset: in UTC), and
    intervals seconds, with a month of 30 days and a year of 365.25, as PostgreSQL's `extract(epoch from ...)` has it.
    """
    if text is None:
        return math.nan
    try:
        return float(text)
    except ValueError:
        pass
    if text in _BOOLEANS:
        return float(_BOOLEANS[text])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _interval_seconds(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def is_number(text: str) -> bool:
    """Whether `number` reads the text."""
    return text.strip().lower() == "nan" or not math.isnan(number(text))


_BOOLEANS = {"t": True, "f": False}

_INTERVAL = re.compile(
    r"(?:(?P<years>[-+]?\d{1,9}) years? ?)?(?:(?P<months>[-+]?\d{1,9}) mons? ?)?(?:(?P<days>[-+]?\d{1,9}) days? ?)?"
    r"(?:(?P<sign>[-+]?)(?P<hours>\d{1,9}):(?P<minutes>\d\d):(?P<seconds>\d\d(?:\.\d+)?))?"
)


def _interval_seconds(text: str) -> float:
    # Materialize writes "month" where PostgreSQL writes "mon".
    match = _INTERVAL.fullmatch(text.replace("month", "mon"))
    if not text or match is None:
        return math.nan
    part = match.groupdict(default="0")
    clock = int(part["hours"]) * 3600 + int(part["minutes"]) * 60 + float(part["seconds"])
    days = int(part["years"]) * 365.25 + int(part["months"]) * 30 + int(part["days"])
    return days * 86400 + (-clock if match["sign"] == "-" else clock)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)  # Python reads NaN and Infinity, JSON does not know them


def _json_number(text: str) -> float | Decimal:
    approximate, exact = float(text), Decimal(text)
    return approximate if math.isfinite(approximate) and Decimal(repr(approximate)) == exact else exact


_JSON = json.JSONDecoder(parse_float=_json_number, parse_constant=_refuse_constant)


def _json(text: str) -> object:
    value = _JSON.decode(text)
    if "\\u" in text:
        # Half of a surrogate pair is legal in `json` text, but no receiver could be sent it: UnicodeEncodeError is a
        # ValueError.
        json.dumps(value, ensure_ascii=False, default=str).encode()
    return value


def _shallow(value: object) -> object:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (list, dict))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError("nested too deep")


class _Boolean(Loader):
    def load(self, data: Buffer) -> bool:
        return _BOOLEANS[bytes(data).decode()]


class _Json(Loader):
    def load(self, data: Buffer) -> object:
        return _json(bytes(data).decode())


_PARSED = (
    *("bool", "bytea", "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "date", "time", "timestamp"),
    *("timestamptz", "uuid", "json", "jsonb"),
)
_TEXTS = ("text", "varchar", "bpchar", "name", '"char"', "interval")
"""Types whose values stay text."""


@cache
def _loaders() -> Mapping[int, Callable[[bytes], object]]:
    """Type number -> what parses its text."""
    context: Any = SimpleNamespace(adapters=AdaptersMap(psycopg.adapters), connection=None)
    for name, loader in {"bool": _Boolean, "json": _Json, "jsonb": _Json, "interval": TextLoader}.items():
        context.adapters.register_loader(name, loader)
    infos = [postgres_types[name] for name in _PARSED + _TEXTS]
    oids = [info.oid for info in infos if info.name not in _TEXTS] + [info.array_oid for info in infos]
    transformer = Transformer(context)
    return {oid: transformer.get_loader(oid, Format.TEXT).load for oid in oids}


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{},]|=>|(?:(?!=>)[^{},"\\]|\\.)+', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def _own_type(text: str) -> object:
    """Parse a value of a type that is not PostgreSQL's own. Its number says nothing, so the text decides.

    `{...}` where every entry is `key=>value` is a map, any other well-formed `{...}` a list (an empty one too), and
    anything else text. Elements are text, since their type is not known either. Two values are misread: a list whose
    every element contains `=>` (Materialize does not quote that), and text of an extension's type, such as citext, in
    braces. A cast to `jsonb` or `text` in the view settles both.
    """
    tokens = _TOKEN.findall(text)
    if tokens[:1] != ["{"]:
        return text
    if sum(map(len, tokens)) != len(text):
        raise ValueError(text)
    rest = iter(tokens[1:])
    value = _members(rest)
    if any(rest):
        raise ValueError(text)
    return value


def _members(tokens: Iterator[str]) -> object:
    """The list or map up to its closing brace. Raises ValueError where it is not well formed."""
    keys: list[object] = []
    values: list[object] = []
    part = next(tokens, "")
    if part == "}":
        return values
    while True:
        value = _member(part, tokens)
        part = next(tokens, "")
        if part == "=>":
            if not isinstance(value, str):
                raise ValueError("a key is text")
            keys.append(value)
            value = _member(next(tokens, ""), tokens)
            part = next(tokens, "")
        values.append(value)
        if part == "}":
            return dict(zip(keys, values, strict=True)) if keys else values
        if part != ",":
            raise ValueError("no comma between elements")
        part = next(tokens, "")


def _member(part: str, tokens: Iterator[str]) -> object:
    if part == "{":
        return _members(tokens)
    if part in ("", "}", ",", "=>"):
        raise ValueError("an element is missing")
    if part == "NULL":
        return None
    return _ESCAPE.sub(r"\1", part[1:-1] if part[0] == '"' else part)


def _exact(value: Decimal) -> str:
    text = str(value)
    # A numeric column never comes in exponent form; a template may compute one that is too long to write out.
    return f"{value:f}" if "E" in text and abs(value.adjusted()) < 400 else text


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_text(seconds: float) -> str | None:
    """Return seconds since 1970 as ISO 8601 in UTC, as the API, the commands and the log write every time. None: beyond
    every calendar, as the time of a constant view is."""
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    except (OverflowError, ValueError):
        return None


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    try:
        return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
    except OverflowError:  # an element of an array, in the first or last hours that have a date
        return value.isoformat()


def _same(value: Any) -> Any:
    return value


_TO_JSON: dict[type, Callable[[Any], Any]] = {
    type(None): _same,
    bool: _same,
    int: _same,
    str: _same,
    float: _float,
    Decimal: _exact,
    datetime: _moment,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: timedelta.total_seconds,
    bytes: lambda value: "\\x" + value.hex(),
    UUID: str,
    list: lambda value: [jsonable(item) for item in value],
    tuple: lambda value: [jsonable(item) for item in value],
    dict: lambda value: {str(jsonable(key)): jsonable(item) for key, item in value.items()},
}
