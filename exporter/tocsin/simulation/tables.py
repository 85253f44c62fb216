"""Rows as tests write them: tables as psql and Markdown show them, or lists of mappings. Pure."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from psycopg.postgres import types

from tocsin.model import Column, Columns, Row

Cell: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None
Written: TypeAlias = Mapping[str, Cell]
"""A row as it is written: column -> value."""

_RULE = re.compile(r"[-+|:=\s]+")
_COUNT = re.compile(r"\(\d+ rows?\)")
_CELL = re.compile(r"\s*('(?:[^']|'')*'|[^|']*(?:'[^|]*)?)\s*(\||$)")
_INTEGER = re.compile(r"[-+]?\d+")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(NaN|Infinity)")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?(?P<zone>Z|[-+]\d\d(:?\d\d)?)?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_BOOLEANS = {"t": "t", "true": "t", "f": "f", "false": "f"}
_TEXT, _BOOL, _INT8, _NUMERIC, _JSONB, _DATE, _TIMESTAMP, _TIMESTAMPTZ = 25, 16, 20, 1700, 3802, 1082, 1114, 1184


class TableError(ValueError):
    """What is wrong with a table, for people."""


class Quoted(str):
    """A cell in quotes: text, whatever is in it."""

    __slots__ = ()


def parsed(text: str) -> tuple[list[str], list[dict[str, Cell]]]:
    """The columns and rows of a table. `NULL` and an empty cell are NULL; `'...'` is text. Raises TableError."""
    lines = [line for line in text.splitlines() if line.strip() and not _COUNT.fullmatch(line.strip())]
    lines = [line for line in lines if not (_RULE.fullmatch(line) and "-" in line)]
    if not lines:
        raise TableError("the table is empty; its first line names the columns, with | between them")
    names = [str(name) for name in _cells(lines[0])]
    if not all(names):
        raise TableError(f"a column without a name: {lines[0].strip()}")
    if len(set(names)) < len(names):
        raise TableError(f"a column is there twice: {lines[0].strip()}")
    rows = []
    for line in lines[1:]:
        cells = _cells(line)
        if len(cells) != len(names):
            count = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
            raise TableError(f"{count} for {len(names)} columns ({', '.join(names)}): {line.strip()}")
        rows.append(dict(zip(names, cells, strict=True)))
    return names, rows


def _cells(line: str) -> list[Cell]:
    line = line.strip()
    if line.startswith("|"):  # Markdown; psql has an empty last cell after a last |
        line = line.removeprefix("|").removesuffix("|")
    cells: list[Cell] = []
    at = 0
    while True:
        match = _CELL.match(line, at)
        if match is None:
            raise TableError(f"text after the closing quote: {line}")
        cells.append(_cell(match[1].strip()))
        if not match[2]:
            return cells
        at = match.end()


def _cell(text: str) -> Cell:
    if len(text) > 1 and text.startswith("'") and text.endswith("'"):
        return Quoted(text[1:-1].replace("''", "'"))
    return None if text in ("", "NULL") else text


def fields(text: str) -> list[dict[str, Cell]]:
    """The rows of a table as JSON objects: numbers, true and false are what they look like. Raises TableError."""
    return [{name: _json(value) for name, value in row.items()} for row in parsed(text)[1]]


def _json(value: Cell) -> Cell:
    if not isinstance(value, str) or isinstance(value, Quoted):
        return str(value) if isinstance(value, Quoted) else value
    if value in ("true", "false"):
        return value == "true"
    if _INTEGER.fullmatch(value):
        return int(value)
    return float(value) if _NUMBER.fullmatch(value) and value[-1] in "0123456789." else value


class Types:
    """The columns of a relation: their names and types, found in all that a test writes for it."""

    def __init__(self, names: Iterable[str], rows: Iterable[Written], given: Mapping[str, str]) -> None:
        """`given`: column -> name of a type, where that is not to be found. Raises TableError for an unknown type."""
        values: dict[str, list[Cell]] = {name: [] for name in names}
        for row in rows:
            for name, value in row.items():
                values.setdefault(name, []).append(value)
        for name in given:
            values.setdefault(name, [])
        oids = {name: _named(given[name]) if name in given else _type(some) for name, some in values.items()}
        self.columns: Columns = tuple(Column(name=name, oid=oid) for name, oid in oids.items())

    def texts(self, row: Written) -> dict[str, str | None]:
        """The cells that a row sets, as a server sends them."""
        oids = {column.name: column.oid for column in self.columns}
        return {name: _text(value, oids[name]) for name, value in row.items()}

    def row(self, texts: Mapping[str, str | None]) -> Row:
        """A whole row; what it does not set is NULL."""
        return tuple(texts.get(column.name) for column in self.columns)


def _named(name: str) -> int:
    try:
        return types[{"int": "integer", "float": "float8", "decimal": "numeric", "string": "text"}.get(name, name)].oid
    except KeyError:
        raise TableError(
            f"there is no type {name!r}; types have PostgreSQL's names, as in bigint or timestamptz"
        ) from None


def _type(values: Sequence[Cell]) -> int:
    """The type that fits all values."""
    kinds = {_kind(value) for value in values if value is not None}
    if len(kinds) == 1:
        return kinds.pop()
    return _NUMERIC if kinds == {_INT8, _NUMERIC} else _TEXT


def _kind(value: Cell) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _INT8
    if isinstance(value, float):
        return _NUMERIC
    if isinstance(value, list | dict):
        return _JSONB
    if value is None or isinstance(value, Quoted):
        return _TEXT
    if _INTEGER.fullmatch(value):
        return _INT8
    if _NUMBER.fullmatch(value):
        return _NUMERIC
    if value in _BOOLEANS:
        return _BOOL
    if moment := _MOMENT.fullmatch(value):
        return _TIMESTAMPTZ if moment["zone"] else _TIMESTAMP
    return _DATE if _DAY.fullmatch(value) else _TEXT


def _text(value: Cell, oid: int) -> str | None:
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, float):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and oid == _BOOL:
        return _BOOLEANS.get(value, value)
    if isinstance(value, str) and oid in (_TIMESTAMP, _TIMESTAMPTZ):
        return value.replace("T", " ").replace("Z", "+00")
    return None if value is None else str(value)
