"""Rows of the tables as objects, and back."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from json.encoder import encode_basestring as _quoted
from typing import Any

from tocsin.firing import Firing, Phase
from tocsin.ledger.base import SILENCED, Record, Status
from tocsin.ledger.opening import one
from tocsin.model import Column, Columns, Kind, Notification, Row, Transition

NOTIFICATION = """
    SELECT n.seq, n.id, n.channel, n.attempts, n.created_at, n.not_before, n.ordering_key, n.digest, n.generation,
           n.silence IS NOT NULL, n.passes = 1,
           t.alert, t.fingerprint, t.kind, t.started_at, t.at, t.shape, t.row, t.previous
    FROM notifications AS n JOIN transitions AS t ON t.id = n.transition
"""
RECORD = """
    SELECT n.seq, n.id, t.alert, n.channel, t.kind, n.status, t.fingerprint, t.started_at, t.at, n.attempts,
           n.created_at, n.not_before, n.settled_at, n.reason, n.detail, n.digest, n.generation, n.ordering_key,
           CASE WHEN n.status = 'held' THEN n.silence END, silences.reason, t.shape, t.row, t.previous
    FROM notifications AS n JOIN transitions AS t ON t.id = n.transition
    LEFT JOIN silences ON silences.id = n.silence AND n.status = 'held'
"""

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Writes JSON without blanks, and text as it is."""


def row_text(row: Row) -> str:
    """A row as a JSON array. Joined by hand: this runs for every row that fires, and an encoder takes three times as
    long."""
    return f"[{','.join(['null' if text is None else _quoted(text) for text in row])}]"


def row_of(text: str) -> Row:
    """The row of a JSON array."""
    return tuple(json.loads(text))


def firing_values(alert: str, firing: Firing) -> tuple[object, ...]:
    """The columns of table `firings`."""
    plain = firing.counts == ((1, firing.row),)
    counts = "" if plain else f"[{','.join(f'[{count},{row_text(row)}]' for count, row in firing.counts)}]"
    return (
        alert,
        firing.fingerprint,
        str(firing.phase),
        firing.started_at,
        firing.marked_at,
        row_text(firing.row),
        counts,
    )


def firing_of(fingerprint: str, phase: str, started_at: int, marked_at: int, row: str, counts: str) -> Firing:
    """A firing from its columns (without the alert)."""
    shown = row_of(row)
    return Firing(
        fingerprint=fingerprint,
        phase=Phase(phase),
        started_at=started_at,
        marked_at=marked_at,
        row=shown,
        counts=tuple((count, tuple(other)) for count, other in json.loads(counts)) if counts else ((1, shown),),
    )


def transition_values(number: int, alert: str, transition: Transition, shape: int) -> tuple[object, ...]:
    """The columns of table `transitions`."""
    return (
        number,
        alert,
        transition.fingerprint,
        str(transition.kind),
        transition.started_at,
        transition.at,
        shape,
        row_text(transition.row),
        None if transition.previous is None else row_text(transition.previous),
    )


def columns_text(columns: Columns) -> str:
    """A list of columns as JSON."""
    return encode([[column.name, column.oid, column.typmod] for column in columns])


@lru_cache(1000)
def columns_of(text: str) -> Columns:
    """The list of columns of JSON. Cached, since most rows of a read have the same."""
    return tuple(Column(name=name, oid=oid, typmod=typmod) for name, oid, typmod in json.loads(text))


def notification_of(row: Sequence[Any], columns: Callable[[Any], Columns]) -> Notification:
    """A notification from the columns of `NOTIFICATION`. `columns`: looks a list of columns up."""
    seq, name, channel, attempts, created_at, not_before, ordering_key, digest, generation, *rest = row
    was_held, passes, alert, fingerprint, kind, started_at, at, shape, text, previous = rest
    return Notification(
        seq=seq,
        id=name,
        channel=channel,
        transition=Transition(
            alert=alert,
            fingerprint=fingerprint,
            kind=Kind(kind),
            started_at=started_at,
            at=at,
            columns=columns(shape),
            row=row_of(text),
            previous=row_of(previous) if previous else None,
        ),
        attempts=attempts,
        created_at=created_at,
        not_before=not_before,
        ordering_key=ordering_key,
        digest=digest,
        generation=generation,
        was_held=bool(was_held),
        passes=bool(passes),
    )


HELD = "held"
"""What the tables have as the status of a pending notification that a silence holds. So an index of what is pending has
none of them, and no statement that looks for what can be sent knows of silences."""


def status_of(text: str) -> Status:
    """The status of a notification, as the tables have it."""
    return Status.PENDING if text == HELD else Status(text)


def record_of(row: Sequence[Any], columns: Callable[[Any], Columns]) -> Record:
    """A record from the columns of `RECORD`, which are in the order of its fields. `columns`: as above."""
    *plain, why, shape, text, previous = row
    known = dict(zip(Record.__dataclass_fields__, plain, strict=False))
    known["status"] = status_of(known["status"])
    if silence := known["silence"]:
        known |= {"reason": SILENCED, "detail": f"by the silence {silence}" + (f": {why}" if why else "")}
    return Record(
        **known,
        columns=columns(shape),
        row=row_of(text),
        previous=row_of(previous) if previous else None,
    )


class Shapes:
    """The table `shapes`: lists of columns by number. What was read is cached: a number never changes its meaning."""

    def __init__(self) -> None:
        self._known: dict[int, Columns] = {}

    @staticmethod
    def number(db: sqlite3.Connection, columns: Columns) -> int:
        """The number of a list of columns. Not cached: a rollback would undo it."""
        text = columns_text(columns)
        found: int | None = one(db, "SELECT id FROM shapes WHERE columns = ?", text)
        if found is None:
            found = one(db, "INSERT INTO shapes (columns) VALUES (?) RETURNING id", text)
            assert found is not None
        return found

    def columns(self, db: sqlite3.Connection, number: int) -> Columns:
        """The list of columns with a number."""
        if number not in self._known:
            self._known[number] = columns_of(one(db, "SELECT columns FROM shapes WHERE id = ?", number))
        return self._known[number]

    def notifications(self, db: sqlite3.Connection, statement: str, *arguments: object) -> list[Notification]:
        """The notifications that a statement which begins with `NOTIFICATION` finds."""
        return [notification_of(row, partial(self.columns, db)) for row in db.execute(statement, arguments)]

    def record(self, db: sqlite3.Connection, row: Sequence[Any]) -> Record:
        """A record from the columns of `RECORD`."""
        return record_of(row, partial(self.columns, db))
