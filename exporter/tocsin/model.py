"""The types that every part of Tocsin shares.

A row is the tuple of texts that the server sent, `None` for NULL; its columns are kept beside it once per alert. Source
timestamps are whole milliseconds since the Unix epoch, as in Materialize. Wall-clock times are seconds since the epoch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from json.encoder import encode_basestring_ascii as _quoted
from typing import Literal, NamedTuple, TypeAlias

Row: TypeAlias = tuple[str | None, ...]
Update: TypeAlias = tuple[int, int, Row]
"""`(source timestamp in ms, diff, row)`: |diff| copies of the row appeared or disappeared. Diffs beyond one occur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a relation."""

    name: str
    oid: int
    """The server's type number."""
    typmod: int = -1
    """The server's type modifier; -1: none."""


Columns: TypeAlias = tuple[Column, ...]

OnDuplicate: TypeAlias = Literal["max", "sum", "min", "first"]
"""How the values of several rows with the same labels become one sample of a gauge."""


class Kind(StrEnum):
    """What happened to a key."""

    FIRED = "fired"
    UPDATED = "updated"
    RESOLVED = "resolved"
    REPEATED = "repeated"
    """It still fires, after `repeat_interval`. Not a transition."""
    EVENT = "event"
    """Something happened once, and neither fires nor resolves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The updates of one closed span of source time, sorted by timestamp."""

    updates: Sequence[Update]
    frontier: int | None
    """Everything strictly before it is in this batch or in an earlier one; None where the source has no time of its
    own to resume from (a constant view)."""
    snapshot: int | None = None
    """The as-of, if the updates at that timestamp are the whole content of the relation and not a change of it."""
    polled: bool = False
    """The snapshot is a regular poll of a source without history, so its distance to the last frontier is not a gap."""
    note: str = ""
    """What of the source does not work although rows arrive; empty for nothing."""
    replaced: str = ""
    """How the relation that these rows come from differs from the one of the batch before; empty: it does not, or it is
    not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened, from a source whose rows never retract."""

    name: str
    """Decides which alerts take it: a topic, a type, or the value of a name column."""
    id: str
    """Its identity within the source, the same each time the source delivers it."""
    at: int
    """Milliseconds: its own time where it has one, else when it was received."""
    columns: Columns
    row: Row


class Transition(NamedTuple):
    """One key fired, was updated, was resolved or still fires, at one source timestamp; or an event.

    An episode is `fingerprint` + `started_at`.
    """

    alert: str
    fingerprint: str
    """Identity of the key; of an event, of the event."""
    kind: Kind
    started_at: int
    at: int
    columns: Columns
    row: Row
    """The row at that moment; for `resolved` the last one seen."""
    previous: Row | None = None
    """The row before; for `updated` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One channel that a transition goes to, and how."""

    channel: str
    ordering_key: str = ""
    """Notifications with the same ordering key are sent one after another, in order. Empty: the fingerprint."""
    interval: float = 0.0
    """Seconds within which later notifications of the ordering key are merged into one message. 0: none are."""


class Notification(NamedTuple):
    """One transition for one channel, as the ledger keeps it. `not_before` and `created_at` are wall-clock seconds.

    A tuple, as `Transition`: both are made for every row that fires, and a frozen dataclass takes four times as long.
    """

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
    was_held: bool = False
    """Whether a silence has held it. `created_at` is then when that ended."""
    passes: bool = False
    """Whether no silence holds it any more: a later notification of its row is not silenced."""


def fingerprint(alert: str, key: Sequence[str | None]) -> str:
    """The identity of a key of an alert: 32 hexadecimal digits, equal for equal text and only for it (NULL is not '').

    It is the hash of a JSON array. The parts are quoted one by one, since this runs for every row that fires.
    """
    parts = ",".join(["null" if text is None else _quoted(text) for text in key])
    return _hash(f"[{_quoted(alert)},{parts}]")


def notification_id(transition: Transition, channel: str) -> str:
    """The identity of a notification, used by receivers as idempotency key: derived from its content and nothing else.

    32 hexadecimal digits, which need no quoting (Novu's SDK does not quote ids in paths). The times of an event do not
    count: an event without a time of its own has another one each time it is delivered.
    """
    of = transition
    started_at, at = (0, 0) if of.kind is Kind.EVENT else (of.started_at, of.at)
    return _hash(f'[{_quoted(of.alert)},"{of.fingerprint}",{started_at},"{of.kind!s}",{at},{_quoted(channel)}]')


def _hash(canonical: str) -> str:
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
