"""Firings, transitions and notifications as the ledger's columns, and back."""

import json
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring as _quoted
from typing import Any

from tocsin.firing import Firing, Phase
from tocsin.ledger.base import Record, Status
from tocsin.model import Columns, Kind, Notification, Row, Transition

NOTIFICATION = """
    SELECT n.seq, n.id, n.channel, n.attempts, n.created_at, n.not_before, n.lane, n.digest,
           n.generation, t.alert, t.fingerprint, t.kind, t.started_at, t.at, t.shape, t.row, t.previous
    FROM notifications AS n JOIN transitions AS t ON t.id = n.transition
"""
RECORD = """
    SELECT n.seq, n.id, t.alert, n.channel, t.kind, n.status, t.fingerprint, t.started_at, t.at, n.attempts,
           n.created_at, n.not_before, n.settled_at, n.reason, n.detail, n.digest, t.shape, t.row, t.previous
    FROM notifications AS n JOIN transitions AS t ON t.id = n.transition
"""


def row_text(row: Row) -> str:
    """A row as a JSON array. Joined by hand: this runs for every row that fires, and an encoder costs thrice as
    much."""
    return f"[{','.join(['null' if text is None else _quoted(text) for text in row])}]"


def firing_values(alert: str, firing: Firing) -> tuple[object, ...]:
    """The columns of table `firings`."""
    plain = firing.counts == ((1, firing.row),)
    counts = "" if plain else f"[{','.join(f'[{count},{row_text(row)}]' for count, row in firing.counts)}]"
    return (
        alert,
        firing.fingerprint,
        firing.phase.value,
        firing.started_at,
        firing.marked_at,
        row_text(firing.row),
        counts,
    )


def firing_of(fingerprint: str, phase: str, started_at: int, marked_at: int, row: str, counts: str) -> Firing:
    """A firing from its columns (without the alert)."""
    shown: Row = tuple(json.loads(row))
    return Firing(
        fingerprint=fingerprint,
        phase=Phase(phase),
        started_at=started_at,
        marked_at=marked_at,
        row=shown,
        counts=tuple((count, tuple(other)) for count, other in json.loads(counts)) if counts else ((1, shown),),
    )


def transition_values(number: int, transition: Transition, shape: int) -> tuple[object, ...]:
    """The columns of table `transitions`."""
    return (
        number,
        transition.alert,
        transition.fingerprint,
        transition.kind.value,
        transition.started_at,
        transition.at,
        shape,
        row_text(transition.row),
        None if transition.previous is None else row_text(transition.previous),
    )


def notification_of(row: Sequence[Any], columns: Callable[[int], Columns]) -> Notification:
    """A notification from the columns of `NOTIFICATION`. `columns` knows shapes by their number."""
    seq, name, channel, attempts, created_at, not_before, lane, digest, generation, *rest = row
    alert, fingerprint, kind, started_at, at, shape, text, previous = rest
    transition = Transition(
        alert=alert,
        fingerprint=fingerprint,
        kind=Kind(kind),
        started_at=started_at,
        at=at,
        columns=columns(shape),
        row=tuple(json.loads(text)),
        previous=tuple(json.loads(previous)) if previous else None,
    )
    return Notification(
        seq=seq,
        id=name,
        channel=channel,
        transition=transition,
        attempts=attempts,
        created_at=created_at,
        not_before=not_before,
        lane=lane,
        digest=digest,
        generation=generation,
    )


def record_of(row: Sequence[Any], columns: Callable[[int], Columns]) -> Record:
    """A record from the columns of `RECORD`, which stand in the order of its fields."""
    *plain, shape, text, previous = row
    known = dict(zip(Record.__dataclass_fields__, plain, strict=False))
    known["status"] = Status(known["status"])
    return Record(
        **known,
        columns=columns(shape),
        row=tuple(json.loads(text)),
        previous=tuple(json.loads(previous)) if previous else None,
    )
