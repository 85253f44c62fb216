"""The configuration of an events table."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tocsin.postgres import Name, Positive, RelationName, Server, name_parts
from tocsin.postgres_session import OUTPUT
from tocsin.sources.settings import SourceSettings

HANDLED_AT, HANDLED_AS = "handled_at", "handled_as"
"""The columns in which the source writes down what became of an event."""


def _not_its_own(column: str) -> str:
    if column in (HANDLED_AT, HANDLED_AS):
        raise ValueError(f"{column} is the column in which Tocsin writes down what became of an event")
    return column


OwnersColumn = Annotated[Name, AfterValidator(_not_its_own)]


class Config(Server, SourceSettings):
    """A table of events in PostgreSQL, one row for each, woken by NOTIFY. Several processes may share the work.
    `tocsin sql` prints the SQL that makes the table or adds to it what is missing."""

    delivers: ClassVar[Literal["rows", "events"]] = "events"
    subjects: ClassVar[tuple[str, ...]] = ("event",)
    output: ClassVar[Mapping[str, str]] = OUTPUT

    table: RelationName = "events"
    """The table, as SQL would write it: `schema.events`, `"My Events"`."""
    id: OwnersColumn = "id"
    """The column that identifies an event, unique and rising."""
    name: OwnersColumn = "name"
    """The column whose value alerts take events by."""
    time: OwnersColumn | None = None
    """The column that says when it happened, a timestamp. Without it the moment at which it is read."""
    key: OwnersColumn | None = None
    """Events with the same value in this column are taken in the order of their ids, also when several processes share
    the work. Without it only each process by itself keeps the order."""
    channel: Name = "events"
    """The channel of NOTIFY that says that there is something new. What it says is not read."""
    companion: RelationName | None = None
    """A table of Tocsin's own in which it writes down what is still to do, for an events table that must not get the
    columns `handled_at` and `handled_as`."""
    after: Literal["mark", "delete"] = "mark"
    """What becomes of an event that was taken: its row keeps the time in `handled_at`, or it is deleted; with a
    `companion`, its row there. Events that no alert takes are always kept, marked."""
    batch: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    """How many events are taken at once."""
    poll: Positive = 30.0
    """How often to look when no NOTIFY comes: for events whose NOTIFY got lost, or that another process gave back."""
    lease: Positive = 60.0
    """How long a process may keep events to itself without a word to the server, before others get them."""
    statement_timeout: Positive = 30.0
    """How long one statement may take, after which the server ends it."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.id == self.name:
            raise ValueError("id and name must be two columns")
        if self.companion is not None and name_parts(self.companion) == name_parts(self.table):
            raise ValueError("companion must be another table than table")
        if self.companion is not None and len(name_parts(self.companion)) < 2:
            # The function that fills it runs with its owner's rights: it must not look for a table by name alone.
            raise ValueError("write companion with its schema, as in public.events_pending")
        return self

    def _session(self) -> dict[str, str]:
        limits = {
            "statement_timeout": self.statement_timeout,
            "idle_in_transaction_session_timeout": self.lease,
        }
        # A table that fills and empties outruns its statistics: without these the planner may read and sort the whole
        # backlog for each batch of it.
        plan = dict.fromkeys(("enable_sort", "enable_bitmapscan", "enable_seqscan"), "off")
        return {**plan, **{name: f"{math.ceil(limit * 1000)}ms" for name, limit in limits.items()}, **self.options}
