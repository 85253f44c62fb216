"""Where rows come from. A source is one module here: its configuration model, its `build`, and one line in `KINDS`.

Reconnecting, backoff and what a gap means are not a source's business (see `tocsin.app.watch`): it opens a stream, and
the stream gives batches until it ends or raises.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from tocsin.model import Batch, Columns, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What to watch: a relation by name (`schema.view`, as SQL would write it) or a query. Exactly one is set."""

    relation: str | None = None
    query: str | None = None


class Stream(Protocol):
    """One open subscription."""

    columns: Columns

    def batches(self) -> AsyncIterator[Batch]:
        """Closed batches, the first one always with a snapshot. Raises SourceError; a normal end means nothing more
        will come."""
        ...


class Source(Protocol):
    """A kind of source, bound to one server's settings. One connection per subscription."""

    def open(self, subject: Subject, *, resume: int | None) -> AbstractAsyncContextManager[Stream]:
        """Subscribe, asking for the history from the as-of `resume` if given. Raises SourceError.

        Never holds the event loop for long and never waits without a limit.
        """
        ...

    async def describe(self, subject: Subject) -> Columns:
        """The columns, without running anything. Raises SourceError."""
        ...

    async def sample(self, subject: Subject) -> Row | None:
        """One row of it, or None if it has none now: something real to try templates on. Raises SourceError."""
        ...


KINDS: dict[str, str] = {
    "materialize": "tocsin.sources.materialize",
    "postgres": "tocsin.sources.postgres",
}
"""Source type -> module. Each module has `Config` and `build(name, config) -> Source`."""
