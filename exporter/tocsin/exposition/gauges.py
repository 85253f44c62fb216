"""The firing rows of one alert as the series of a gauge.

The work is split by where it may run: `render` makes text of rows and is pure, so a worker thread can do it;
`install` puts the text in place on the event loop, about a microsecond a row. A scrape then finds finished bytes.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from tocsin.exposition import text
from tocsin.exposition.lines import Block, Lines
from tocsin.firing import Key
from tocsin.model import OnDuplicate, Row
from tocsin.values import number


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeSpec:
    """How the rows of one alert become series.

    `labels`: (label name, column index). `static_labels`: (label name, value), the same on every series. `value`: the
    index of the value column; None: every row is worth 1. `on_duplicate`: what the value is when several rows have
    the same labels; `first` is the row that was there first. `max_series`: at most so many are served, namely those
    whose labels sort first (by the bytes of the label text), so that the same rows always give the same page.
    `linger`: for so many seconds after its last row went, a series is served as 0; with 0 it is withdrawn at once.
    """

    alert: str
    metric: str
    help: str = "Rows that fire now."
    labels: tuple[tuple[str, int], ...] = ()
    static_labels: tuple[tuple[str, str], ...] = ()
    value: int | None = None
    on_duplicate: OnDuplicate = "sum"
    max_series: int = 10_000
    linger: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What `Gauges.render` made of some rows: text per key (None: the row went), or everything there is, ready to
    take over."""

    changes: Sequence[tuple[Key, tuple[bytes, bytes] | None]] = ()
    everything: "_Series | None" = None


class Gauges:
    """The series of one alert.

    `withdrawn`: the source is stale, so nothing is served until it is set back; the state is kept. `duplicates`
    counts the rows that joined a label set which another row already had.
    """

    def __init__(self, spec: GaugeSpec) -> None:
        self.spec = spec
        self.withdrawn = False
        self.duplicates = 0
        self._series = _Series(spec)
        self._static = text.labels(spec.static_labels)
        self._values = _picker([index for _, index in spec.labels])
        places = [*(label.replace("%", "%%") for label in self._static), *(f'{name}="%s"' for name, _ in spec.labels)]
        self._plain = f"{spec.metric}{{{','.join(places)}}} " if places else f"{spec.metric} "

    @property
    def series(self) -> int:
        """How many series a scrape serves now."""
        return 0 if self.withdrawn else min(len(self._series.lines), self.spec.max_series)

    @property
    def dropped(self) -> int:
        """How many series there are beyond `max_series`."""
        return max(0, len(self._series.lines) - self.spec.max_series)

    def render(self, changes: Mapping[Key, Row | None], *, replace: bool = False) -> Rendered:
        """Make text of rows. Touches nothing that is shared, so any thread may call it.

        With `replace`, `changes` is all there is: what is installed afterwards is these rows and no others.
        """
        rendered = (
            (key, None if row is None else (self._prefix(row), self._value(row))) for key, row in changes.items()
        )
        if not replace:
            return Rendered(changes=list(rendered))
        everything = _Series(self.spec)
        everything.apply(rendered, now=0.0)
        return Rendered(everything=everything)

    def install(self, rendered: Rendered, now: float) -> None:
        """Put rendered rows in place. `now`: seconds, by the clock that `settle` is given."""
        if rendered.everything is None:
            self._series.apply(rendered.changes, now)
        else:
            rendered.everything.inherit(self._series, now)
            self._series = rendered.everything
        self.duplicates += self._series.joined
        self._series.joined = 0

    def clear(self) -> None:
        """Forget all series at once, without lingering."""
        self._series = _Series(self.spec)

    def settle(self, now: float) -> None:
        """Bring the series up to `now`: merge what shares its labels, withdraw what has lingered long enough."""
        self._series.settle(now)

    def blocks(self) -> list[Block]:
        """What is to be served, as it was settled last: one consistent state, whatever is installed afterwards."""
        return [] if self.withdrawn else self._series.lines.take(self.spec.max_series)

    def _prefix(self, row: Row) -> bytes:
        values = self._values(row)
        if None in values or "" in values or text.needs_escape("".join(values)):  # type: ignore[arg-type]
            return self._careful_prefix(values)
        return text.encode(self._plain % values)

    def _careful_prefix(self, values: tuple[str | None, ...]) -> bytes:
        """For rows with labels that are absent or need escaping; the others take a template."""
        names = (name for name, _ in self.spec.labels)
        labels = self._static + text.labels(zip(names, values, strict=True))
        return text.encode(f"{self.spec.metric}{{{','.join(labels)}}} " if labels else f"{self.spec.metric} ")

    def _value(self, row: Row) -> bytes:
        return text.ONE if self.spec.value is None else text.value(number(row[self.spec.value]))


def _picker(indexes: Sequence[int]) -> Callable[[Row], tuple[str | None, ...]]:
    """What takes these fields out of a row, always as a tuple."""
    if len(indexes) > 1:
        return itemgetter(*indexes)
    if indexes:
        (only,) = indexes
        return lambda row: (row[only],)
    return lambda _: ()


_EARLIER = object()
"""Stands for the key that had a label set alone before a second one joined: it is not worth the memory to remember it
until then."""


@dataclass(slots=True, kw_only=True)
class _Group:
    """The values of several keys that share a label set, in order of arrival."""

    values: dict[object, float] = field(default_factory=dict)

    def put(self, key: Key, value: float) -> None:
        self.values[key if key in self.values else _EARLIER] = value

    def drop(self, key: Key) -> None:
        del self.values[key if key in self.values else _EARLIER]


class _Series:
    """Which key has which label set, and the lines that come of it.

    Values of shared label sets are merged when they are asked for (`settle`), so that a label set with very many rows
    costs nothing per change.
    """

    __slots__ = ("_groups", "_keys", "_linger", "_merge", "_unmerged", "joined", "lines", "lingering")

    def __init__(self, spec: GaugeSpec) -> None:
        self.lines = Lines()
        self.joined = 0
        self._keys: dict[Key, bytes] = {}
        self._groups: dict[bytes, _Group] = {}
        self._unmerged: set[bytes] = set()
        self._merge = _MERGES[spec.on_duplicate]
        self._linger = spec.linger
        self.lingering: dict[bytes, float] = {}

    def apply(self, changes: Iterable[tuple[Key, tuple[bytes, bytes] | None]], now: float) -> None:
        keys, groups, lines = self._keys, self._groups, self.lines
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
                groups[old].put(key, float(value))
                self._unmerged.add(old)
            else:
                lines.set(old, value)

    def inherit(self, former: "_Series", now: float) -> None:
        """Take over what still lingers, and let linger what was served before and is no more."""
        if not self._linger:
            return
        for prefix in set(former.lines.prefixes()).difference(self.lines.prefixes()):
            self.lingering[prefix] = former.lingering.get(prefix, now + self._linger)
            self.lines.set(prefix, text.ZERO)
        self.lingering = dict(sorted(self.lingering.items(), key=lambda item: item[1]))

    def settle(self, now: float) -> None:
        """Bring the lines up to date: merge shared label sets, and withdraw what has lingered long enough."""
        for prefix in self._unmerged:
            self.lines.set(prefix, text.value(self._merge(list(self._groups[prefix].values.values()))))
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
        group = self._groups.get(prefix)
        if group is None:
            group = self._groups[prefix] = _Group(values={_EARLIER: float(present)})
        group.values[key] = float(value)
        self.joined += 1
        self._unmerged.add(prefix)

    def _leave(self, key: Key, prefix: bytes, now: float) -> None:
        group = self._groups.get(prefix)
        if group is not None:
            group.drop(key)
            if len(group.values) > 1:
                self._unmerged.add(prefix)
                return
            (value,) = group.values.values()
            del self._groups[prefix]
            self._unmerged.discard(prefix)
            self.lines.set(prefix, text.value(value))
        elif self._linger:
            self.lingering[prefix] = now + self._linger
            self.lines.set(prefix, text.ZERO)
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


def _first(values: Sequence[float]) -> float:
    return values[0]


_MERGES: dict[OnDuplicate, Callable[[Sequence[float]], float]] = {
    "sum": _sum,
    "max": _max,
    "min": _min,
    "first": _first,
}
