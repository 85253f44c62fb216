"""The configuration of an events table."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tocsin.postgres import OUTPUT, Name, Positive, RelationName, Server
from tocsin.sources.settings import EventSourceSettings

HANDLED_AT, HANDLED_AS = "handled_at", "handled_as"
"""The columns in which the source stores the result for an event."""


def _not_its_own(column: str) -> str:
    if column in (HANDLED_AT, HANDLED_AS):
        raise ValueError(f"{column} is reserved for the result of an event; use another column")
    return column


OwnersColumn = Annotated[Name, AfterValidator(_not_its_own)]


class Config(Server, EventSourceSettings):
    """A table of events in PostgreSQL, one row per event, with NOTIFY as the wake-up. Several processes may share the
    work. `tocsin sql` prints the SQL that creates the table or adds what it lacks."""

    output: ClassVar[Mapping[str, str]] = OUTPUT

    table: RelationName = "events"
    """The table, as SQL would write it: `schema.events`, `"My Events"`."""
    id: OwnersColumn = "id"
    """The column that identifies an event: unique and increasing."""
    name: OwnersColumn = "name"
    """The column with the name of the event, which alerts select by."""
    time: OwnersColumn | None = None
    """The column with the time of the event, a timestamp. Default: the time of reading."""
    key: OwnersColumn | None = None
    """Events with the same value in this column are read in the order of their ids, also when several processes share
    the work. Without it, only each process on its own keeps the order."""
    channel: Name = "events"
    """The channel of NOTIFY that announces new events. The payload is not used."""
    after: Literal["mark", "delete"] = "mark"
    """What to do with the row of an event that was taken: mark it in `handled_at`, or delete it. Events that no alert
    takes are always marked and kept."""
    batch: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    """Events per batch."""
    poll: Positive = 30.0
    """How often to read the table when no NOTIFY comes: its NOTIFY may be lost, or another process released events."""
    lease: Positive = 60.0
    """How long a process may hold events without sending anything to the server. Then others get them."""
    statement_timeout: Positive = 30.0
    """How long one statement may take before the server cancels it."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.id == self.name:
            raise ValueError("id and name must be two columns")
        return self

    def _own_settings(self) -> dict[str, str]:
        limits = {
            "statement_timeout": self.statement_timeout,
            "idle_in_transaction_session_timeout": self.lease,
        }
        # Statistics of a table that fills and empties are always old. With these settings the planner uses the index
        # of pending rows instead of sorting the whole backlog for each batch. Before PostgreSQL 18 a plan that sorts
        # all the same counts as so expensive that it would be compiled, which takes longer than all else.
        plan = dict.fromkeys(("enable_sort", "enable_bitmapscan", "enable_seqscan", "jit"), "off")
        return {**plan, **{name: f"{math.ceil(limit * 1000)}ms" for name, limit in limits.items()}}
