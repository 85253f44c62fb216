"""A versioned multiset: what a relation held at every time that is still readable. Pure: no clock, no I/O.

Times are source timestamps (milliseconds, 0 to 2**64 - 1). ``since`` is the oldest readable time, ``upper`` the write
frontier: everything strictly before it is known. A row is the tuple of its text fields, ``None`` for NULL.

Physical folding lags behind ``since`` while a reader holds an older time, as a running subscription does.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Row = tuple[str | None, ...]

END_OF_TIME = 2**64 - 1
"""The timestamp of a constant relation: nothing can follow it."""


class UnreadableError(Exception):
    """A read at a time before ``since``."""


@dataclass(frozen=True, slots=True)
class Update:
    """``diff`` copies of ``row`` came (or went, where negative) at ``timestamp``."""

    timestamp: int
    diff: int
    row: Row


@dataclass(slots=True)
class ErrorSpan:
    """A row error that stood in the relation from ``start`` until before ``end``.

    Attributes:
        lower: the write frontier before the error came in; a reader is told of progress up to here and no further.
        end_lower: the same for the batch that took the error back.
    """

    message: str
    lower: int
    start: int
    end: int | None = None
    end_lower: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The coming or the going of a row error. A subscription that meets either one ends (seen on a live server)."""

    timestamp: int
    lower: int
    message: str


class History:
    """The updates of one relation, in order of time."""

    __slots__ = ("_base", "_current", "_entries", "_holds", "_spans", "_times", "since", "upper")

    def __init__(self, *, since: int = 0) -> None:
        self.since = since
        self.upper = since
        self._base: Counter[Row] = Counter()
        self._current: Counter[Row] = Counter()
        self._entries: list[Update] = []
        self._times: list[int] = []
        self._spans: list[ErrorSpan] = []
        self._holds: dict[object, int] = {}

    # --- writing

    def append(self, timestamp: int, changes: Iterable[tuple[int, Row]]) -> None:
        """Write changes at a timestamp that is not before ``upper``, and close it.

        Changes of the same row are added up, so that no row both comes and goes at one timestamp.

        Raises:
            ValueError: the timestamp is already closed, or more copies of a row would go than there are.
        """
        if timestamp < self.upper:
            raise ValueError(f"{timestamp} is before the write frontier {self.upper}")
        diffs: dict[Row, int] = {}
        for diff, row in changes:
            diffs[row] = diffs.get(row, 0) + diff
        for row, diff in diffs.items():
            if self._current[row] + diff < 0:
                raise ValueError(f"{-diff} copies of {row} cannot go: there are {self._current[row]}")
        for row, diff in diffs.items():
            if diff:
                self._entries.append(Update(timestamp, diff, row))
                self._times.append(timestamp)
                _add(self._current, row, diff)
        self.advance(timestamp + 1)

    def fail(self, timestamp: int, message: str) -> None:
        """Put a row error into the relation at a timestamp that is not yet closed."""
        if timestamp < self.upper:
            raise ValueError(f"{timestamp} is before the write frontier {self.upper}")
        if self.failing is not None:
            raise ValueError("the relation is already in error")
        self._spans.append(ErrorSpan(message, lower=self.upper, start=timestamp))
        self.advance(timestamp + 1)

    def heal(self, timestamp: int) -> None:
        """Take the row error back at a timestamp that is not yet closed."""
        if timestamp < self.upper:
            raise ValueError(f"{timestamp} is before the write frontier {self.upper}")
        if self.failing is None:
            raise ValueError("the relation is not in error")
        span = self._spans[-1]
        span.end, span.end_lower = timestamp, self.upper
        self.advance(timestamp + 1)

    def advance(self, upper: int) -> None:
        """Close every time before ``upper``. A frontier never goes back."""
        self.upper = max(self.upper, upper)

    # --- reading

    @property
    def failing(self) -> str | None:
        """The row error that stands now."""
        return self._spans[-1].message if self._spans and self._spans[-1].end is None else None

    def contents(self) -> Counter[Row]:
        """What the relation holds now."""
        return Counter(self._current)

    def snapshot(self, timestamp: int) -> Counter[Row]:
        """What the relation held at ``timestamp``, updates at that very time included.

        Raises:
            UnreadableError: the time is before ``since`` and nobody holds it.
        """
        self._readable(timestamp)
        if not self._times or timestamp >= self._times[-1]:
            return Counter(self._current)
        held = Counter(self._base)
        for update in self._entries[: bisect_right(self._times, timestamp)]:
            _add(held, update.row, update.diff)
        return held

    def updates(self, after: int, before: int) -> list[Update]:
        """Updates strictly between two times, in order of time.

        Raises:
            UnreadableError: ``after`` is before ``since`` and nobody holds it.
        """
        self._readable(after)
        return self._entries[bisect_right(self._times, after) : bisect_left(self._times, before)]

    def error_at(self, timestamp: int) -> str | None:
        """The row error that stood at ``timestamp``."""
        for span in self._spans:
            if span.start <= timestamp and (span.end is None or timestamp < span.end):
                return span.message
        return None

    def first_error(self, after: int, before: int) -> ErrorEvent | None:
        """The first coming or going of a row error strictly between two times."""
        return next((event for event in self._error_events() if after < event.timestamp < before), None)

    # --- compaction

    def compact(self, since: int) -> None:
        """Forget what came before ``since``. Never goes back, and never past the last closed time."""
        self.since = max(self.since, min(since, self.upper - 1))
        self._fold()

    def hold(self, holder: object, timestamp: int) -> None:
        """Keep everything after ``timestamp`` readable for this holder, whatever ``since`` becomes."""
        self._holds[holder] = timestamp

    def release(self, holder: object) -> None:
        self._holds.pop(holder, None)
        self._fold()

    def _fold(self) -> None:
        limit = self._oldest()
        keep = bisect_right(self._times, limit)
        if keep:
            for update in self._entries[:keep]:
                _add(self._base, update.row, update.diff)
            del self._entries[:keep], self._times[:keep]
        self._spans = [span for span in self._spans if span.end is None or span.end > limit]

    def _oldest(self) -> int:
        return min([self.since, *self._holds.values()])

    def _readable(self, timestamp: int) -> None:
        if timestamp < self._oldest():
            raise UnreadableError(f"{timestamp} is before {self._oldest()}")

    def _error_events(self) -> Iterator[ErrorEvent]:
        for span in self._spans:
            yield ErrorEvent(span.start, span.lower, span.message)
            if span.end is not None and span.end_lower is not None:
                yield ErrorEvent(span.end, span.end_lower, span.message)


def _add(counts: Counter[Row], row: Row, diff: int) -> None:
    count = counts[row] + diff
    if count:
        counts[row] = count
    else:
        del counts[row]
