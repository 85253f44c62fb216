"""Where rows come from. A source is one module here: its configuration model, its `build`, and one line in
`tocsin.registry`.

A state source gives rows that come and go (`Source`), an event source gives things that happened (`EventSource`).
Reconnecting, backoff and what a gap means are not a source's business (see `tocsin.pipeline.rows` and
`tocsin.pipeline.events`): it opens a stream, and the stream gives batches until it ends or raises.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from tocsin.errors import RefusedReason
from tocsin.model import Batch, Columns, Event, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What to watch. Exactly one is set: a relation by name (`schema.view`, as SQL would write it), a query, a Kafka
    topic, or the name of the events to take."""

    relation: str | None = None
    query: str | None = None
    topic: str | None = None
    event: str | None = None


class Stream(Protocol):
    """One open subscription."""

    columns: Columns

    def batches(self) -> AsyncIterator[Batch]:
        """Closed batches, the first one always with a snapshot. Raises SourceError; a normal end means nothing more
        will come."""
        ...


class Source(Protocol):
    """A kind of source, bound to one server's settings. One connection per subscription. All alerts of a source share
    one object."""

    def open(
        self, subject: Subject, *, resume: int | None, checked: Callable[[str], None] = ...
    ) -> AbstractAsyncContextManager[Stream]:
        """Subscribe, asking for the history from the as-of `resume` if given. Raises SourceError.

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
        """One row of it, or None if it has none now: something real to try templates on. Raises SourceError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Something a source delivered that cannot become an event. `id` says where it is to be found; `detail` is for
    people, without the content."""

    id: str
    reason: RefusedReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """What an event source delivered at once.

    `position`: partition -> the position to go on from, kept in the ledger together with the batch, for a source whose
    server does not remember it. `receipt` is the source's own: what it needs to acknowledge the batch.

    `returns`, `near_limit`, `warning`: for a server that drops what was returned to it too often. Highest number of
    returns of a message, how many messages are near the limit, and what to say of them; 0 and empty if none is.
    """

    events: Sequence[Event]
    refused: Sequence[Refused] = ()
    position: Mapping[str, int] = field(default_factory=dict)
    receipt: object = None
    returns: int = 0
    near_limit: int = 0
    warning: str = ""


class EventStream(Protocol):
    """One open subscription to events."""

    def batches(self) -> AsyncIterator[EventBatch]:
        """Batches, each as soon as there is something: never delayed to grow. Raises SourceError.

        Asked for the next one before the last is acknowledged, it may go on, up to a bound of its own, or take the last
        one back: then that is delivered again. A batch may be empty of events.
        """
        ...

    async def prepare(self, batch: EventBatch) -> None:
        """Called before the batch is written to the ledger, and again if that or this failed.

        A source whose position is in the ledger writes its dead letters here: after the commit, a crash would leave
        them out. Raises DeadLetterError, and SourceError if the subscription is over.
        """
        ...

    async def hold(self) -> bool:
        """The last batch cannot be made safe now. Keep the subscription alive until it is tried again.

        Called at the beginning of the pause before each new try, and every few seconds during the pause. Returns
        whether the batch is still held: it is then tried again as it is. False: the source took it back, and delivers
        it again through `batches`. Raises SourceError if the subscription is over.
        """
        ...

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:
        """The batch is safe in the ledger: the source need not deliver it again. In order, each batch once; after
        DeadLetterError the same batch again.

        `unmatched`: events of the batch that no alert takes. Raises DeadLetterError, and SourceError if the
        subscription is over.
        """
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A source that can be asked whether it would deliver events."""

    async def verify(self, names: Sequence[str]) -> list[str]:
        """What would keep the events of these names from coming, as sentences without a secret. Asks the server within
        `connect_timeout`, and takes and changes nothing there."""
        ...


class EventSource(Protocol):
    """A source of events, bound to one server's settings. One stream serves all its alerts.

    It may be `Verifiable`. Where it can know the columns of events before it takes any, it has `describe` and `sample`
    as `Source` has, where `describe` may return None while there is no event.
    """

    def open(self, names: Sequence[str], *, position: Mapping[str, int]) -> AbstractAsyncContextManager[EventStream]:
        """Subscribe to the events that alerts take, by name, from `position` (of the last batch in the ledger; empty
        at the first start). Raises SourceError.

        What was delivered and never acknowledged is delivered again, with the same ids.
        """
        ...
