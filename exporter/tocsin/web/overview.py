"""What the web server asks of the running process, and the answers as types."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from tocsin.ledger.base import Attempt, Status

AlertPhase: TypeAlias = Literal["starting", "up", "error", "stale", "refusing"]
ChannelPhase: TypeAlias = Literal["up", "failing", "refusing", "paused", "removed"]
FiringPhase: TypeAlias = Literal["pending", "firing", "keeping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertStatus:
    """How an alert does. `message`: why it is not up, for people. `frontier`: source time in ms; `last_progress`:
    wall-clock seconds; None: not known yet. `series`, `dropped`: of its gauge. `events`: how many it took since the
    process started; None for an alert on rows."""

    name: str
    source: str
    state: AlertPhase
    message: str = ""
    firing: int = 0
    pending: int = 0
    frontier: int | None = None
    last_progress: float | None = None
    gaps: int = 0
    series: int = 0
    dropped: int = 0
    events: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringRow:
    """One key that is pending, firing or kept firing. `started_at`: source time in ms. `row`: every column by name,
    ready for JSON."""

    alert: str
    fingerprint: str
    phase: FiringPhase
    started_at: int
    labels: Mapping[str, str]
    value: float | None
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatus:
    """How a channel does. `oldest_pending`, `last_delivery`: wall-clock seconds. `delivered`, `failed` (attempts):
    since the process started; `dead`: parked now. `state` "removed": no longer configured, and something of it is left
    in the outbox; its type is not known any more."""

    name: str
    type: str
    state: ChannelPhase
    message: str = ""
    pending: int = 0
    oldest_pending: float | None = None
    delivered: int = 0
    failed: int = 0
    dead: int = 0
    last_delivery: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRecord:
    """One transition. Times are source time in ms; `row` and `previous`: every column by name, ready for JSON."""

    alert: str
    fingerprint: str
    kind: str
    started_at: int
    at: int
    labels: Mapping[str, str]
    value: float | None
    row: Mapping[str, Any]
    previous: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationRecord:
    """One notification as the ledger has it. `seq` rises in the order of commits. `started_at`, `at`: source time in
    ms; the other times: wall-clock seconds. `reason`, `detail`: why the last attempt failed."""

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
    labels: Mapping[str, str]
    value: float | None = None
    row: Mapping[str, Any]
    previous: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How many notifications of an episode stand how at a channel."""

    channel: str
    status: Status
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRecord:
    """One firing from beginning to end, or one event. Times are source time in ms. `ended_at` None: it still fires or,
    without `firing`, it ended and nothing tells when. `deliveries`: how many notifications by channel and status."""

    alert: str
    fingerprint: str
    started_at: int
    ended_at: int | None
    firing: bool
    kind: str
    labels: Mapping[str, str]
    value: float | None
    row: Mapping[str, Any]
    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to a request that brought events: an HTTP status, how many are safe, and what is wrong if anything
    is."""

    status: int
    events: int = 0
    error: str = ""


class Overview(Protocol):
    """The running process as the web server sees it. What is not `async` answers from memory."""

    def ready(self) -> Sequence[str]:
        """Why the process is not ready, one sentence each; empty when it is."""
        ...

    def warnings(self) -> Sequence[str]:
        """What does not work although the process is ready, one sentence each: channels that do not deliver, sources
        that deliver nothing that is a valid event, sources that no NOTIFY can wake."""
        ...

    def alerts(self) -> Sequence[AlertStatus]:
        """Every alert, in the order of the configuration."""
        ...

    def channels(self) -> Sequence[ChannelStatus]:
        """Every channel, in the order of the configuration, and then those no longer in it of which something is
        left."""
        ...

    def firing(self, alert: str, limit: int) -> Iterable[FiringRow]:
        """At most `limit` rows of an alert, which exists. The caller reads them at once."""
        ...

    async def notifications(
        self, *, status: Status | None, channel: str | None, alert: str | None, limit: int, before: int | None
    ) -> Sequence[NotificationRecord]:
        """Notifications, newest first; `before`: only those with a smaller `seq`. Raises LedgerError."""
        ...

    async def notification(self, id_: str) -> NotificationRecord | None:
        """One notification, None if there is none of that id. Raises LedgerError."""
        ...

    async def retry(self, ids: Sequence[str]) -> int:
        """Make dead or dropped notifications pending again. Returns how many. Raises LedgerError."""
        ...

    async def drop(self, ids: Sequence[str]) -> int:
        """Let dead or pending notifications go. Returns how many. Raises LedgerError."""
        ...

    async def receive(self, alert: str, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Receipt:
        """Take events in; returns once they are safe, or why they are refused. Headers have names in lower case; the
        body is read only where they allow it, and no further than its source does."""
        ...

    async def attempts(self, id_: str) -> Sequence[Attempt]:
        """The attempts of a notification that failed, oldest first. Raises LedgerError."""
        ...

    async def episodes(self, alert: str, limit: int) -> Sequence[EpisodeRecord]:
        """The latest episodes of an alert, newest first. Raises LedgerError."""
        ...

    def transitions(self) -> AsyncGenerator[TransitionRecord, None]:
        """The latest transitions, oldest first, then each new one as it happens. Ends when the reader is too slow."""
        ...

    async def reload(self) -> Sequence[str]:
        """Read the configuration again and apply it whole, or not at all. Returns what is wrong with it."""
        ...
