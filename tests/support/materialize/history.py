"""What a relation held at every time that is still readable. Pure: no clock, no I/O.

Times are source timestamps (milliseconds, 0 to 2**64 - 1). `since` is the oldest readable time, `upper` the write
frontier: everything strictly before it is known. A row is the tuple of its text fields, None for NULL.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

Row = tuple[str | None, ...]

END_OF_TIME = 2**64 - 1
"""The timestamp of a constant view: nothing can follow it."""


@dataclass(frozen=True, slots=True)
class Update:
    """`diff` copies of `row` came (or went, if negative) at `timestamp`."""

    timestamp: int
    diff: int
    row: Row


@dataclass(frozen=True, slots=True)
class RowError:
    """A row error came (`began`) or went at `timestamp`. A subscription that meets either one ends.

    `lower`: the write frontier before it; a subscription reports progress up to here and no further.
    """

    timestamp: int
    lower: int
    message: str
    began: bool


class History:
    """The updates and row errors of one relation, in order of time."""

    def __init__(self, *, since: int = 0) -> None:
        self.since = since
        self.upper = since
        self._held: Counter[Row] = Counter()
        self._updates: list[Update] = []
        self._times: list[int] = []
        self._errors: list[RowError] = []

    def append(self, timestamp: int, changes: Iterable[tuple[int, Row]]) -> None:
        """Write changes at a timestamp and close it. Changes of one row are added up.

        Raises ValueError if the timestamp is closed, or more copies of a row would go than there are.
        """
        self._open(timestamp)
        diffs: Counter[Row] = Counter()
        for diff, row in changes:
            diffs[row] += diff
        for row, diff in diffs.items():
            if self._held[row] + diff < 0:
                raise ValueError(f"{-diff} copies of {row} cannot go: there are {self._held[row]}")
        for row, diff in diffs.items():
            if diff:
                self._updates.append(Update(timestamp, diff, row))
                self._times.append(timestamp)
                self._held[row] += diff
                if not self._held[row]:
                    del self._held[row]
        self.advance(timestamp + 1)

    def fail(self, timestamp: int, message: str) -> None:
        """Put a row error into the relation at a timestamp that is not closed."""
        self._open(timestamp)
        self._errors.append(RowError(timestamp, self.upper, message, began=True))
        self.advance(timestamp + 1)

    def heal(self, timestamp: int) -> None:
        """Take the row error back at a timestamp that is not closed."""
        self._open(timestamp)
        self._errors.append(RowError(timestamp, self.upper, self._errors[-1].message, began=False))
        self.advance(timestamp + 1)

    def advance(self, upper: int) -> None:
        """Close every time before `upper`. A frontier never goes back."""
        self.upper = max(self.upper, upper)

    def compact(self, since: int) -> None:
        """Make every time before `since` unreadable, but never the last closed time.

        The updates stay, as they do on a server while a running subscription has still to read them.
        """
        self.since = max(self.since, min(since, self.upper - 1))

    def snapshot(self, timestamp: int = END_OF_TIME) -> Counter[Row]:
        """What the relation held at `timestamp`, updates at that very time included."""
        if not self._times or timestamp >= self._times[-1]:
            return Counter(self._held)
        held: Counter[Row] = Counter()
        for update in self._updates[: bisect_right(self._times, timestamp)]:
            held[update.row] += update.diff
        return +held

    def updates(self, after: int, before: int) -> list[Update]:
        """Updates strictly between two times, in order of time."""
        return self._updates[bisect_right(self._times, after) : bisect_left(self._times, before)]

    def error_at(self, timestamp: int = END_OF_TIME) -> RowError | None:
        """The row error that the relation had at `timestamp`."""
        met = [error for error in self._errors if error.timestamp <= timestamp]
        return met[-1] if met and met[-1].began else None

    def first_error(self, after: int, before: int) -> RowError | None:
        """The first row error that came or went strictly between two times."""
        return next((error for error in self._errors if after < error.timestamp < before), None)

    def _open(self, timestamp: int) -> None:
        if timestamp < self.upper:
            raise ValueError(f"{timestamp} is before the write frontier {self.upper}")
