"""A relation: its rows over time, and what a test may do to it."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from support.materialize import messages
from support.materialize.columns import Column
from support.materialize.errors import ServerError
from support.materialize.history import END_OF_TIME, History, Row
from support.materialize.statements import Name

if TYPE_CHECKING:
    from support.materialize.subscription import Subscription

Field = str | int | float | None
"""A value that a test may give for a field. It travels as text."""

DEFAULT_RETENTION = 1000
"""Milliseconds that stay readable behind the write frontier without `RETAIN HISTORY`."""

_COMPACTION_STEP = 1000
"""`since` moves in whole seconds, as on a live server."""

TIMESTAMP = b"\x7f" * 13
"""Placeholder in encoded rows, as long as a timestamp in milliseconds is until the year 2286."""

_CHUNK = 4000


def text_row(values: Iterable[Field]) -> Row:
    """A row as its text fields."""
    return tuple(value if value is None or isinstance(value, str) else str(value) for value in values)


def encode(rows: Iterable[Row]) -> tuple[bytes, ...]:
    """Rows of a snapshot as messages with a placeholder for their timestamp, some thousands to a chunk."""
    chunks: list[bytes] = []
    encoded: list[bytes] = []
    for row in rows:
        encoded.append(messages.copy_data(TIMESTAMP.decode(), "f", "1", *row))
        if len(encoded) == _CHUNK:
            chunks.append(b"".join(encoded))
            encoded.clear()
    return (*chunks, b"".join(encoded))


class Relation:
    """A view or table.

    Attributes:
        id: object id, such as `u7`. A replacement that is applied changes it.
        oid: the identity that a replacement keeps.
        name: database, schema and name; a rename changes it.
        retain: milliseconds that stay readable behind the write frontier; None: all of it.
        bulk: rows that are always there, from `encode`: a snapshot of a million costs next to nothing.
        as_of: the timestamp of the snapshot of a constant relation.
        silent: no error and no progress, as without a replica.
        oversized: what a subscription has to send is larger than the server's `max_result_size`.
        denied: roles that may not read it.
        gone: the error that ends its streams.
        streams: running subscriptions.
    """

    def __init__(
        self,
        number: int,
        name: Name,
        columns: tuple[Column, ...],
        retain: int | None,
        *,
        clock: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self.id = f"u{number}"
        self.oid = 20000 + number
        self.name = name
        self.columns = columns
        self.retain = retain
        self.bulk: tuple[bytes, ...] = ()
        self.as_of = END_OF_TIME
        self.silent = False
        self.oversized = False
        self.denied: set[str] = set()
        self.gone: ServerError | None = None
        self.streams: set[Subscription] = set()
        self.history = History(since=clock())
        self.history.advance(self.history.since + 1)
        self.wake = wake
        self._clock = clock

    @property
    def full_name(self) -> str:
        return ".".join(self.name)

    @property
    def constant(self) -> bool:
        return self.history.upper > END_OF_TIME

    def insert(self, *rows: Sequence[Field]) -> int:
        """Add one copy of each row, all at one timestamp, and return it."""
        return self.change([(1, row) for row in rows])

    def delete(self, *rows: Sequence[Field]) -> int:
        """Remove one copy of each row, all at one timestamp, and return it."""
        return self.change([(-1, row) for row in rows])

    def update(self, old: Sequence[Field], new: Sequence[Field]) -> int:
        """Replace one copy of a row by another at one timestamp, and return it."""
        return self.change([(-1, old), (1, new)])

    def change(self, changes: Iterable[tuple[int, Sequence[Field]]], at: int | None = None) -> int:
        """Write pairs of diff and row at one timestamp, by default the first that is not closed, and return it.

        Raises ValueError: see `History.append`.
        """
        pairs = [(diff, text_row(row)) for diff, row in changes]
        assert all(len(row) == len(self.columns) for _, row in pairs), f"{self.full_name} has other columns: {pairs}"
        timestamp = self._open(at)
        self.history.append(timestamp, pairs)
        self.settle()
        return timestamp

    def fail(self, reason: str, at: int | None = None) -> int:
        """Put a row error into the relation, such as `division by zero`, and return its timestamp."""
        timestamp = self._open(at)
        self.history.fail(timestamp, reason)
        self.settle()
        return timestamp

    def heal(self, at: int | None = None) -> int:
        """Take the row error back, and return the timestamp of that."""
        timestamp = self._open(at)
        self.history.heal(timestamp)
        self.settle()
        return timestamp

    def freeze(self, as_of: int = END_OF_TIME) -> None:
        """Make the relation constant: nothing can change, and streams end after the snapshot.

        `as_of`: a constant materialized view has a real time in v26.39.
        """
        self.as_of = as_of
        self.history.advance(END_OF_TIME + 1)
        self.wake()

    def tick(self) -> None:
        """Move the write frontier up to the clock."""
        self.history.advance(self._clock())
        self.settle()

    def settle(self) -> None:
        """Let compaction follow the write frontier, and wake the readers."""
        if self.retain is not None and not self.constant:
            step = max(1, min(_COMPACTION_STEP, self.retain))
            self.history.compact((self.history.upper - self.retain) // step * step)
        self.wake()

    def rows(self) -> list[Row]:
        """The rows now, each as often as there are copies of it. Without `bulk`."""
        return list(self.history.snapshot().elements())

    def bulk_at(self, timestamp: int) -> list[bytes]:
        """The messages of `bulk` with their timestamp."""
        return [chunk.replace(TIMESTAMP, str(timestamp).encode()) for chunk in self.bulk]

    def _open(self, at: int | None) -> int:
        return max(self._clock(), self.history.upper) if at is None else at
