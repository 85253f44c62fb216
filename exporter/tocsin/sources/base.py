"""The contract of sources. A source is one module here: its configuration model, its `build`, and one line in
`tocsin.registry`.

A state source delivers rows that come and go (`Source`), an event source delivers events (`EventSource`). A source only
opens a stream, and the stream yields batches until it ends or raises. Reconnecting, backoff and gaps are the business
of `tocsin.pipeline.rows` and `tocsin.pipeline.events`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from tocsin.errors import RefusedReason
from tocsin.model import Batch, Columns, Event, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What to watch. Exactly one is set."""

    relation: str | None = None
    """A name as SQL writes it: `schema.view`."""
    query: str | None = None
    topic: str | None = None
    """A Kafka topic."""
    event: str | None = None
    """The name of events."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One open subscription."""

    columns: Columns
    batches: Callable[[], AsyncIterator[Batch]]
    """Closed batches, the first one always with a snapshot. Raises SourceError. After a normal end nothing more can
    come."""


@runtime_checkable
class Source(Protocol):
    """A source of rows, with one server's settings. All its alerts share one object."""

    def open(
        self, subject: Subject, *, as_of: int | None, checked: Callable[[str], None] = ...
    ) -> AbstractAsyncContextManager[Stream]:
        """Subscribe, asking for the history from the time `as_of` if given. Raises SourceError.

        `checked` is called after each check whether the stream still reads what the configuration names, for a source
        that makes such checks: with the reason why the check failed, or an empty text. A check that finds a difference
        ends the stream with SourceError.

        Never holds the event loop for long and never waits without a limit.
        """
        ...

    async def describe(self, subject: Subject) -> Columns:
        """The columns, without running anything. Raises SourceError."""
        ...

    async def sample(self, subject: Subject) -> Row | None:
        """One row to try templates on; None if there is none now. Raises SourceError."""
        ...


@runtime_checkable
class Typed(Protocol):
    """A source whose server declares the types of its columns. Others infer them from documents."""

    async def type_name(self, oid: int) -> str:
        """The server's name of a type that is not PostgreSQL's own. Raises SourceError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A message that is not a valid event."""

    id: str
    """Where to find it."""
    reason: RefusedReason
    detail: str
    """For people, without the content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """What an event source delivered at once."""

    events: Sequence[Event]
    refused: Sequence[Refused] = ()
    position: Mapping[str, int] = field(default_factory=dict)
    """Partition -> position to go on from. Stored in the ledger with the batch, for a server that does not store it."""
    receipt: object = None
    """What the source itself needs to acknowledge the batch."""
    returns: int = 0
    """Most returns of a message to a server that drops messages returned too often; 0 if none is near its limit."""
    near_limit: int = 0
    """How many messages are near that limit."""
    warning: str = ""
    """What to report about them; empty for nothing."""


class EventStream(Protocol):
    """One open subscription to events. The defaults are those of a server that keeps no position and has no dead
    letters."""

    def batches(self) -> AsyncIterator[EventBatch]:
        """Batches, each as soon as there is something, never delayed to grow. Raises SourceError.

        When the next batch is requested before the last one was acknowledged, the stream may go on, up to a bound of
        its own, or take the last one back and deliver it again. A batch may have no events.
        """
        ...

    async def prepare(self, batch: EventBatch) -> None:  # noqa: ARG002
        """Called before the batch is written to the ledger, and again if either failed.

        A source whose position is in the ledger writes its dead letters here: after the commit, a crash would lose
        them. Raises DeadLetterError, and SourceError if the subscription is over.
        """
        return

    async def hold(self) -> bool:
        """Keep the subscription alive while the last batch cannot be stored.

        Called at the start of the pause before each retry, and every few seconds during the pause. Returns whether the
        source still holds the batch, which is then tried again. False: the source took it back, and delivers it again
        through `batches`. Raises SourceError if the subscription is over.
        """
        return True

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:  # noqa: ARG002
        """The batch is in the ledger: the source need not deliver it again. Called in order, once per batch; after
        DeadLetterError again for the same batch.

        `unmatched`: events of the batch that no alert takes. Raises DeadLetterError, and SourceError if the
        subscription is over.
        """
        return


@runtime_checkable
class Verifiable(Protocol):
    """A source that can be asked whether it would deliver events."""

    async def verify(self, names: Sequence[str]) -> list[str]:
        """What would keep the events of these names from arriving, as sentences without a secret. Asks the server
        within `connect_timeout`, and consumes and changes nothing there."""
        ...


@runtime_checkable
class EventSource(Protocol):
    """A source of events, bound to one server's settings. One stream serves all its alerts.

    It may be `Verifiable`. If it can know the columns of events before it consumes any, it has `describe` and `sample`
    as `Source` has; `describe` may return None before the first event.
    """

    def open(self, names: Sequence[str], *, position: Mapping[str, int]) -> AbstractAsyncContextManager[EventStream]:
        """Subscribe to the events that alerts take, by name, from `position` (of the last batch in the ledger; empty
        at the first start). Raises SourceError.

        What was delivered and never acknowledged is delivered again, with the same ids.
        """
        ...
