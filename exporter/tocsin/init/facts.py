"""What `tocsin init` knows of a server and of a relation. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tocsin.model import Columns, Row

Kind: TypeAlias = Literal["postgres", "materialize"]

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")


def sql_name(*parts: str) -> str:
    """A name as SQL writes it: quoted only where it has to be."""
    return ".".join(part if _PLAIN.fullmatch(part) else '"' + part.replace('"', '""') + '"' for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A view or table that the role may read."""

    name: str
    """As SQL writes it, without the schema where the server finds it without."""
    kind: str
    """`view`, `materialized view`, `table`, ..."""
    oid: int
    estimate: int | None = None
    """The server's estimate of its rows."""
    rows: str = ""
    """Its rows for people: `38`, `about 2,100,000`, or why they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A server and the relations that the role may read: views first."""

    kind: Kind
    version: str
    """`PostgreSQL 18.4`."""
    relations: tuple[Relation, ...]
    cluster: str = ""
    """Of Materialize: the cluster of the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Columns that the server knows to be unique together."""

    columns: tuple[str, ...]
    why: str
    nulls_equal: bool = False
    """Whether two NULLs are equal in it, as in GROUP BY: only then does it identify rows with NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one relation."""

    relation: Relation
    columns: Columns
    rows: tuple[Row, ...]
    """The first rows, as text."""
    later: tuple[Row, ...]
    """The same, read a second later."""
    complete: bool
    """Whether these are all rows."""
    keys: tuple[Known, ...] = ()
    """Keys that the server knows, the best first."""
    base_keys: Mapping[str, str] = field(default_factory=dict)
    """Of a view: column -> the table whose primary key has a column of that name."""
    definition: str = ""
    """Of a view: its SELECT."""
    refused: str = ""
    """Why the server cannot follow it; empty if it can."""
