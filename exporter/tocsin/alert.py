"""An alert: one rule of the configuration, with its defaults resolved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tocsin.sources.base import Subject

OnDuplicate = Literal["max", "sum", "min", "first"]
Initial = Literal["notify", "silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert with its defaults resolved. Durations are seconds.

    `key`: the columns that identify a firing, none for the whole row. `labels`: label name -> column. `metric` is empty
    without gauges. `notify`: names of channels. `events`: the source gives events, so that there is no firing state.
    `levels`: those of `notify` that are told what fires now, not what changed.
    """

    name: str
    source: str
    subject: Subject
    key: tuple[str, ...]
    labels: Mapping[str, str]
    static_labels: Mapping[str, str]
    value: str | None
    metric: str
    help: str
    on_duplicate: OnDuplicate
    max_series: int
    linger: float
    hold: float
    keep_firing_for: float
    repeat_interval: float
    ignore: tuple[str, ...]
    initial: Initial
    annotations: Mapping[str, str]
    gauges: bool
    notify: tuple[str, ...]
    events: bool = False
    dedupe_by: tuple[str, ...] = ()
    dedupe_window: float = 0.0
    levels: frozenset[str] = frozenset()

    @property
    def takes(self) -> str:
        """Of an alert on events: the name of those that it takes from its source."""
        return self.subject.event or self.subject.topic or self.name

    @property
    def edges(self) -> tuple[str, ...]:
        """The channels that are told each transition; the others in `notify` are told what fires."""
        return tuple(name for name in self.notify if name not in self.levels)
