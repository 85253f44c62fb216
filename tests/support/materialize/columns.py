"""Column types of relations: names, OIDs, lengths and modifiers as the server describes them on the wire.

OIDs below 10000 are PostgreSQL's. Those from 16384 belong to Materialize; lists, maps and records made by users get an
OID in that range too, so a client cannot know them and has to take their text as it comes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

NUMERIC_39_0 = 2555908
"""Type modifier of ``numeric(39,0)``, the type of ``mz_timestamp`` (seen on a live server)."""

_NUMERIC_DEFAULT = 2555947
"""Type modifier of a numeric without scale: the server says ``numeric(39,39)`` (seen on a live server)."""

_TYPES: dict[str, tuple[int, int]] = {
    "bool": (16, 1),
    "bytea": (17, -1),
    "int8": (20, 8),
    "int2": (21, 2),
    "int4": (23, 4),
    "text": (25, -1),
    "oid": (26, 4),
    "float4": (700, 4),
    "float8": (701, 8),
    "bpchar": (1042, -1),
    "varchar": (1043, -1),
    "date": (1082, 4),
    "time": (1083, 4),
    "timestamp": (1114, 8),
    "timestamptz": (1184, 8),
    "interval": (1186, 16),
    "numeric": (1700, -1),
    "record": (2249, -1),
    "uuid": (2950, 16),
    "jsonb": (3802, -1),
    "int4range": (3904, -1),
    "bool[]": (1000, -1),
    "bytea[]": (1001, -1),
    "int2[]": (1005, -1),
    "int4[]": (1007, -1),
    "text[]": (1009, -1),
    "varchar[]": (1015, -1),
    "int8[]": (1016, -1),
    "float4[]": (1021, -1),
    "float8[]": (1022, -1),
    "timestamptz[]": (1185, -1),
    "interval[]": (1187, -1),
    "numeric[]": (1231, -1),
    "uuid[]": (2951, -1),
    "jsonb[]": (3807, -1),
    "list": (16384, -1),
    "map": (16385, -1),
    "uint2": (16460, 2),
    "uint4": (16462, 4),
    "uint8": (16464, 8),
    "mz_timestamp": (16552, 8),
    "text list": (20187, -1),
    "map[text=>int4]": (20188, -1),
}

_ALIASES = {
    "boolean": "bool",
    "smallint": "int2",
    "int": "int4",
    "integer": "int4",
    "bigint": "int8",
    "real": "float4",
    "double precision": "float8",
    "char": "bpchar",
    "decimal": "numeric",
    "json": "jsonb",
}

_SPELLING = re.compile(r"\A(?P<name>[a-z0-9_ =>\[\]]+?)\s*(?:\((?P<first>\d+)(?:\s*,\s*(?P<second>\d+))?\))?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as a row description names it.

    Attributes:
        length: bytes of the binary form, -1 where it varies.
        modifier: PostgreSQL's type modifier, -1 for none.
    """

    name: str
    oid: int
    length: int
    modifier: int = -1


def column(name: str, spelling: str | int) -> Column:
    """Make a column from a type name (``int4``, ``numeric(39,2)``, ``varchar(20)``, ``text[]``) or from a bare OID.

    Raises:
        ValueError: the name is not in the table.
    """
    if isinstance(spelling, int):
        lengths = dict(_TYPES.values())
        return Column(name=name, oid=spelling, length=lengths.get(spelling, -1))
    match = _SPELLING.match(spelling.lower())
    kind = match["name"] if match else ""
    kind = _ALIASES.get(kind, kind)
    if match is None or kind not in _TYPES:
        raise ValueError(
            f"column {name}: no such type in the double: {spelling!r}; known are {', '.join(sorted(_TYPES))}"
        )
    oid, length = _TYPES[kind]
    return Column(name=name, oid=oid, length=length, modifier=_modifier(kind, match["first"], match["second"]))


def columns(spellings: Sequence[tuple[str, str | int]]) -> tuple[Column, ...]:
    """Make the columns of a relation from pairs of name and type."""
    return tuple(column(name, spelling) for name, spelling in spellings)


def _modifier(kind: str, first: str | None, second: str | None) -> int:
    if kind == "numeric":
        return _NUMERIC_DEFAULT if first is None else (int(first) << 16 | int(second or 0)) + 4
    if kind in ("varchar", "bpchar") and first is not None:
        return int(first) + 4
    return -1


PROGRESS_COLUMN = column("mz_progressed", "bool")
TIMESTAMP_COLUMN = Column(name="mz_timestamp", oid=1700, length=-1, modifier=NUMERIC_39_0)
DIFF_COLUMN = column("mz_diff", "int8")
