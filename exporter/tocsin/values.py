"""Values of columns: from the text a server sends to Python, and from Python to JSON. Pure; nothing here ever raises
over a value.

A value that does not parse as its type (a date in the year 12026, an infinite timestamp, an enum) stays the text it
was, and NULL is `None`, never ''. What the types become:

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
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NoReturn, TypeAlias
from uuid import UUID

from tocsin.model import Column, Columns, Row

Parser: TypeAlias = Callable[[str], object]

MAX_DEPTH = 100
"""Lists and objects nested deeper than this stay text, so that no later step can run out of stack."""

FIRST_OWN_TYPE = 16384
"""Type numbers from here on are not PostgreSQL's own: Materialize's, extensions' or users'."""


def typed(column: Column, text: str | None) -> object:
    """The value of a column as Python has it (see the table above); the text itself where it does not parse."""
    if text is None:
        return None
    parse = _PARSERS.get(column.oid)
    if parse is None:
        if column.oid < FIRST_OWN_TYPE:
            return text
        parse = _own_type
    try:
        return parse(text)
    except (ValueError, ArithmeticError, LookupError, RecursionError):
        return text


def reader(columns: Columns) -> Callable[[Row], dict[str, object]]:
    """What makes a mapping of column name to value out of a row with these columns."""

    def read(row: Row) -> dict[str, object]:
        return {column.name: typed(column, text) for column, text in zip(columns, row, strict=False)}

    return read


def jsonable(value: object) -> Any:
    """The value as JSON can hold it, always in the same way (see the table above). Durations become seconds."""
    convert = _TO_JSON.get(type(value))
    if convert is not None:
        return convert(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(jsonable(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(item) for item in value), key=repr)
    return str(value)


def number(text: str | None) -> float:
    """The text of a value column as a gauge shows it, NaN where it says no number.

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


def _timestamptz(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment.astimezone(UTC)


def _timestamp(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError(text)
    return moment


def _bytea(text: str) -> bytes:
    if not text.startswith("\\x"):
        raise ValueError(text)
    return bytes.fromhex(text[2:])


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
    return _shallow(value)


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


_BOUNDS = re.compile(r"(?:\[[-+]?\d+:[-+]?\d+\])+=")
_ARRAY_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[{},]|(?:[^{},"\\\s]|\\.|\s+(?![{},\s]|\Z))+)\s*', re.DOTALL)
_OWN_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*"|[{},]|=>|(?:(?!=>)[^{},"\\]|\\.)+)', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def _array_of(parse: Parser | None) -> Parser:
    def convert(item: Any) -> object:
        if isinstance(item, list):
            return [convert(inner) for inner in item]
        return item if item is None or parse is None else parse(item)

    def parse_array(text: str) -> object:
        return convert(_Braces(_ARRAY_TOKEN, _BOUNDS.sub("", text, count=1) if text[:1] == "[" else text).parse())

    return parse_array


def _own_type(text: str) -> object:
    """A value of a type that is not PostgreSQL's own, whose number says nothing: the text has to tell.

    The rule: `{...}` where every entry is `key=>value` is a map, any other well-formed `{...}` a list (an empty one
    too), and anything else text. Elements are text, since the type of the element is not known either. Two values
    this takes for what they are not: a list whose every element contains `=>` (Materialize does not quote that), and
    text of an extension's type, such as citext, in braces; a cast to `jsonb` or `text` in the view settles both.
    """
    if text[:1] != "{" or text[-1:] != "}":
        return text
    return _Braces(_OWN_TOKEN, text).parse()


class _Braces:
    """One pass over `{x,"y,z",NULL,{nested}}` or `{a=>1,"b c"=>{d=>2}}`. Raises ValueError when it is not well
    formed."""

    def __init__(self, token: re.Pattern[str], text: str) -> None:
        self._tokens: list[str] = []
        end = 0
        while end < len(text):
            match = token.match(text, end)
            if match is None:
                raise ValueError(text)
            self._tokens.append(match[1])
            end = match.end()
        self._next = 0

    def parse(self) -> object:
        if self._take() != "{":
            raise ValueError("no opening brace")
        value = self._body()
        if self._next != len(self._tokens):
            raise ValueError("something follows the closing brace")
        return _shallow(value)

    def _take(self) -> str:
        if self._next == len(self._tokens):
            raise ValueError("ends early")
        self._next += 1
        return self._tokens[self._next - 1]

    def _body(self) -> object:
        if self._tokens[self._next : self._next + 1] == ["}"]:
            self._next += 1
            return []
        keys: list[str] = []
        values: list[object] = []
        while True:
            item = self._item(self._take())
            follows = self._take()
            if follows == "=>":
                if not isinstance(item, str):
                    raise ValueError("a key is text")
                keys.append(item)
                item = self._item(self._take())
                follows = self._take()
            values.append(item)
            if follows == "}":
                break
            if follows != ",":
                raise ValueError("no comma between elements")
        if not keys:
            return values
        return dict(zip(keys, values, strict=True))

    def _item(self, text: str) -> object:
        if text == "{":
            return self._body()
        if text in ("}", ",", "=>"):
            raise ValueError("an element is missing")
        if text == "NULL":
            return None
        if text[0] == '"':
            text = text[1:-1]
        return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def _exact(value: Decimal) -> str:
    text = str(value)
    # A numeric column never comes in exponent form; a template may compute one that is too long to write out.
    return f"{value:f}" if "E" in text and abs(value.adjusted()) < 400 else text


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


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


def _boolean(text: str) -> bool:
    return _BOOLEANS[text]


# type -> (its number, that of its array, its parser), from PostgreSQL's pg_type.dat and, from 16384 on, from what a
# live Materialize says in its row descriptions.
_TYPES: dict[str, tuple[int, int, Parser | None]] = {
    "bool": (16, 1000, _boolean),
    "bytea": (17, 1001, _bytea),
    "char": (18, 1002, None),
    "name": (19, 1003, None),
    "int8": (20, 1016, int),
    "int2": (21, 1005, int),
    "int4": (23, 1007, int),
    "text": (25, 1009, None),
    "oid": (26, 1028, int),
    "json": (114, 199, _json),
    "float4": (700, 1021, float),
    "float8": (701, 1022, float),
    "bpchar": (1042, 1014, None),
    "varchar": (1043, 1015, None),
    "date": (1082, 1182, date.fromisoformat),
    "time": (1083, 1183, time.fromisoformat),
    "timestamp": (1114, 1115, _timestamp),
    "timestamptz": (1184, 1185, _timestamptz),
    "interval": (1186, 1187, None),
    "numeric": (1700, 1231, Decimal),
    "uuid": (2950, 2951, UUID),
    "jsonb": (3802, 3807, _json),
    "uint2": (16460, 16461, int),
    "uint4": (16462, 16463, int),
    "uint8": (16464, 16465, int),
    "mz_timestamp": (16552, 16553, int),
}

_PARSERS: dict[int, Parser] = {number: parse for number, _, parse in _TYPES.values() if parse} | {
    array: _array_of(parse) for _, array, parse in _TYPES.values()
}
