"""Which columns of a relation identify a row, become labels and hold the value, with the reason for each choice.
Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

from tocsin.init.definition import clocked
from tocsin.init.facts import Facts
from tocsin.model import Row
from tocsin.values import FIRST_OWN_TYPE

_INTEGERS = frozenset({20, 21, 23, 26})
_FRACTIONS = frozenset({700, 701, 1700})
_TEXTS = frozenset({18, 19, 25, 1042, 1043, 16, 2950, 869})
"""Text, booleans, UUIDs and addresses."""
_MOMENTS = frozenset({1082, 1114, 1184})
_INTERVAL = 1186

_IDENTIFIES = re.compile(r"(.*_)?(id|key|no|nr|number|code|uuid|name|slug|sku|ref|host|hostname|email)")
_MEASURES = re.compile(
    r"(.*_)?(value|minutes|seconds|hours|days|count|total|amount|sum|avg|age|lag|delay|size|bytes|rate|ratio|percent"
    r"|pct|score|price|qty|quantity|n|depth|latency|duration|late|overdue|balance|cost|stock)(_.*)?"
)
_MOST_LABELS = 4
"""Beside those of the key."""
_FEW = 20
"""Different values that a label of a large relation may have."""
_LONGEST_LABEL = 64
_MOST_SERIES = 1_000
"""Rows up to which each gets a series of its own."""
_QUIET = 20
"""Rows from which on the first start notifies none of them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Columns, and why these."""

    columns: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What to write about an alert on a relation."""

    facts: Facts
    key: Choice
    labels: Choice
    value: Choice
    """At most one column."""
    ignore: Choice
    """Columns that change at every reading."""
    warnings: tuple[str, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether the first start notifies no row, as there are so many."""
        return len(self.facts.rows) > _QUIET


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """What the rows show of a column."""

    name: str
    place: int
    oid: int
    distinct: int
    nulls: int
    longest: int
    restless: str
    """Why it changes at every reading; empty if it does not."""

    @property
    def identifies(self) -> bool:
        return _IDENTIFIES.fullmatch(self.name.lower()) is not None and self.oid in _TEXTS | _INTEGERS

    @property
    def is_text(self) -> bool:
        # Numbers beyond PostgreSQL's own types are mostly enums.
        return self.oid in _TEXTS or self.oid >= FIRST_OWN_TYPE

    @property
    def cost(self) -> int | None:
        """How bad it is as a part of a key; None where it cannot be one."""
        if self.restless or self.nulls:
            return None
        if self.identifies:
            return 0
        if self.is_text:
            return 1
        return 3 if self.oid in _INTEGERS else 4 if self.oid in _MOMENTS else None


def proposal(facts: Facts, key: Choice | None = None) -> Proposal:
    """Propose key, labels and value of a relation. `key`: one that is chosen already."""
    columns = _columns(facts)
    restless = [column for column in columns if column.restless]
    key = key or _key(facts, columns)
    labels = _labels(facts, columns, key.columns)
    value = _value(columns, {*key.columns, *labels.columns})
    ignore = Choice(tuple(column.name for column in restless), _because(restless))
    return Proposal(
        facts=facts, key=key, labels=labels, value=value, ignore=ignore, warnings=tuple(_warnings(facts, key, restless))
    )


def others(proposal: Proposal) -> tuple[str, ...]:
    """The columns that are neither the value nor changing at every reading: the key where nothing else is one."""
    moving = {*proposal.ignore.columns, *proposal.value.columns}
    return tuple(column.name for column in proposal.facts.columns if column.name not in moving)


def _columns(facts: Facts) -> list[_Column]:
    clocks = clocked(facts.definition, [column.name for column in facts.columns])
    return [_column(facts, place, clocks.get(column.name, "")) for place, column in enumerate(facts.columns)]


def _column(facts: Facts, place: int, clock: str) -> _Column:
    column = facts.columns[place]
    values = Counter(row[place] for row in facts.rows)
    nulls = values.pop(None, 0)
    later = Counter(row[place] for row in facts.later)
    del later[None]
    moved = values and later and (values & later).total() * 2 < min(values.total(), later.total())
    measured = "changed between two readings a second apart" if moved else ""
    return _Column(
        name=column.name,
        place=place,
        oid=column.oid,
        distinct=len(values),
        nulls=nulls,
        longest=max((len(text) for text in values if text is not None), default=0),
        restless=f"{clock} changes at every reading" if clock else measured,
    )


def _because(restless: Sequence[_Column]) -> str:
    reasons = list(dict.fromkeys(column.restless for column in restless))
    return " and ".join(reasons)


def measured(facts: Facts) -> str:
    """The rows that something was measured on."""
    number = len(facts.rows)
    if not facts.complete:
        return f"the first {number:,} rows"
    return "the only row" if number == 1 else f"the {number:,} rows there are"


def _key(facts: Facts, columns: Sequence[_Column]) -> Choice:
    by_name = {column.name: column for column in columns}
    for known in facts.keys:
        usable = [by_name[name] for name in known.columns if name in by_name and not by_name[name].restless]
        nulls = not known.nulls_equal and any(column.nulls for column in usable)
        if known.columns and len(usable) == len(known.columns) and not nulls:
            return Choice(known.columns, known.why)
    candidates = sorted(
        (column for column in columns if column.cost is not None), key=lambda one: (_cost(facts, [one]), one.place)
    )
    if not facts.rows or len(facts.rows) == 1:
        few = "there are no rows to measure" if not facts.rows else "there is only one row to measure"
        return Choice(tuple(one.name for one in candidates[:1]), f"a guess by its name: {few}")
    groups = [[one] for one in candidates] + [list(pair) for pair in combinations(candidates[:12], 2)]
    groups += _of_base(facts, candidates)
    unique = [group for group in groups if _is_unique(facts.rows, group)]
    if not unique:
        return Choice((), "")
    best = min(unique, key=lambda group: (_cost(facts, group), [one.place for one in group]))
    tables = {facts.base_keys[one.name] for one in best if one.name in facts.base_keys}
    of = f", primary key of {', '.join(sorted(tables))}" if tables else ""
    return Choice(tuple(one.name for one in best), f"unique in {measured(facts)}{of}")


def _cost(facts: Facts, group: Iterable[_Column]) -> int:
    """A pair costs more than one column, and a column of a base table's primary key nothing."""
    costs = [-1 if one.name in facts.base_keys else one.cost or 0 for one in group]
    return sum(costs) + 2 * (len(costs) - 1)


def _is_unique(rows: Sequence[Row], group: Sequence[_Column]) -> bool:
    if len(group) == 1:
        return group[0].distinct == len(rows)
    if prod(one.distinct for one in group) < len(rows):
        return False
    return len({tuple(row[one.place] for one in group) for row in rows}) == len(rows)


def _of_base(facts: Facts, candidates: Sequence[_Column]) -> Iterator[list[_Column]]:
    """The longer primary keys of base tables, as far as the view has their columns."""
    for table in dict.fromkeys(facts.base_keys.values()):
        group = [one for one in sorted(candidates, key=lambda one: one.place) if facts.base_keys.get(one.name) == table]
        if len(group) > 2:
            yield group


def _labels(facts: Facts, columns: Sequence[_Column], key: Sequence[str]) -> Choice:
    rows = len(facts.rows)
    each = bool(key) and facts.complete and rows <= _MOST_SERIES
    few = [
        column.name
        for column in columns
        if column.is_text and not column.restless and column.name not in key and column.longest <= _LONGEST_LABEL
        if column.distinct <= _FEW and column.nulls * 2 <= rows
    ]
    chosen = (*(key if each else ()), *few[:_MOST_LABELS])
    if not chosen:
        return Choice((), "one series for all rows")
    if not each:
        return Choice(chosen, "columns of few values" + ("; the key has too many" if key else ""))
    return Choice(chosen, "one series for each row" + (", and columns of few values" if few else ""))


def _value(columns: Sequence[_Column], taken: set[str]) -> Choice:
    usable = [
        one for one in columns if one.name not in taken and not one.identifies and (one.distinct or not one.nulls)
    ]
    numbers = [one for one in usable if one.oid in _FRACTIONS | _INTEGERS]
    named = [
        one
        for one in [*numbers, *(one for one in usable if one.oid == _INTERVAL)]
        if _MEASURES.fullmatch(one.name.lower())
    ]
    chosen = (named or numbers)[:1]
    if not chosen:
        return Choice((), "")
    why = "seconds of an interval" if chosen[0].oid == _INTERVAL else "a number"
    others = [one.name for one in numbers if one is not chosen[0]]
    return Choice((chosen[0].name,), why + (f"; also numbers: {', '.join(others[:4])}" if others else ""))


def _warnings(facts: Facts, key: Choice, restless: Sequence[_Column]) -> Iterable[str]:
    name = facts.relation.name
    if facts.refused:
        yield (
            f"{name}: SUBSCRIBE refuses it: {facts.refused}. A view may compare mz_now() with a column in its WHERE, "
            "and use no other clock"
        )
    if restless and not facts.refused:
        columns = ", ".join(column.name for column in restless)
        yield f"{name}: {columns}: {_because(restless)}; `ignore` keeps that from being an update each time"
    if not key.columns:
        unique = f"neither a column nor a pair is unique in {measured(facts)}"
        yield f"{name}: {unique}; all columns but the value identify a row"
    elif key.why.startswith("a guess"):
        yield f"{name}: the key {', '.join(key.columns)} is {key.why}"
    if not facts.complete:
        yield f"{name} has many rows: an alert is for rows that are wrong now; let a view with a WHERE select them"
