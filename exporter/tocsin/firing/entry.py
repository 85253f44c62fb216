"""One key of a firing set: the multiset of its rows, and its phase."""

from collections.abc import Iterator

from tocsin.firing.types import Phase
from tocsin.model import Row


class Entry:
    """The rows of one key. Almost always one row with multiplicity one, so that case takes no dictionary."""

    __slots__ = ("count", "fingerprint", "marked_at", "others", "phase", "row", "started_at")

    def __init__(self, row: Row, count: int) -> None:
        self.row = row
        """The row that represents the key."""
        self.count = count
        """The multiplicity of `row`."""
        self.others: dict[Row, int] | None = None
        """The multiplicities of other rows of this key, which a well-defined view does not have."""
        self.phase = Phase.ABSENT
        self.started_at = 0
        self.marked_at = 0
        self.fingerprint = ""
        """Computed when it is needed first."""

    @property
    def empty(self) -> bool:
        """Whether every multiplicity is zero."""
        return not self.count and self.others is None

    def add(self, row: Row, diff: int) -> None:
        """Change the multiplicity of one row."""
        if row == self.row:
            self.count += diff
            return
        others = self.others = self.others or {}
        others[row] = others.get(row, 0) + diff

    def counts(self) -> Iterator[tuple[int, Row]]:
        """(multiplicity, row) of every row."""
        if self.count:
            yield self.count, self.row
        if self.others:
            for row, count in self.others.items():
                yield count, row

    def settle(self) -> bool:
        """Choose the row that represents the key. Returns whether there is one, that is, a positive multiplicity.

        Of several rows the one with the smallest text is chosen (NULL first), so that every process chooses the same.
        """
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
