"""The firing rows of one alert as the series of a gauge.

The work is split by where it may run:

1. `update` makes text of the changed rows. It is pure, so a worker thread can do it.
2. `install` puts the text in place on the event loop, about a microsecond a row.
3. A scrape calls `advance`, which merges rows with the same labels, then `blocks`, which finds finished bytes.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from tocsin.exposition.lines import ONE, ZERO, Block, Lines, encode, label_texts, needs_escape, sample_value
from tocsin.firing import FiringSet, Key
from tocsin.model import OnDuplicate, Row
from tocsin.values import number

_LARGE_CHANGE = 10_000
"""Changed rows from which all rows are rendered: installing them line by line would hold the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeSpec:
    """How the rows of one alert become series."""

    alert: str
    metric: str
    help: str = "Rows that fire now."
    labels: tuple[tuple[str, int], ...] = ()
    """(label name, column index)."""
    static_labels: tuple[tuple[str, str], ...] = ()
    """(label name, value), the same on every series."""
    value: int | None = None
    """Index of the value column; None: every row has the value 1."""
    on_duplicate: OnDuplicate = "sum"
    """The value when several rows have the same labels; `first` is the row that was there first."""
    max_series: int = 10_000
    """Only the first so many series are served, sorted by label text, so that the same rows give the same page."""
    linger: float = 0.0
    """Seconds for which a series is served as 0 after its last row has left; 0: it is removed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The text of some rows: changes per key (None: the row left), or all series of the gauge."""

    changes: Sequence[tuple[Key, tuple[bytes, bytes] | None]] = ()
    everything: "_Series | None" = None
    shows: FiringSet | None = None
    """The firing set that the gauge shows once this is installed."""


class Gauges:
    """The series of one alert."""

    def __init__(self, spec: GaugeSpec, *, fresh: Callable[[], bool] = lambda: True) -> None:
        """`fresh`: whether the rows are current; while they are not, no series is served."""
        self.spec = spec
        self.duplicates = 0
        """Rows that joined a label set which another row already had."""
        self._fresh = fresh
        self._series = _Series(spec)
        self._shows: FiringSet | None = None
        self._static = label_texts(spec.static_labels)
        self._values = _picker([index for _, index in spec.labels])
        places = [*(label.replace("%", "%%") for label in self._static), *(f'{name}="%s"' for name, _ in spec.labels)]
        self._plain = f"{spec.metric}{{{','.join(places)}}} " if places else f"{spec.metric} "

    @property
    def series(self) -> int:
        """How many series a scrape serves now."""
        return min(len(self._series.lines), self.spec.max_series) if self._fresh() else 0

    @property
    def dropped(self) -> int:
        """How many series there are beyond `max_series`."""
        return max(0, len(self._series.lines) - self.spec.max_series)

    def update(self, firing: FiringSet, changes: Mapping[Key, Row | None]) -> Rendered:
        """Render what changed in a firing set; all of it when the gauge shows another one, or when much changed.

        Touches nothing that is shared, so any thread may call it.
        """
        if self._shows is firing and len(changes) < _LARGE_CHANGE:
            return self.render(changes, shows=firing)
        return self.render(firing.rows(), replace=True, shows=firing)

    def render(
        self, changes: Mapping[Key, Row | None], *, replace: bool = False, shows: FiringSet | None = None
    ) -> Rendered:
        """Make text of rows. With `replace`, these are all rows that there are."""
        rendered = (
            (key, None if row is None else (self._prefix(row), self._value(row))) for key, row in changes.items()
        )
        if not replace:
            return Rendered(changes=list(rendered), shows=shows)
        everything = _Series(self.spec)
        everything.apply(rendered, now=0.0)
        return Rendered(everything=everything, shows=shows)

    def install(self, rendered: Rendered, now: float) -> None:
        """Put rendered rows in place. `now`: seconds, by the clock that `advance` is called with."""
        if rendered.everything is None:
            self._series.apply(rendered.changes, now)
        else:
            rendered.everything.inherit(self._series, now)
            self._series = rendered.everything
        self._shows = rendered.shows
        self.duplicates += self._series.joined
        self._series.joined = 0

    def advance(self, now: float) -> None:
        """Bring the series up to `now`: merge those that share their labels, remove those that lingered long enough."""
        self._series.advance(now)

    def blocks(self) -> list[Block]:
        """The lines to serve, as of the last `advance`: one consistent state, whatever is installed afterwards."""
        return self._series.lines.take(self.spec.max_series) if self._fresh() else []

    def _prefix(self, row: Row) -> bytes:
        values = self._values(row)
        if None in values or "" in values or needs_escape("".join(values)):  # type: ignore[arg-type]
            return self._careful_prefix(values)
        return encode(self._plain % values)

    def _careful_prefix(self, values: tuple[str | None, ...]) -> bytes:
        """For rows with labels that are absent or need escaping; the others use a template."""
        names = (name for name, _ in self.spec.labels)
        labels = self._static + label_texts(zip(names, values, strict=True))
        return encode(f"{self.spec.metric}{{{','.join(labels)}}} " if labels else f"{self.spec.metric} ")

    def _value(self, row: Row) -> bytes:
        return ONE if self.spec.value is None else sample_value(number(row[self.spec.value]))


def _picker(indexes: Sequence[int]) -> Callable[[Row], tuple[str | None, ...]]:
    """A function that picks these fields of a row, always as a tuple."""
    if len(indexes) > 1:
        return itemgetter(*indexes)
    if indexes:
        (only,) = indexes
        return lambda row: (row[only],)
    return lambda _: ()


_EARLIER = object()
"""The key, in a group, of the row that had the label set first.

To save memory, a label set with a single row does not keep the key of that row. With rows A and B of one label set:
A alone: no group. B joins: {_EARLIER: a, B: b}. A leaves: _EARLIER is removed, and B alone needs no group.
"""


class _Series:
    """The label set of each key, and the resulting lines.

    Values of a shared label set are merged when a scrape asks for them (`advance`), so that a label set with very many
    rows costs nothing per change.
    """

    __slots__ = ("_keys", "_linger", "_merge", "_unmerged", "groups", "joined", "lines", "lingering")

    def __init__(self, spec: GaugeSpec) -> None:
        self.lines = Lines()
        self.joined = 0
        """Rows that joined a label set which another row already had, since the last `install`."""
        self.lingering: dict[bytes, float] = {}
        """Prefix -> when it is removed, soonest first."""
        self._keys: dict[Key, bytes] = {}
        self.groups: dict[bytes, dict[object, float]] = {}
        """Prefix -> the values of the several keys that share it, in order of arrival. See `_EARLIER`."""
        self._unmerged: set[bytes] = set()
        """Prefixes of groups that changed since the last `advance`."""
        self._merge = _MERGES[spec.on_duplicate]
        self._linger = spec.linger

    def apply(self, changes: Iterable[tuple[Key, tuple[bytes, bytes] | None]], now: float) -> None:
        """Add, change and remove rows: (key, its prefix and value; None: the row left)."""
        keys, groups, lines = self._keys, self.groups, self.lines
        for key, change in changes:
            old = keys.get(key)
            if change is None:
                if old is not None:
                    del keys[key]
                    self._leave(key, old, now)
                continue
            prefix, value = change
            if old is None:
                keys[key] = prefix
                self._join(key, prefix, value)
            elif old != prefix:
                self._leave(key, old, now)
                keys[key] = prefix
                self._join(key, prefix, value)
            elif old in groups:
                group = groups[old]
                # A key in `keys` whose group lacks it is the one that had the label set first.
                group[key if key in group else _EARLIER] = float(value)
                self._unmerged.add(old)
            else:
                lines.set(old, value)

    def inherit(self, former: "_Series", now: float) -> None:
        """Take the place of the series before these: keep what lingers there, and let linger what is not here."""
        # Rows that shared their labels there are counted already. A label set without a group has one row.
        self.joined = 0
        for prefix, group in self.groups.items():
            before = len(former.groups[prefix]) if prefix in former.groups else 1
            self.joined += max(0, len(group) - before)
        if not self._linger:
            return
        for prefix in set(former.lines.prefixes()).difference(self.lines.prefixes()):
            self.lingering[prefix] = former.lingering.get(prefix, now + self._linger)
            self.lines.set(prefix, ZERO)
        self.lingering = dict(sorted(self.lingering.items(), key=lambda item: item[1]))

    def advance(self, now: float) -> None:
        """Merge shared label sets, and remove what lingered long enough."""
        for prefix in self._unmerged:
            self.lines.set(prefix, sample_value(self._merge(list(self.groups[prefix].values()))))
        self._unmerged.clear()
        while self.lingering:
            prefix, due = next(iter(self.lingering.items()))
            if due > now:
                break
            del self.lingering[prefix]
            self.lines.discard(prefix)

    def _join(self, key: Key, prefix: bytes, value: bytes) -> None:
        present = self.lines.get(prefix)
        if present is None or (self.lingering and self.lingering.pop(prefix, None) is not None):
            self.lines.set(prefix, value)
            return
        group = self.groups.setdefault(prefix, {})
        if not group:
            group[_EARLIER] = float(present)
        group[key] = float(value)
        self.joined += 1
        self._unmerged.add(prefix)

    def _leave(self, key: Key, prefix: bytes, now: float) -> None:
        group = self.groups.get(prefix)
        if group is not None:
            del group[key if key in group else _EARLIER]
            if len(group) > 1:
                self._unmerged.add(prefix)
                return
            (value,) = group.values()
            del self.groups[prefix]
            self._unmerged.discard(prefix)
            self.lines.set(prefix, sample_value(value))
        elif self._linger:
            self.lingering[prefix] = now + self._linger
            self.lines.set(prefix, ZERO)
        else:
            self.lines.discard(prefix)


def _sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        # Infinities of both signs, or a sum beyond the largest float: the plain sum has the right NaN or infinity.
        return sum(values)


def _max(values: Sequence[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _min(values: Sequence[float]) -> float:
    return min((value for value in values if not math.isnan(value)), default=math.nan)


_MERGES: dict[OnDuplicate, Callable[[Sequence[float]], float]] = {
    "sum": _sum,
    "max": _max,
    "min": _min,
    "first": itemgetter(0),
}
