"""Reports the columns that an alert names and that its events or rows lack, and a value that is not a number.

A document may lack a field that another one has. A field with the value null is NULL, a value. A field that is not
there is missing: an event that lacks it is never equal to others.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

import structlog
from psycopg.postgres import types as postgres_types

from tocsin.errors import SourceError
from tocsin.exposition import AlertMetrics
from tocsin.model import Columns, Event, Row
from tocsin.sources.base import Typed
from tocsin.sources.documents import with_nested
from tocsin.values import NUMERIC, is_number

log = structlog.get_logger(__name__)

_SHOWN = 30
"""Names of columns in one line of the log."""

_EFFECTS = {
    "dedupe_by": "it is sent, and is never a duplicate",
    "group_by": "it is sent on its own",
    "key": "it is sent without an order",
    "labels": "it has no such label",
    "value": "it has no value",
    "recipients": "it becomes a dead letter unless others are named",
    "to": "it becomes a dead letter unless others are named",
    "the channel's key": "it becomes a dead letter",
    "payload": "its payload is sent without it",
}
"""What happens to an event or row without the column, by the setting that names the column."""

What: TypeAlias = Literal["event", "row"]


async def unfit_type(
    source: object, columns: Columns, name: str | None, row: Row | None = None, *, by_text: bool = False
) -> str:
    """Return the name of a value column's type if it is not a number; empty if it is, or if there is no such column.

    With `by_text`, and where types are inferred from documents, only the text in `row` counts: JSON has exact numbers
    as text. A type whose name the server does not say has its number.
    """
    place = next((i for i, column in enumerate(columns) if column.name == name), None)
    if place is None or columns[place].oid in NUMERIC:
        return ""
    oid, text = columns[place].oid, None if row is None else row[place]
    if (by_text or not isinstance(source, Typed)) and (text is None or is_number(text)):
        return ""
    known = postgres_types.get(oid)
    if known is not None:
        return known.name if oid == known.oid else f"{known.name}[]"
    with suppress(SourceError):
        if isinstance(source, Typed):
            return await source.type_name(oid)
    return f"number {oid}"


class NamedColumns:
    """Counts and logs the columns that an alert names and that its events or rows lack."""

    def __init__(self, alert: str, what: What, named: Mapping[str, str], metrics: AlertMetrics) -> None:
        """`named`: the setting that names it, as a path below the alert -> column."""
        self._alert = alert
        self._what = what
        self._named = _by_column(named)
        self._nested = tuple(name for name in self._named if "." in name)
        self._metrics = metrics
        self._counts: Counter[str] = Counter()
        for column in self._named:
            metrics.missing_column(column)  # so that it is there at zero

    def whole(self, events: Sequence[Event]) -> Sequence[Event]:
        """The events with a column for each nested name (`data.customer`) whose field they have. Missing columns are
        counted and logged."""
        if self._nested:
            events = [with_nested(event, self._nested) for event in events]
        if self._named:
            # Most events of a batch have the very same columns.
            kinds = {id(event.columns): event.columns for event in events}
            for columns, count in Counter(id(event.columns) for event in events).items():
                self.report(kinds[columns], count)
        return events

    def report(self, columns: Columns, count: int = 1) -> None:
        """Count and log the named columns that are not among these, the columns of `count` events. Logs the first
        event without a column, the tenth, the hundredth and so on."""
        present = {column.name for column in columns}
        for column in self._named.keys() - present:
            self._metrics.missing_column(column).inc(count)
            before = self._counts[column]
            self._counts[column] += count
            if not before or len(str(self._counts[column])) > len(str(before)):
                self._log(column, columns)

    def _log(self, column: str, columns: Columns) -> None:
        setting = self._named[column]
        log.warning(
            f"the {self._what} lacks a column that the alert names",
            alert=self._alert,
            column=column,
            named_in=setting,
            effect=_EFFECTS.get(_kind(setting), "the setting is ignored"),
            columns=[one.name for one in columns[:_SHOWN]],
            so_far=self._counts[column],
        )


def _by_column(named: Mapping[str, str]) -> dict[str, str]:
    """Column -> the setting to report it with: of several, the one whose effect comes first in `_EFFECTS`."""
    order = {setting: place for place, setting in enumerate(_EFFECTS)}
    ranked = sorted(named, key=lambda path: order.get(_kind(path), len(order)))
    return {named[path]: path for path in reversed(ranked)}


def _kind(path: str) -> str:
    """The setting's own name, such as `group_by` of `notify[0].group_by[1]`. The `key` of a channel is not the alert's
    key."""
    of_route = re.match(r"notify\[\d+\]\.(\w+)", path)
    if of_route is None:
        return path.partition("[")[0].partition(".")[0]
    return "the channel's key" if of_route[1] == "key" else of_route[1]
