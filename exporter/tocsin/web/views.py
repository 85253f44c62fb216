"""Rows, transitions, notifications and episodes as JSON: one form for the API, the page and the commands.

Times are ISO 8601 in UTC. Numbers that JSON lacks are the texts `NaN`, `Infinity` and `-Infinity`.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from tocsin.alert import Alert
from tocsin.firing import Firing
from tocsin.ledger.base import Attempt, Episode, Record
from tocsin.model import Columns, Row, Transition
from tocsin.values import jsonable, number, reader

Json: TypeAlias = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def text(value: object) -> str:
    """Return the JSON text of a value made by this module."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def wall_time(seconds: float | None) -> str | None:
    """Return seconds since 1970 as text; None where there is no time, or none that a calendar has."""
    if seconds is None:
        return None
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    except (OverflowError, ValueError):
        return None


def source_time(milliseconds: int | None) -> str | None:
    """Return a time of the source as text."""
    return None if milliseconds is None else wall_time(milliseconds / 1000)


class RowView:
    """Rows of an alert by column name, with labels and value. An alert that is no longer configured has no labels."""

    def __init__(self, alert: Alert | None, columns: Columns) -> None:
        self._read = reader(columns)
        index = {column.name: place for place, column in enumerate(columns)}
        self._static = dict(alert.static_labels) if alert else {}
        labels = alert.labels.items() if alert else ()
        self._labels = [(label, index[column]) for label, column in labels if column in index]
        self._value = index.get(alert.value) if alert and alert.value else None

    def row(self, row: Row) -> Json:
        """Return every column by name."""
        return {name: jsonable(value) for name, value in self._read(row).items()}

    def shown(self, row: Row) -> Json:
        """Return `labels`, `value` and `row`."""
        labels = {label: text for label, place in self._labels if (text := row[place]) is not None}
        value = None if self._value is None else number(row[self._value])
        return {"labels": self._static | labels, "value": jsonable(value), "row": self.row(row)}

    def shown_with_previous(self, row: Row, previous: Row | None) -> Json:
        """Return what `shown` does, and `previous`."""
        return {**self.shown(row), "previous": None if previous is None else self.row(previous)}


def firings(found: Iterable[Firing], alert: Alert, columns: Columns) -> list[Json]:
    """Return keys that are pending, firing or kept firing."""
    view = RowView(alert, columns)
    return [
        {
            "alert": alert.name,
            "fingerprint": one.fingerprint,
            "phase": one.phase.value,
            "started_at": source_time(one.started_at),
            **view.shown(one.row),
        }
        for one in found
    ]


def transition(found: Transition, alert: Alert | None) -> Json:
    """Return one transition."""
    return {
        "alert": found.alert,
        "fingerprint": found.fingerprint,
        "kind": found.kind.value,
        "started_at": source_time(found.started_at),
        "at": source_time(found.at),
        **RowView(alert, found.columns).shown_with_previous(found.row, found.previous),
    }


def notification(record: Record, alert: Alert | None) -> Json:
    """Return one notification. `seq` rises in the order of commits; `reason` and `detail`: why the last attempt
    failed."""
    return {
        "seq": record.seq,
        "id": record.id,
        "alert": record.alert,
        "channel": record.channel,
        "kind": record.kind,
        "status": record.status,
        "fingerprint": record.fingerprint,
        "started_at": source_time(record.started_at),
        "at": source_time(record.at),
        "attempts": record.attempts,
        "created_at": wall_time(record.created_at),
        "not_before": wall_time(record.not_before),
        "settled_at": wall_time(record.settled_at),
        "reason": record.reason,
        "detail": record.detail,
        **RowView(alert, record.columns).shown_with_previous(record.row, record.previous),
    }


def attempt(found: Attempt) -> Json:
    """Return one failed attempt."""
    return {"at": wall_time(found.at), "reason": found.reason, "detail": found.detail}


def episode(found: Episode, alert: Alert | None) -> Json:
    """Return one firing from beginning to end, or one event. `ended_at` null: it still fires or, without `firing`, the
    time of its end is unknown."""
    ended = found.ended_at
    return {
        "alert": found.alert,
        "fingerprint": found.fingerprint,
        "started_at": source_time(found.started_at),
        "ended_at": source_time(ended),
        "firing": found.firing,
        "kind": found.kind,
        **RowView(alert, found.columns).shown(found.row),
        "deliveries": [
            {"channel": channel, "status": status, "count": count}
            for (channel, status), count in found.deliveries.items()
        ],
        "seconds": None if ended is None else (ended - found.started_at) / 1000,
    }
