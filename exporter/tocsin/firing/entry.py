"""One key of a firing set and its multiset of rows."""

from collections.abc import Iterator

from tocsin.firing.types import Phase
from tocsin.model import Row


class Entry:
    """One key: almost always one row with multiplicity one, so that case takes no dictionary."""

    __slots__ = ("count", "fingerprint", "marked_at", "others", "phase", "row", "started_at")

    def __init__(self, row: Row, count: int) -> None:
        self.row = row
        self.count = count
        self.others: dict[Row, int] | None = None
        self.phase = Phase.ABSENT
        self.started_at = 0
        self.marked_at = 0
        self.fingerprint = ""

    @property
    def in_view(self) -> bool:
        return self.phase is Phase.FIRING or self.phase is Phase.PENDING

    def add(self, row: Row, diff: int) -> None:
        if row == self.row:
            self.count += diff
            return
        others = self.others = self.others or {}
        others[row] = others.get(row, 0) + diff

    def counts(self) -> Iterator[tuple[int, Row]]:
        if self.count:
            yield self.count, self.row
        if self.others:
            for row, count in self.others.items():
                yield count, row

    def settle(self) -> bool:
        """Make `row` the row that stands for the key, and tell whether there is one. Of several rows the smallest text
        wins (NULL before all), so that every process picks the same."""
        if self.others is None:
            return self.count > 0
        counts = {row: count for count, row in self.counts() if count}
        present = [row for row, count in counts.items() if count > 0]
        if present:
            self.row = min(present, key=_order) if len(present) > 1 else present[0]
        self.count = counts.pop(self.row, 0)
        self.others = counts or None
        return bool(present)


def _order(row: Row) -> tuple[tuple[bool, str], ...]:
    return tuple((text is not None, text or "") for text in row)
