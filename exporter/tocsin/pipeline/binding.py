"""An alert's configuration, bound to the columns of its relation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tocsin.alert import RowAlert
from tocsin.errors import SourceError, SourceReason
from tocsin.exposition import GaugeSpec
from tocsin.firing import Firing, Phase, Rule
from tocsin.firing.canonical import Respelling
from tocsin.model import Columns, Row


def definition(alert: RowAlert) -> str:
    """The origin and the key of the rows, as text: stored rows can be compared only with those of the same
    definition."""
    parts = {
        "source": alert.source,
        "relation": alert.subject.relation,
        "query": alert.subject.query,
        "key": list(alert.key),
    }
    if alert.subject.topic is not None:
        parts["topic"] = alert.subject.topic
    return json.dumps(parts, sort_keys=True)


def same_key(stored: str, current: str) -> bool:
    """Whether two definitions identify a firing by the same columns."""
    return bool(json.loads(stored)["key"] == json.loads(current)["key"])


def rule(alert: RowAlert, columns: Columns) -> Rule:
    """The firing set's rule. Raises SourceError when the relation lacks a column that the alert names."""
    index = _index(alert, columns)
    return Rule(
        alert=alert.name,
        columns=columns,
        key=tuple(index[name] for name in alert.key),
        ignored=frozenset(index[name] for name in alert.ignore),
        hold=_milliseconds(alert.hold),
        keep=_milliseconds(alert.keep_firing_for),
        repeat=_milliseconds(alert.repeat_interval),
        edges=bool(alert.notify),
    )


def gauge_spec(alert: RowAlert, columns: Columns) -> GaugeSpec:
    """The gauge's specification. Raises SourceError as `rule` does."""
    index = _index(alert, columns)
    return GaugeSpec(
        alert=alert.name,
        metric=alert.metric,
        help=alert.help,
        labels=tuple((label, index[column]) for label, column in alert.labels.items()),
        static_labels=tuple(alert.static_labels.items()),
        value=None if alert.value is None else index[alert.value],
        on_duplicate=alert.on_duplicate,
        max_series=alert.max_series,
        linger=alert.linger,
    )


def rebound(firings: Sequence[Firing], old: Columns, new: Columns) -> list[Firing]:
    """Firings with rows of other columns: matched by name, NULL for columns that are new."""
    if old == new or [column.name for column in old] == [column.name for column in new]:
        return list(firings)
    where = {column.name: number for number, column in enumerate(old)}
    places = [where.get(column.name) for column in new]

    def row(was: Row) -> Row:
        return tuple(None if place is None else was[place] for place in places)

    return [
        Firing(
            fingerprint=firing.fingerprint,
            phase=firing.phase,
            started_at=firing.started_at,
            marked_at=firing.marked_at,
            row=row(firing.row),
            counts=tuple((count, row(was)) for count, was in firing.counts),
        )
        for firing in firings
    ]


def respelled(firings: Sequence[Firing], rule: Rule) -> tuple[list[Firing], list[Firing]]:
    """Firings with canonical texts, and those that end: keys that differ only in how the server wrote them become one
    key. The one that is in the view stays, else the last one."""
    respelling = Respelling(rule.columns)
    if not respelling:
        return list(firings), []
    kept: dict[Row, Firing] = {}
    ended: list[Firing] = []
    for firing in firings:
        row = respelling.row(firing.row)
        counts = tuple((count, respelling.row(other)) for count, other in firing.counts)
        key = tuple(row[place] for place in rule.key) or row
        new = replace(firing, row=row, counts=counts)
        old = kept.pop(key, None)
        if old is not None and old.phase in _IN_VIEW and new.phase not in _IN_VIEW:
            old, new = new, old
        if old is not None:
            ended.append(old)
        kept[key] = new
    return list(kept.values()), ended


_IN_VIEW = (Phase.FIRING, Phase.PENDING)


def _index(alert: RowAlert, columns: Columns) -> Mapping[str, int]:
    index = {column.name: number for number, column in enumerate(columns)}
    if len(index) < len(columns):
        names = [column.name for column in columns]
        doubled = ", ".join(dict.fromkeys(name for name in names if names.count(name) > 1))
        raise SourceError(
            f"alert {alert.name}: the relation has several columns {doubled}",
            SourceReason.SHAPE,
            fix="rename them in the view or query",
        )
    named = [*alert.key, *alert.ignore, *alert.labels.values(), *([alert.value] if alert.value else [])]
    missing = [name for name in dict.fromkeys(named) if name not in index]
    if missing:
        raise SourceError(
            f"alert {alert.name}: the relation has no column {', '.join(missing)}",
            SourceReason.SHAPE,
            fix=f"use one of {', '.join(index)}",
        )
    return index


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
