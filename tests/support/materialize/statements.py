"""The statements that Tocsin sends to Materialize, recognised by pattern. Any other is refused."""

import re
from dataclasses import dataclass

from support.materialize.errors import unknown_statement
from support.materialize.relation import Name

_PART = r'(?:"(?:[^"]|"")*"|[A-Za-z_][\w$]*)'
_NAME = rf"{_PART}(?:\.{_PART})*"
_TARGET = (
    rf"(?:(?P<relation>{_NAME})|\((?P<query>SELECT (?P<columns>\*|{_PART}(?:, ?{_PART})*) FROM (?P<inner>{_NAME}))\s*\)"
    rf"|\[(?P<id>u\d+) AS {_NAME}\])"
)
_SUBSCRIBE = (
    rf"SUBSCRIBE (?:TO )?{_TARGET} WITH \(PROGRESS(?P<changes>, SNAPSHOT = false)?\)"
    r"(?: AS OF (?P<at_least>AT LEAST )?(?P<as_of>\d+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A relation, or a query over one. `columns`: those the query selects, None for all. `id`: an object by its id."""

    relation: Name = ()
    columns: tuple[str, ...] | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """`SUBSCRIBE target WITH (PROGRESS)`. `at_least`: `as_of` is a lower bound."""

    target: Target
    snapshot: bool
    as_of: int | None
    at_least: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """`COPY (SUBSCRIBE ...) TO STDOUT`."""

    subscribe: Subscribe


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """`SELECT * FROM target LIMIT 1`."""

    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`EXPLAIN RAW PLAN AS JSON FOR SELECT * FROM target`: which objects names refer to."""

    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Insights:
    """`EXPLAIN PLAN INSIGHTS AS JSON FOR SELECT 1 + 1`: which cluster would run it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVariable:
    """`SET name = 'value'`."""

    name: str
    value: str


Statement = Subscribe | Copy | Sample | Plan | Insights | SetVariable


def statement(text: str) -> Statement:
    """Recognise a statement. Raises ServerError, which quotes one that is unknown."""
    if found := re.fullmatch(_SUBSCRIBE, text):
        return _subscribe(found)
    if found := re.fullmatch(rf"COPY \({_SUBSCRIBE}\) TO STDOUT", text):
        return Copy(subscribe=_subscribe(found))
    if found := re.fullmatch(rf"SELECT \* FROM {_TARGET} LIMIT 1", text):
        return Sample(target=_target(found))
    if found := re.fullmatch(rf"EXPLAIN RAW PLAN AS JSON FOR SELECT \* FROM {_TARGET}", text):
        return Plan(target=_target(found))
    if text == "EXPLAIN PLAN INSIGHTS AS JSON FOR SELECT 1 + 1":
        return Insights()
    if found := re.fullmatch(rf"SET ({_PART}) = ['\"]?([^'\"]*)['\"]?", text):
        return SetVariable(name=relation_name(found[1])[0], value=found[2])
    raise unknown_statement(text)


def relation_name(text: str) -> Name:
    """The parts of a name as SQL writes it, for example `public."Orders"`."""
    parts = re.findall(_PART, text)
    return tuple(part[1:-1].replace('""', '"') if part[0] == '"' else part.lower() for part in parts)


def _subscribe(found: re.Match[str]) -> Subscribe:
    return Subscribe(
        target=_target(found),
        snapshot=found["changes"] is None,
        as_of=None if found["as_of"] is None else int(found["as_of"]),
        at_least=found["at_least"] is not None,
    )


def _target(found: re.Match[str]) -> Target:
    if found["id"]:
        return Target(id=found["id"])
    if found["query"] is None:
        return Target(relation=relation_name(found["relation"]))
    selected = None if found["columns"] == "*" else relation_name(found["columns"])
    return Target(relation=relation_name(found["inner"]), columns=selected)
