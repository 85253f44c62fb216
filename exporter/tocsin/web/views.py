"""Rows, transitions, notifications and episodes as JSON: one form for the API, the page and the commands.

Times are ISO 8601 in UTC. Numbers that JSON lacks are the texts `NaN`, `Infinity` and `-Infinity`. `summary`, the
annotation of this name, is there if the alert has it.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from tocsin.alert import Alert
from tocsin.dispatch.failures import Failure
from tocsin.envelope import View, variables
from tocsin.firing import Firing
from tocsin.ledger.base import Attempt, Episode, Record
from tocsin.ledger.sharing import Instance
from tocsin.model import Columns, Kind, Row, Transition
from tocsin.silences import Silence
from tocsin.templates import Template
from tocsin.values import jsonable, number, reader, utc_text

Json: TypeAlias = dict[str, Any]


def text(value: object) -> str:
    """Return the JSON text of a value made by this module."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def wall_time(seconds: float | None) -> str | None:
    """Return seconds since 1970 as text; None where there is no time, or none that a calendar has."""
    return None if seconds is None else utc_text(seconds)


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

    def labels(self, row: Row) -> dict[str, str]:
        """Return the labels by name."""
        return self._static | {label: text for label, place in self._labels if (text := row[place]) is not None}

    def value(self, row: Row) -> float | None:
        """Return the value; None if the alert has none."""
        return None if self._value is None else number(row[self._value])

    def labelled(self, row: Row) -> Json:
        """Return `labels` and `value`."""
        return {"labels": self.labels(row), "value": jsonable(self.value(row))}

    def shown(self, row: Row) -> Json:
        """Return `labels`, `value` and `row`."""
        return {**self.labelled(row), "row": self.row(row)}

    def shown_with_previous(self, row: Row, previous: Row | None) -> Json:
        """Return what `shown` does, and `previous`."""
        return {**self.shown(row), "previous": None if previous is None else self.row(previous)}


def _summary(found: Transition, alert: Alert | None) -> Json:
    """Return `summary`: what notifications of this say; nothing if the alert has no such annotation."""
    source = alert.annotations.get("summary") if alert else None
    if alert is None or source is None:
        return {}
    names = tuple(alert.labels.items()), tuple(alert.static_labels.items()), alert.value
    return {"summary": _rendered(found, source, *names)}


@lru_cache(maxsize=8_192)  # the page asks again for rows that have not changed
def _rendered(
    found: Transition,
    source: str,
    labels: tuple[tuple[str, str], ...],
    static_labels: tuple[tuple[str, str], ...],
    value: str | None,
) -> str:
    view = View(labels=labels, static_labels=static_labels, value=value, annotations={"summary": _compiled(source)})
    annotations: Any = variables(found, "", view)["annotations"]
    return str(annotations["summary"])


@lru_cache(maxsize=1_024)
def _compiled(source: str) -> Template:
    return Template(source, place="summary")


def instance(one: Instance) -> Json:
    """Return a process that shares the ledger. `leads`: the alerts on rows that it leads."""
    return {
        "name": one.name,
        "host": one.host,
        "address": one.address,
        "since": wall_time(one.since),
        "leads": sorted(one.leads),
    }


def firings(found: Iterable[Firing], alert: Alert, columns: Columns, *, whole: bool = True) -> list[Json]:
    """Return keys that are pending, firing or kept firing. `whole`: with every column of the row."""
    view = RowView(alert, columns)
    return [
        {
            "alert": alert.name,
            "fingerprint": one.fingerprint,
            "phase": one.phase.value,
            "started_at": source_time(one.started_at),
            **(view.shown(one.row) if whole else view.labelled(one.row)),
            **_summary(
                Transition(alert.name, one.fingerprint, Kind.FIRED, one.started_at, one.started_at, columns, one.row),
                alert,
            ),
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
        **_summary(found, alert),
    }


def notification(record: Record, alert: Alert | None) -> Json:
    """Return one notification. `seq` rises in the order of commits; `not_before`: when it may be tried again, None
    before a first failure; `reason` and `detail`: why the last attempt failed."""
    key, times = (record.alert, record.fingerprint, Kind(record.kind)), (record.started_at, record.at)
    found = Transition(*key, *times, record.columns, record.row, record.previous)
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
        "not_before": wall_time(record.not_before or None),
        "settled_at": wall_time(record.settled_at),
        "reason": record.reason,
        "detail": record.detail,
        **RowView(alert, record.columns).shown_with_previous(record.row, record.previous),
        **_summary(found, alert),
    }


def failure(found: Failure) -> Json:
    """Return attempts of a channel that failed alike. `id`: the latest notification, if there is one."""
    return {
        "at": wall_time(found.at),
        "reason": found.reason,
        "detail": found.detail,
        "count": found.count,
        "alert": found.alert,
        "id": found.notification,
    }


def silence(found: Silence, held: Mapping[str, int], now: float) -> Json:
    """Return one silence. `held`: how many notifications it holds, by channel. `released` and `dropped`: what became of
    those that it has held."""
    return {
        "id": found.id,
        "state": found.state(now).value,
        "matchers": str(found.matchers),
        "starts_at": wall_time(found.starts_at),
        "ends_at": wall_time(found.ends_at),
        "reason": found.reason,
        "by": found.by,
        "created_at": wall_time(found.created_at),
        "held": {channel: held[channel] for channel in sorted(held)},
        "closed_at": wall_time(found.closed_at),
        "released": found.released,
        "dropped": found.dropped,
    }


def attempt(found: Attempt) -> Json:
    """Return one failed attempt."""
    return {"at": wall_time(found.at), "reason": found.reason, "detail": found.detail}


def episode(found: Episode, alert: Alert | None) -> Json:
    """Return one firing from beginning to end, or one event. `ended_at` null: it still fires or, without `firing`, the
    time of its end is unknown."""
    ended = found.ended_at
    key, times = (found.alert, found.fingerprint, Kind(found.kind)), (found.started_at, ended or found.started_at)
    latest = Transition(*key, *times, found.columns, found.row)
    return {
        "alert": found.alert,
        "fingerprint": found.fingerprint,
        "started_at": source_time(found.started_at),
        "ended_at": source_time(ended),
        "firing": found.firing,
        "kind": found.kind,
        **RowView(alert, found.columns).shown(found.row),
        **_summary(latest, alert),
        "deliveries": [
            {"channel": channel, "status": status, "count": count}
            for (channel, status), count in found.deliveries.items()
        ],
        "seconds": None if ended is None else (ended - found.started_at) / 1000,
    }
