"""A relation: a table of rows over time, what a test does to it, and the SUBSCRIBEs that read it.

Times are source timestamps (milliseconds, 0 to 2**64 - 1). `since` is the oldest readable time, `upper` the write
frontier: everything strictly before it is known.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from support.materialize import errors
from support.materialize.errors import ServerError
from support.materialize.protocol import Column, Row, copy_line

Field = str | int | float | None
"""A value that a test may give for a field. It travels as text."""

Update = tuple[int, int, Row]
"""Timestamp, diff and row: so many copies of the row came, or went."""

END_OF_TIME = 2**64 - 1
"""The timestamp of a constant view: nothing can follow it."""

DEFAULT_RETENTION = 1000
"""Milliseconds that stay readable behind the write frontier without `RETAIN HISTORY`."""

TIMESTAMP = b"\x7f" * 13
"""Placeholder in encoded rows, as long as a timestamp in milliseconds is until the year 2286."""

_CHUNK = 4000
_time = itemgetter(0)


@dataclass(slots=True)
class _RowError:
    """A row error from `start` to `end`. `lower`: the write frontier before it; progress goes up to here."""

    start: int
    lower: int
    message: str
    end: int = END_OF_TIME


@dataclass(slots=True, eq=False)
class Cluster:
    """A cluster. `silent`: no error and no progress, as without a replica. `gone`: the error that ends its streams."""

    name: str
    number: int
    replicas: int = 1
    silent: bool = False
    gone: ServerError | None = None


def text_row(values: Iterable[Field]) -> Row:
    """A row as its text fields."""
    return tuple(value if value is None or isinstance(value, str) else str(value) for value in values)


def encode(rows: Iterable[Row]) -> tuple[bytes, ...]:
    """Rows of a snapshot as messages with a placeholder for their timestamp, some thousands to a chunk."""
    lines = [copy_line((TIMESTAMP.decode(), "f", "1", *row)) for row in rows]
    return tuple(b"".join(lines[at : at + _CHUNK]) for at in range(0, len(lines), _CHUNK))


class Relation:
    """A view or table.

    Attributes:
        id: object id, such as `u7`. A replacement that is applied changes it.
        name: database, schema and name; a rename changes it.
        retain: milliseconds that stay readable behind the write frontier; None: all of it.
        bulk: rows that are always there, from `encode`: a snapshot of a million costs next to nothing.
        as_of: the timestamp of the snapshot of a constant relation.
        silent: no error and no progress, as without a replica.
        denied: roles that may not read it.
        gone: the error that ends its streams, new ones too.
        streams: running subscriptions.
    """

    def __init__(
        self,
        number: int,
        name: tuple[str, ...],
        columns: tuple[Column, ...],
        retain: int | None,
        *,
        clock: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self.id = f"u{number}"
        self.name = name
        self.columns = columns
        self.retain = retain
        self.bulk: tuple[bytes, ...] = ()
        self.as_of = END_OF_TIME
        self.silent = False
        self.denied: set[str] = set()
        self.gone: ServerError | None = None
        self.refused: ServerError | None = None
        """Why it can be selected from, and not subscribed to."""
        self.streams: set[Stream] = set()
        self.since = clock()
        self.upper = self.since + 1
        self.wake = wake
        self._clock = clock
        self._held: Counter[Row] = Counter()
        self._updates: list[Update] = []
        self._errors: list[_RowError] = []

    @property
    def full_name(self) -> str:
        return ".".join(self.name)

    @property
    def constant(self) -> bool:
        return self.upper > END_OF_TIME

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
        """Write pairs of diff and row at one timestamp, by default the first that is not closed, and return it."""
        timestamp = self._open(at)
        diffs: Counter[Row] = Counter()
        for diff, values in changes:
            row = text_row(values)
            assert len(row) == len(self.columns), f"{self.full_name} has other columns: {row}"
            diffs[row] += diff
        for row, diff in diffs.items():
            assert self._held[row] + diff >= 0, f"{-diff} copies of {row} cannot go: there are {self._held[row]}"
            self._held[row] += diff
            if diff:
                self._updates.append((timestamp, diff, row))
        self._held = +self._held
        self.advance(timestamp + 1)
        return timestamp

    def fail(self, reason: str, at: int | None = None) -> None:
        """Put a row error into the relation, such as `division by zero`."""
        timestamp = self._open(at)
        self._errors.append(_RowError(timestamp, self.upper, reason))
        self.advance(timestamp + 1)

    def heal(self, at: int | None = None) -> None:
        """Take the row error back."""
        self._errors[-1].end = self._open(at)
        self.advance(self._errors[-1].end + 1)

    def freeze(self, as_of: int = END_OF_TIME) -> None:
        """Make the relation constant: nothing can change, and streams end after the snapshot.

        `as_of`: a constant materialized view has a real time in v26.39.
        """
        self.as_of = as_of
        self.advance(END_OF_TIME + 1)

    def end_streams(self, failure: ServerError) -> None:
        """End the running streams with an error. What was not sent is lost."""
        for stream in self.streams:
            stream.failure = failure
        self.wake()

    def advance(self, upper: int) -> None:
        """Close every time before `upper`, let compaction follow, and wake the readers. A frontier never goes back."""
        self.upper = max(self.upper, upper)
        if self.retain is not None and not self.constant:
            self.compact(self.upper - self.retain)
        self.wake()

    def compact(self, since: int) -> int:
        """Make every time before `since` unreadable, but never the last closed time. Returns the oldest readable time.

        The updates stay, as they do on a server while a running subscription has still to read them.
        """
        self.since = max(self.since, min(since, self.upper - 1))
        return self.since

    def rows(self) -> list[Row]:
        """The rows now, each as often as there are copies of it. Without `bulk`."""
        return list(self._held.elements())

    def content(self, at: int) -> Counter[Row]:
        """What the relation held at a time, updates at that very time included. Without `bulk`."""
        held = Counter(self._held)
        for _, diff, row in self.between(at, self.upper):
            held[row] -= diff
        return +held

    def between(self, after: int, before: int) -> list[Update]:
        """Updates strictly between two times, in order of time."""
        first = bisect_right(self._updates, after, key=_time)
        return self._updates[first : bisect_left(self._updates, before, key=_time)]

    def error_at(self, at: int) -> ServerError | None:
        """The row error that the relation had at a time."""
        return next((errors.row_error(one.message) for one in self._errors if one.start <= at < one.end), None)

    def first_error(self, after: int, before: int) -> tuple[int, ServerError] | None:
        """The first row error that came strictly between two times, and the write frontier before it."""
        found = (one for one in self._errors if after < one.start < before)
        return next(((one.lower, errors.row_error(one.message)) for one in found), None)

    def _open(self, at: int | None) -> int:
        timestamp = max(self._clock(), self.upper) if at is None else at
        assert timestamp >= self.upper, f"{at} is before the write frontier {self.upper}"
        return timestamp


class Stream:
    """A running SUBSCRIBE with progress, as the messages to send next. Pure: others wait and send.

    Attributes:
        sent: rows sent so far, progress rows included.
        ended: everything was sent, and nothing can follow.
        failure: the error that ends the stream as soon as nothing is left to send before it.
    """

    def __init__(self, relation: Relation, cluster: Cluster, places: tuple[int, ...], as_of: int) -> None:
        """`places`: positions of the columns that it selects."""
        self.relation = relation
        self.sent = 0
        self.ended = False
        self.failure: ServerError | None = None
        self._cluster = cluster
        self._places = places
        self._as_of = as_of
        self._applied: int | None = None  # the snapshot, and updates up to this time, were sent
        self._progress: int | None = None  # the last progress row

    @property
    def started(self) -> bool:
        """Whether the first progress row was sent. The snapshot may be still to come."""
        return self._progress is not None

    @property
    def caught_up(self) -> bool:
        """Whether everything was sent that is known."""
        return self.ended or (self._applied is not None and (self._progress or 0) >= self.relation.upper)

    def poll(self) -> bytes:
        """The messages to send now; empty if there is nothing to say yet.

        Raises ServerError, with which the stream ends. What came before it was returned by earlier calls.
        """
        found: list[bytes] = []
        if self._progress is None:
            found.append(self._report_progress(self._as_of))
        if self.failure is None and not (self.relation.silent or self._cluster.silent):
            found += self._news()
        self.failure = self.failure or self._cluster.gone or self.relation.gone
        if self.failure is not None and not found:
            raise self.failure
        return b"".join(found)

    def _news(self) -> list[bytes]:
        relation, upper = self.relation, self.relation.upper
        if upper <= self._as_of:
            return []
        found: list[bytes] = []
        if self._applied is None:
            self.failure = relation.error_at(self._as_of)
            if self.failure is not None:
                return []
            self._applied = self._as_of
            found += [chunk.replace(TIMESTAMP, str(self._as_of).encode()) for chunk in relation.bulk]
            found += self._changes([(self._as_of, n, row) for row, n in relation.content(self._as_of).items()])
        if (error := relation.first_error(self._applied, upper)) is not None:
            upper, self.failure = error
        if upper > self._applied:
            found += self._changes(relation.between(self._applied, upper))
            self._applied = upper - 1
        if relation.constant:
            self.ended = True
        elif self._progress is None or upper > self._progress:
            found.append(self._report_progress(upper))
        return found

    def _report_progress(self, timestamp: int) -> bytes:
        self._progress = timestamp
        self.sent += 1
        return copy_line((str(timestamp), "t", *([None] * (len(self._places) + 1))))

    def _changes(self, updates: list[Update]) -> list[bytes]:
        self.sent += len(updates)
        return [copy_line((str(at), "f", str(diff), *(row[one] for one in self._places))) for at, diff, row in updates]
