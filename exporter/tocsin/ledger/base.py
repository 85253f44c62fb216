"""The durable store: firing set, outbox and frontier of every alert, written in one transaction per batch.

Behind the `Ledger` protocol stands SQLite (`tocsin.ledger.sqlite`). All times are wall-clock seconds except where a
source timestamp in milliseconds is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeAlias

from tocsin.errors import LedgerError
from tocsin.firing import Firing
from tocsin.model import Address, Columns, Notification, Row, Transition

Routed: TypeAlias = tuple[Transition, Sequence[Address]]
"""A transition and where it goes."""

MOST_MERGED = 500
"""Notifications in one message; what a digest has beyond that goes in the next one."""


class Status(StrEnum):
    """Where a notification stands. `dead`: given up on, parked with a reason; `dropped`: dead, and a person said it may
    go."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the ledger holds of an alert. `definition` is the text it was stored with: what identifies its keys and
    rows."""

    definition: str
    columns: Columns
    frontier: int | None
    firings: Sequence[Firing]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one batch changes, to be written whole or not at all."""

    alert: str
    definition: str
    columns: Columns
    frontier: int | None
    saved: Sequence[Firing] = ()
    gone: Sequence[str] = ()
    transitions: Sequence[Routed] = ()
    replace: bool = False
    """The stored firings of this alert are not of this definition: delete all before writing."""


class Occurrence(NamedTuple):
    """An event and where it goes."""

    routed: Routed
    key: str | None = None
    """Equal for duplicates; None: it is never a duplicate."""
    until: int = 0
    """Source ms until which other occurrences with this key are duplicates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCommit:
    """What one batch of an event source changes, to be written whole or not at all. `position`: see
    `tocsin.sources.EventBatch`."""

    source: str
    occurrences: Sequence[Occurrence] = ()
    position: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How an attempt ended. Still pending: `not_before` says when to try again; dead: `reason` and `detail` say why."""

    seq: int
    status: Status
    attempts: int
    not_before: float = 0.0
    reason: str = ""
    detail: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulks:
    """What changes among the requests of a channel whose outcome is not known. A request is known by the `seq` of its
    first member.

    `made`: the members of each new one, in the order of the request. `ended`: those that are not repeated any more, by
    the `seq` of their first member; they are deleted before the new ones are written.
    """

    channel: str
    made: Sequence[Sequence[int]] = ()
    ended: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A notification with all that is known of it, for people."""

    seq: int
    id: str
    alert: str
    channel: str
    kind: str
    status: Status
    fingerprint: str
    started_at: int
    at: int
    attempts: int
    created_at: float
    not_before: float
    settled_at: float | None
    reason: str
    detail: str
    digest: int | None
    columns: Columns
    row: Row
    previous: Row | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt that failed: when, and why."""

    at: float
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One firing from its beginning to its end, or one event, as the ledger's notifications tell it.

    `firing`: whether it fires now, as the firing set has it. `ended_at`: source ms; None while it fires, and where no
    `resolved` was told or kept, else the time of the last one that was told; an event ends where it starts. `kind` and
    `row` are those of the newest transition that was told. `deliveries`: how many notifications there are by channel
    and status.
    """

    alert: str
    fingerprint: str
    started_at: int
    ended_at: int | None
    firing: bool
    kind: str
    columns: Columns
    row: Row
    deliveries: Mapping[tuple[str, Status], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which records to list, newest first; `before` is a `seq` to go on from."""

    status: Status | None = None
    channel: str | None = None
    alert: str | None = None
    id: str | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits for one channel. `oldest`: when the oldest pending notification was written, or becomes due if it
    waits to be merged."""

    pending: int = 0
    oldest: float | None = None
    dead: int = 0


class Ledger(Protocol):
    """What the rest of Tocsin needs of a store. Every method raises LedgerError, and nothing else, when the store
    fails."""

    fault: LedgerError | None
    """Why the last batch or delivery could not be written; None if it could. A full disk can still be read."""

    async def load(self, alert: str) -> Stored | None:
        """The stored state of an alert; None if it has never been committed."""
        ...

    async def commit(self, commit: Commit) -> list[Notification]:
        """Write a batch. Returns the new notifications, in order, once they are safe on disk; an id already known makes
        none."""
        ...

    async def commit_events(self, commit: EventCommit) -> tuple[list[Notification], list[Occurrence]]:
        """Write a batch of events. Returns the new notifications as `commit` does, and the occurrences that were told,
        without repeats."""
        ...

    async def position(self, source: str) -> dict[str, int]:
        """Where an event source is to go on from, by partition; empty if it has never been written."""
        ...

    async def pending(self, channel: str, after: int, limit: int) -> list[Notification]:
        """The next pending notifications of a channel with a `seq` greater than `after`, in order; of a digest only the
        first."""
        ...

    async def gather(self, first: Notification) -> list[Notification]:
        """The pending notifications of the digest that `first` stands for, at most `MOST_MERGED`, in order. From now on
        nothing joins them: however often they are sent, they are the same."""
        ...

    async def cut(self, first: Notification, at: int, *, refused: bool) -> Notification | None:
        """Cut the digest that `first` stands for in two: the pending notifications with a `seq` of `at` or more become
        a digest of their own. Returns the first of these; None if a person dropped them all meanwhile. `refused`: the
        receiver had the digest and refused it, so that what is left needs another idempotency key."""
        ...

    async def settle(self, settlements: Sequence[Settlement], bulks: Bulks | None = None) -> None:
        """Write how attempts ended, and what that changes among the bulks. What is no longer pending (a person dropped
        it meanwhile) stays as it is."""
        ...

    async def bind(self, bulks: Bulks) -> None:
        """Write which notifications go in one request, before it is sent."""
        ...

    async def bound(self, channel: str) -> list[list[Notification]]:
        """The requests of a channel whose outcome is not known: of each its pending members, in the order of the
        request."""
        ...

    async def earlier(self, notification: Notification) -> tuple[str, ...]:
        """The ids of the notifications of the same episode that this channel delivered before, oldest first."""
        ...

    async def backlog(self) -> dict[str, Backlog]:
        """What waits, by channel."""
        ...

    async def find(self, wanted: Filter) -> list[Record]:
        """Records for people."""
        ...

    async def attempts(self, id_: str) -> list[Attempt]:
        """The latest attempts of a notification that failed, oldest first."""
        ...

    async def episodes(self, alert: str, limit: int) -> list[Episode]:
        """The latest episodes of an alert, newest first, as far back as notifications are kept."""
        ...

    async def retry(self, ids: Sequence[str]) -> int:
        """Make dead or dropped notifications pending again, with a fresh budget of attempts, and with another
        idempotency key where the receiver rejected them. Returns how many."""
        ...

    async def drop(self, ids: Sequence[str]) -> int:
        """Let dead or pending notifications go. Returns how many."""
        ...

    async def dead_letter_unrouted(self, channels: Sequence[str]) -> int:
        """Make dead what is pending for a channel not among `channels`. Returns how many."""
        ...

    async def prune(self, before: float, limit: int) -> int:
        """Delete at most `limit` settled (not dead) notifications older than `before`, but none of an episode that
        still fires. Returns how many."""
        ...

    async def changed_elsewhere(self) -> bool:
        """Whether another process (`tocsin outbox retry`) has written since the last call."""
        ...

    async def close(self) -> None:
        """Finish what is queued and let go of the store."""
        ...
