"""The statements that Tocsin sends to Materialize, recognised by pattern. Any other is refused."""

import re
from dataclasses import dataclass
from typing import Literal

from support.materialize.errors import unknown_statement

Name = tuple[str, ...]
"""Database, schema and name; or only the last parts of that."""

_PART = r'(?:"(?:[^"]|"")*"|[A-Za-z_][\w$]*)'
_NAME = rf"{_PART}(?:\.{_PART})*"
_TARGET = (
    rf"(?:(?P<relation>{_NAME})|\(SELECT (?P<columns>\*|{_PART}(?:, ?{_PART})*) FROM (?P<queried>{_NAME})\s*\)"
    rf"|\[(?P<id>u\d+) AS {_NAME}\])"
)
_SUBSCRIBE = (
    rf"SUBSCRIBE {_TARGET} WITH \(PROGRESS(?P<changes>, SNAPSHOT = false)?\)"
    r"(?: AS OF (?P<at_least>AT LEAST )?(?P<as_of>\d+))?"
)

Kind = Literal["subscribe", "copy", "sample", "plan", "insights", "set"]

_PATTERNS: dict[Kind, str] = {
    "subscribe": _SUBSCRIBE,
    "copy": rf"COPY \({_SUBSCRIBE}\) TO STDOUT",
    "sample": rf"SELECT \* FROM {_TARGET} LIMIT 1",
    "plan": rf"EXPLAIN RAW PLAN AS JSON FOR SELECT \* FROM {_TARGET}",
    "insights": r"EXPLAIN PLAN INSIGHTS AS JSON FOR SELECT 1 \+ 1",
    "set": rf"""SET (?P<variable>{_PART}) = ['"]?(?P<value>[^'"]*)['"]?""",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement.

    Attributes:
        kind: `plan` asks which objects names refer to, `insights` which cluster runs statements.
        relation: that it reads.
        columns: those that its query selects; None: all.
        id: of the object that it reads, instead of a relation's name.
        snapshot: whether a subscription begins with one.
        as_of: of a subscription; a lower bound if `at_least`.
        variable: name and value of a session variable to set.
    """

    kind: Kind
    relation: Name = ()
    columns: tuple[str, ...] | None = None
    id: str | None = None
    snapshot: bool = True
    as_of: int | None = None
    at_least: bool = False
    variable: tuple[str, str] = ("", "")


def statement(text: str) -> Statement:
    """Recognise a statement. Raises ServerError, which quotes one that is unknown."""
    for kind, pattern in _PATTERNS.items():
        if match := re.fullmatch(pattern, text):
            found = {"relation": None, "columns": None, "queried": None, **match.groupdict()}
            columns, as_of, variable = found["columns"], found.get("as_of"), found.get("variable")
            return Statement(
                kind=kind,
                relation=relation_name(found["queried"] or found["relation"] or ""),
                columns=None if columns in (None, "*") else relation_name(columns),
                id=found.get("id"),
                snapshot=not found.get("changes"),
                as_of=None if as_of is None else int(as_of),
                at_least=bool(found.get("at_least")),
                variable=("", "") if variable is None else (relation_name(variable)[0], found["value"] or ""),
            )
    raise unknown_statement(text)


def relation_name(text: str) -> Name:
    """The parts of a name as SQL writes it, for example `public."Orders"`."""
    parts = re.findall(_PART, text)
    return tuple(part[1:-1].replace('""', '"') if part[0] == '"' else part.lower() for part in parts)
