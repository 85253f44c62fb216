"""The words of Tocsin as types. This module imports nothing of ours.

A row travels as the tuple of text fields that the server sent, `None` for NULL, with its columns beside it once per
alert. Source timestamps are whole milliseconds since the Unix epoch, as Materialize's are; wall-clock times are seconds
since the epoch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from json.encoder import encode_basestring_ascii as _quoted
from typing import Literal, TypeAlias

Row: TypeAlias = tuple[str | None, ...]
Update: TypeAlias = tuple[int, int, Row]
"""`(source timestamp in ms, diff, row)`: |diff| copies of the row appeared or went. Diffs beyond one are real."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a relation: its name, and its type as the server's type number and modifier (-1: none)."""

    name: str
    oid: int
    typmod: int = -1


Columns: TypeAlias = tuple[Column, ...]

OnDuplicate: TypeAlias = Literal["max", "sum", "min", "first"]
"""How the values of several rows with the same labels become one sample of a gauge."""


class Kind(StrEnum):
    """What happened to a key. `repeated` is no transition: it tells of one that still fires, after `repeat_interval`.
    `event`: something happened once, and neither fires nor resolves."""

    FIRED = "fired"
    UPDATED = "updated"
    RESOLVED = "resolved"
    REPEATED = "repeated"
    EVENT = "event"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The updates of one closed span of source time, sorted by timestamp.

    `frontier`: everything strictly before it is in this batch or was in an earlier one; `None` where the source has no
    time of its own to resume from (a constant view). `snapshot`: the as-of, if the updates at that timestamp are the
    whole content of the relation at it and not a change of what went before. `polled`: the snapshot is an ordinary
    reading of a source that keeps no history, so that a distance to the last frontier is no loss. `note`: what does not
    work although the rows come, as a sentence; empty for nothing.
    """

    updates: Sequence[Update]
    frontier: int | None
    snapshot: int | None = None
    polled: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened, from a source whose rows never retract.

    `name` tells which alerts take it (a topic, a type, a name column). `id` is its identity within the source, the same
    each time the source delivers it. `at`: its own time where it has one, else when it was received, in milliseconds.
    """

    name: str
    id: str
    at: int
    columns: Columns
    row: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One key fired, was updated or resolved (or still fires: `repeated`) at one source timestamp; or an event.

    `row` is the row at that moment, for `resolved` the last one seen; `previous` the row before, for `updated` only.
    An episode is `fingerprint` + `started_at`. The fingerprint of an event is its identity: each has its own.
    """

    alert: str
    fingerprint: str
    kind: Kind
    started_at: int
    at: int
    columns: Columns
    row: Row
    previous: Row | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One channel that a transition goes to, and how."""

    channel: str
    ordering_key: str = ""
    """Notifications with the same ordering key are sent one after another, in order. Empty: the fingerprint."""
    interval: float = 0.0
    """Seconds within which later notifications of the ordering key are merged into one message. 0: none are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One transition for one channel, as the ledger keeps it. `not_before` and `created_at` are wall-clock seconds."""

    seq: int
    """The ledger's number, rising in the order of commits."""
    id: str
    channel: str
    transition: Transition
    ordering_key: str = ""
    """See `Address`."""
    digest: int | None = None
    """The number of the digest that it waits in, to be sent in one message with others."""
    attempts: int = 0
    """The attempts made so far."""
    created_at: float = 0.0
    not_before: float = 0.0
    generation: int = 0
    """How often its idempotency key was replaced: a receiver may have stored a final error under the one before."""


def fingerprint(alert: str, key: Sequence[str | None]) -> str:
    """The identity of a key of an alert: 32 hexadecimal digits, equal for equal text and only for it (NULL is not '').

    It is the hash of a JSON array. The parts are quoted one by one, since this runs for every row that fires.
    """
    parts = ",".join(["null" if text is None else _quoted(text) for text in key])
    return _hash(f"[{_quoted(alert)},{parts}]")


def notification_id(transition: Transition, channel: str) -> str:
    """The identity of a notification, which receivers use as idempotency key: derived from what it tells, nothing else.

    32 hexadecimal digits: no receiver needs to quote them (Novu's SDK does not quote ids in paths). Times say nothing
    of an event: one without a time of its own is given another each time it is delivered.
    """
    of = transition
    started_at, at = (0, 0) if of.kind is Kind.EVENT else (of.started_at, of.at)
    return _hash(f'[{_quoted(of.alert)},"{of.fingerprint}",{started_at},"{of.kind.value}",{at},{_quoted(channel)}]')


def _hash(canonical: str) -> str:
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
