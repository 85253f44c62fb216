"""The settings of an alert on rows, with the indexes of columns in place of their names. Pure."""

from collections.abc import Mapping

from tocsin.alert import RowAlert
from tocsin.errors import SourceError, SourceReason
from tocsin.exposition import GaugeSpec
from tocsin.firing import Rule
from tocsin.model import Columns


def firing_rule(alert: RowAlert, columns: Columns) -> Rule:
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
        notify=bool(alert.notify),
    )


def gauge_spec(alert: RowAlert, columns: Columns) -> GaugeSpec:
    """The gauge's specification. Raises SourceError as `firing_rule` does."""
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


def _index(alert: RowAlert, columns: Columns) -> Mapping[str, int]:
    index = {column.name: number for number, column in enumerate(columns)}
    if len(index) < len(columns):
        names = [column.name for column in columns]
        doubled = ", ".join(dict.fromkeys(repr(name) for name in names if names.count(name) > 1))
        raise SourceError(f"there are several columns {doubled}", SourceReason.SHAPE, fix="give each its own name")
    named = [*alert.key, *alert.ignore, *alert.labels.values(), *([alert.value] if alert.value else [])]
    missing = [name for name in dict.fromkeys(named) if name not in index]
    if missing:
        raise SourceError(
            f"the relation has no column {', '.join(missing)}",
            SourceReason.SHAPE,
            fix=f"use one of {', '.join(index)}",
        )
    return index


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
