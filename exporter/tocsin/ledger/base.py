"""The contract of the durable store: firing set, outbox and frontier of every alert, in one transaction per batch.

Implemented for SQLite by `tocsin.ledger.sqlite`. Times are wall-clock seconds unless a source time in milliseconds is
named. `seq` is the ledger's number of a notification, rising in the order of commits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeAlias

from tocsin.backoff import Backoff
from tocsin.errors import LedgerError
from tocsin.firing import Firing
from tocsin.ledger.attempts import NotesAttempts
from tocsin.ledger.sharing import Sharing
from tocsin.ledger.silencing import Silencing, Withholding
from tocsin.model import Address, Columns, Kind, Notification, Row, Transition

Routed: TypeAlias = tuple[Transition, Sequence[Address]]
"""A transition and where it goes."""

RETRY = Backoff(initial=0.5, maximum=2.0)
"""How long to wait before a ledger that failed is tried again, whatever the backoff of a source or channel is: alerts
and channels wait for it, and an attempt costs little."""

SILENCED = "silenced"
"""The reason of notifications that a silence holds, or has held until they were dropped."""

MOST_MERGED = 500
"""The most notifications in one message. The rest of a digest goes in the next one."""


class Status(StrEnum):
    """Delivery status of a notification."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """Given up on, and kept as a dead letter with a reason."""
    DROPPED = "dropped"
    """Discarded by an operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The stored state of an alert."""

    definition: str
    """Identifies the keys and rows; state stored under another definition is replaced."""
    columns: Columns
    frontier: int | None
    firings: Sequence[Firing]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The changes of one batch, written whole or not at all."""

    alert: str
    definition: str
    columns: Columns
    frontier: int | None
    saved: Sequence[Firing] = ()
    gone: Sequence[str] = ()
    """Fingerprints of firings to delete."""
    transitions: Sequence[Routed] = ()
    replace: bool = False
    """Whether to delete all stored firings of the alert first: they belong to another definition."""


class Occurrence(NamedTuple):
    """An event and where it goes."""

    routed: Routed
    key: str | None = None
    """Later events with this key are duplicates; None: no event is."""
    until: int = 0
    """End of the time in which they are, in source ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCommit:
    """The changes of one batch of an event source, written whole or not at all."""

    source: str
    occurrences: Sequence[Occurrence] = ()
    position: Mapping[str, int] = field(default_factory=dict)
    """Where the source resumes, by partition; see `tocsin.sources.base.EventBatch`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """Notifications of one channel that may be sent now, claimed for the caller.

    No two of them have the same ordering key, and none has the ordering key of one claimed before.
    """

    heads: Sequence[Notification] = ()
    """The first pending notification of each ordering key; of a digest its first."""
    repeats: Sequence[Sequence[Notification]] = ()
    """The members of requests whose outcome is unknown. Each is repeated as the same request."""
    more: bool = False
    """Whether others may be sent now, too."""
    next_at: float | None = None
    """When the next one may be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How an attempt ended. The first three are those of the notification."""

    seq: int
    channel: str
    ordering_key: str
    status: Status
    attempts: int
    not_before: float = 0.0
    """If still pending: the time of the next attempt."""
    reason: str = ""
    """Why it failed; empty if it did not."""
    detail: str = ""
    at: float = 0.0
    repeat: bool = False
    """Whether the receiver may have accepted the request: then it is repeated with the same members."""
    release_key: bool = False
    """Whether later notifications of its ordering key need not wait for it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything known about a notification, for people."""

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
    generation: int = 0
    ordering_key: str = ""
    silence: str | None = None
    """The silence that holds it, pending as it is. `reason` is then `SILENCED`."""
    columns: Columns
    row: Row
    previous: Row | None

    @property
    def transition(self) -> Transition:
        """What it is about."""
        key, times = (self.alert, self.fingerprint, Kind(self.kind)), (self.started_at, self.at)
        return Transition(*key, *times, self.columns, self.row, self.previous)

    @property
    def notification(self) -> Notification:
        """As a channel is sent it."""
        same = ("seq", "id", "channel", "ordering_key", "digest", "attempts", "created_at", "not_before", "generation")
        return Notification(transition=self.transition, **{name: getattr(self, name) for name in same})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is pending of one ordering key of a channel."""

    count: int = 0
    first: Sequence[Record] = ()
    """The first of them, in the order in which they are sent; at most `MOST_MERGED`."""
    due: float | None = None
    """When the window of the ordering key ends (`interval`): before that, a new notification waits in a digest. None:
    there is no window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One failed attempt."""

    at: float
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One firing from start to end, or one event, as the kept notifications describe it."""

    alert: str
    fingerprint: str
    started_at: int
    ended_at: int | None
    """Source ms of the last `resolved` notification; of an event its start. None while it fires, and where no
    `resolved` was sent or kept."""
    firing: bool
    """Whether it fires now, by the firing set."""
    kind: str
    """Of the newest transition, as `row`."""
    columns: Columns
    row: Row
    deliveries: Mapping[tuple[str, Status], int]
    """The number of notifications by channel and status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which records to list, newest first."""

    status: Status | None = None
    channel: str | None = None
    alert: str | None = None
    reason: str | None = None
    """Why the last attempt failed."""
    fingerprint: str | None = None
    id: str | None = None
    id_prefix: str | None = None
    """How the id begins."""
    before: int | None = None
    """Only records with a lower `seq`: continues a list."""
    silence: str | None = None
    """Only what this silence holds."""
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The size of one channel's outbox."""

    pending: int = 0
    """Without what silences hold."""
    oldest: float | None = None
    """When the oldest pending notification was written; of a digest, when it is due."""
    dead: int = 0
    silenced: int = 0
    """Pending notifications that silences hold."""
    oldest_silenced: float | None = None
    """When the oldest of them was written."""


class Outbox(Withholding, NotesAttempts, Protocol):
    """What a dispatcher needs of a ledger.

    A notification that was claimed is not returned by another claim, of any process, until it is settled or released,
    or until `recover` or `inherit` after the process that claimed it has ended.
    """

    sharing: Sharing
    """The place of this process among others."""

    async def recover(self, channel: str, since: float, ready_at: float) -> None:
        """Release all claims on a channel. What was written until `since` is not sent before `ready_at`: the process
        that claimed it may have sent it a moment ago."""
        ...

    async def inherit(self, channel: str, ready_at: float) -> None:
        """Release the claims of other processes that have ended. They are not sent before `ready_at`."""
        ...

    async def claim(self, channel: str, limit: int) -> Claimed:
        """Claim up to `limit` notifications and requests that may be sent now, those that waited for a time and those
        that did not in equal parts."""
        ...

    async def turn(self, channel: str, seconds: float) -> float:
        """Take a turn of so many seconds in sending to a channel with a rate limit. Returns after how many seconds it
        begins: turns of all processes follow one another."""
        ...

    async def hold(self, channel: str, seconds: float, why: str) -> None:
        """Have other processes send nothing to a channel for so long. `why`: the refusal; empty for a rate limit."""
        ...

    async def release(self, notifications: Sequence[Notification]) -> None:
        """Give back claimed notifications that were not sent."""
        ...

    async def bind(self, requests: Sequence[Sequence[int]]) -> None:
        """Write which claimed notifications (by `seq`) go in one request, before it is sent."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> bool:
        """Write how attempts ended, and release the claims. What is no longer pending, because an operator dropped it,
        does not change. Returns whether the ordering keys have more to send, now or later."""
        ...

    async def digest(self, head: Notification) -> list[Notification]:
        """The pending notifications of the digest whose first is `head`, in order, at most `MOST_MERGED`. Closes the
        digest: later notifications do not join it, so that a repeat has the same content."""
        ...

    async def split_digest(self, head: Notification, at: int, *, refused: bool) -> None:
        """Make a digest of their own of the pending notifications with a `seq` of at least `at`. `refused`: the
        receiver has seen the digest, so the first part needs another idempotency key."""
        ...

    async def previous_ids(self, notification: Notification) -> tuple[str, ...]:
        """The ids of this episode that the channel has delivered before, oldest first."""
        ...


class Ledger(Outbox, Silencing, Protocol):
    """What Tocsin needs of a store. Every method raises LedgerError, and nothing else, when the store fails."""

    @property
    def fault(self) -> LedgerError | None:
        """Why the last batch or outcome could not be written; None if it could. A full disk can still be read."""
        ...

    def now(self) -> float:
        """Wall-clock seconds for the times that the store keeps: where processes share it, those of its server."""
        ...

    # Batches.

    async def load(self, alert: str) -> Stored | None:
        """The stored state of an alert; None if it was never committed."""
        ...

    async def commit(self, commit: Commit) -> list[Notification]:
        """Write a batch. Returns the new notifications in order, of a digest only the first, once they are on disk. An
        id that is known already adds none."""
        ...

    async def commit_events(self, commit: EventCommit) -> tuple[list[Notification], list[Occurrence]]:
        """Write a batch of events. Returns the new notifications as `commit` does, and the occurrences that are no
        duplicates."""
        ...

    async def position(self, source: str) -> dict[str, int]:
        """Where an event source resumes, by partition; empty if it was never committed."""
        ...

    # For operators.

    async def backlog(self) -> dict[str, Backlog]:
        """The outbox of each channel that has one."""
        ...

    async def find(self, wanted: Filter) -> list[Record]:
        """Records by a filter, newest first."""
        ...

    async def attempts(self, id_: str) -> list[Attempt]:
        """The latest failed attempts of a notification, oldest first."""
        ...

    async def line(self, channel: str, ordering_key: str) -> Line:
        """What is pending of an ordering key."""
        ...

    async def episodes(self, alert: str, limit: int) -> list[Episode]:
        """The latest episodes of an alert, newest first, as far back as notifications are kept."""
        ...

    async def ended(self, since: int, limit: int) -> list[tuple[str, int, int]]:
        """The latest firings that ended since a source time in ms, and events: alert, start and end in source ms."""
        ...

    async def retry(self, ids: Sequence[str]) -> int:
        """Make dead or dropped notifications pending again, with no attempts counted, and with another idempotency key
        where the receiver rejected them. Returns how many."""
        ...

    async def drop(self, ids: Sequence[str]) -> int:
        """Discard dead or pending notifications. Returns how many."""
        ...

    # Maintenance.

    async def dead_letter_unrouted(self, channels: Sequence[str]) -> int:
        """Make dead letters of what is pending for a channel not among `channels`. Returns how many."""
        ...

    async def prune(self, before: float, limit: int) -> int:
        """Delete at most `limit` delivered or dropped notifications settled before `before`, except those of episodes
        that still fire, and silences closed before it. Returns how many notifications."""
        ...

    async def changed_elsewhere(self) -> bool:
        """Whether another process (`tocsin outbox retry`) has written since the last call."""
        ...

    async def close(self) -> None:
        """Finish what is queued and close the store."""
        ...
