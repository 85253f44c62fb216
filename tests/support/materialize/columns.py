"""Types of columns as the server describes them on the wire.

OIDs from 16384 belong to Materialize. Lists and maps made by users have an OID in that range too, which no client can
know.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TYPES = {
    name: (int(oid), int(length))
    for name, oid, length in (
        line.rsplit(maxsplit=2)
        for line in """
bool 16 1
bytea 17 -1
int8 20 8
int2 21 2
int4 23 4
text 25 -1
float4 700 4
float8 701 8
varchar 1043 -1
date 1082 4
time 1083 4
timestamp 1114 8
timestamptz 1184 8
interval 1186 16
numeric 1700 -1
uuid 2950 16
jsonb 3802 -1
int4range 3904 -1
int4[] 1007 -1
text[] 1009 -1
interval[] 1187 -1
uint2 16460 2
uint4 16462 4
uint8 16464 8
mz_timestamp 16552 8
text list 20187 -1
map[text=>int4] 20188 -1
""".strip().splitlines()
    )
}
"""Name -> OID, and bytes of the binary form (-1: it varies)."""

_NUMERIC_DEFAULT = 2555947
"""Type modifier of a numeric without scale: the server says `numeric(39,39)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a row description. `modifier`: PostgreSQL's type modifier, -1 for none."""

    name: str
    oid: int
    length: int
    modifier: int = -1


def column(name: str, kind: str) -> Column:
    """A column of a type by its name, such as `int4` or `numeric(39,2)`. Raises ValueError for an unknown one."""
    match = re.fullmatch(r"(.+?)(?:\((\d+),(\d+)\))?", kind)
    if match is None or match[1] not in _TYPES:
        raise ValueError(f"column {name}: the double has no type {kind!r}; it has {', '.join(_TYPES)}")
    oid, length = _TYPES[match[1]]
    modifier = -1
    if match[1] == "numeric":
        modifier = _NUMERIC_DEFAULT if match[2] is None else (int(match[2]) << 16 | int(match[3])) + 4
    return Column(name=name, oid=oid, length=length, modifier=modifier)


def columns(kinds: Sequence[tuple[str, str]]) -> tuple[Column, ...]:
    """Columns from pairs of name and type."""
    return tuple(column(name, kind) for name, kind in kinds)


PREFIX = (column("mz_timestamp", "numeric(39,0)"), column("mz_progressed", "bool"), column("mz_diff", "int8"))
"""The first columns of a SUBSCRIBE with progress."""
