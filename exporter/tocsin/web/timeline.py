"""What the alerts and channels were like in the last day, minute by minute, for the page. In memory and of fixed size.

Pure: time is an argument, in wall-clock seconds. Samples that come in between are merged: a minute has its worst state
and its largest counts. What was before the start of the process comes from the ledger, as far as it keeps transitions:
which rows fired then. Whether Tocsin ran, and what was pending, is not known of that time.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import Any

from tocsin.model import Kind, Transition

STEP = 60
"""Seconds of a slot."""
SLOTS = 24 * 60
_POINTS = 120
"""The most points that a chart is drawn of."""


class Mark(IntEnum):
    """The state of a slot; of several the highest is shown."""

    UNKNOWN = 0
    QUIET = 1
    """Nothing fires; a channel delivers."""
    PENDING = 2
    """Rows are in the view, not yet for as long as `for`."""
    TROUBLE = 3
    """The rows are not known: the source is down or silent. A channel fails and tries again."""
    FIRING = 4
    """Rows fire, or events came. A channel is paused or refusing."""


_FIRING = frozenset({Kind.FIRED, Kind.UPDATED, Kind.REPEATED})
_ALERT = {"up": Mark.QUIET}
_CHANNEL = {"up": Mark.QUIET, "failing": Mark.TROUBLE, "removed": Mark.UNKNOWN}


class _Track:
    """The slots of one alert or channel, oldest first from `slot % SLOTS` on."""

    def __init__(self) -> None:
        self.marks = bytearray(SLOTS)
        self.firing = array("I", bytes(SLOTS * array("I").itemsize))
        self.pending = array("I", bytes(SLOTS * array("I").itemsize))
        self.delays = array("I", bytes(SLOTS * array("I").itemsize))
        self.seconds = array("d", bytes(SLOTS * array("d").itemsize))
        self.counted = 0
        """Events when they were last counted."""
        self.delayed: tuple[int, float] | None = None
        self.restored = False

    def clear(self, place: int) -> None:
        self.marks[place] = self.firing[place] = self.pending[place] = self.delays[place] = 0
        self.seconds[place] = 0.0


class Timelines:
    """The tracks of all alerts and channels."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.slot = int(now // STEP)
        self._first = self.slot
        self._alerts: dict[str, _Track] = {}
        self._channels: dict[str, _Track] = {}

    def sample(
        self,
        now: float,
        alerts: Iterable[Mapping[str, Any]],
        channels: Iterable[Mapping[str, Any]],
        delays: Mapping[str, tuple[int, float]],
    ) -> None:
        """Take the status of everything, as the API has it. `delays`: of deliveries, by channel: how many and their
        sum in seconds, since the start."""
        place = self._advance(now)
        known = {one["name"]: one for one in alerts}
        self._alerts = {name: self._alerts.get(name) or _Track() for name in known}
        for name, alert in known.items():
            _sample_alert(self._alerts[name], place, alert)
        states = {one["name"]: one for one in channels}
        self._channels = {name: self._channels.get(name) or _Track() for name in states}
        for name, channel in states.items():
            track = self._channels[name]
            _raise(track, place, _CHANNEL.get(channel["state"], Mark.FIRING))
            track.pending[place] = max(track.pending[place], channel["pending"])
            count, seconds = delays.get(name, (0, 0.0))
            before = track.delayed
            if before is not None and count >= before[0]:
                track.delays[place] += count - before[0]
                track.seconds[place] += seconds - before[1]
            track.delayed = count, seconds

    def changed(self, now: float, transitions: Sequence[Transition]) -> None:
        """Take transitions that were just committed: what fires for a moment only is in no sample."""
        place = self._advance(now)
        names = {one.alert for one in transitions}
        for name in names & self._alerts.keys():
            mine = transitions if len(names) == 1 else [one for one in transitions if one.alert == name]
            track = self._alerts[name]
            track.delays[place] += len(mine)
            track.seconds[place] += max(0.0, len(mine) * now - sum(one.at for one in mine) / 1000)
            if any(one.kind in _FIRING for one in mine):
                _raise(track, place, Mark.FIRING)
                track.firing[place] = max(track.firing[place], 1)

    def lacking(self) -> list[str]:
        """The alerts whose time before the start is not filled."""
        return [name for name, track in self._alerts.items() if not track.restored]

    def restore(self, alert: str, spans: Iterable[tuple[float, float]]) -> None:
        """Fill the time before the start of an alert with the spans in which rows fired, in seconds."""
        track = self._alerts.get(alert)
        if track is None or track.restored:
            return
        track.restored = True
        oldest, until = max(self._first, self.slot) - SLOTS + 1, self._first
        changes = [0] * (SLOTS + 1)  # of the number that fires, by slot since the oldest
        for start, end in spans:
            first, last = max(oldest, int(start // STEP)), min(until - 1, int(end // STEP))
            if first <= last:
                changes[first - oldest] += 1
                changes[last + 1 - oldest] -= 1
        for slot, firing in zip(range(oldest, until), accumulate(changes), strict=False):
            if firing:
                track.marks[slot % SLOTS] = Mark.FIRING
                track.firing[slot % SLOTS] = firing

    def shown(self, now: float, hours: int) -> dict[str, Any]:
        """Return the last hours as JSON: for each alert and channel the marks as a text of digits, and the counts where
        there are any. `delay`: mean seconds, null where nothing was sent or changed."""
        self._advance(now)
        width = max(1, hours * 3600 // STEP // _POINTS)  # slots of a point
        last = self.slot // width
        count = hours * 3600 // STEP // width
        begins = range((last - count + 1) * width, last * width + 1, width)
        points = [range(begin, min(begin + width, self.slot + 1)) for begin in begins]
        return {
            "from": begins.start * STEP,
            "step": width * STEP,
            "began": self.began,
            "alerts": {name: self._track(track, points) for name, track in self._alerts.items()},
            "channels": {name: self._track(track, points) for name, track in self._channels.items()},
        }

    def _track(self, track: _Track, points: Sequence[range]) -> dict[str, Any]:
        places = [[slot % SLOTS for slot in point if slot > self.slot - SLOTS] for point in points]
        series: dict[str, list[float | None]] = {
            "firing": [_most(track, track.firing, some) for some in places],
            "pending": [_most(track, track.pending, some) for some in places],
            "delay": [_mean(track, some) for some in places],
        }
        marks = "".join(str(int(max((track.marks[one] for one in some), default=0))) for some in places)
        return {"marks": marks, **{name: values for name, values in series.items() if any(values)}}

    def _advance(self, now: float) -> int:
        """Go on to the slot of now, and return its place. A clock that is set back stays in its slot."""
        slot = int(now // STEP)
        for passed in range(max(self.slot, slot - SLOTS) + 1, slot + 1):
            for track in (*self._alerts.values(), *self._channels.values()):
                track.clear(passed % SLOTS)
        self.slot = max(self.slot, slot)
        return self.slot % SLOTS


def _sample_alert(track: _Track, place: int, alert: Mapping[str, Any]) -> None:
    mark = _ALERT.get(alert["state"], Mark.TROUBLE)
    if alert["events"] is not None:
        came = max(0, alert["events"] - track.counted)
        track.counted = alert["events"]
        track.firing[place] += came
        _raise(track, place, Mark.FIRING if came else mark)
        return
    if mark is Mark.QUIET:
        mark = Mark.FIRING if alert["firing"] else Mark.PENDING if alert["pending"] else mark
    _raise(track, place, mark)
    track.firing[place] = max(track.firing[place], alert["firing"])
    track.pending[place] = max(track.pending[place], alert["pending"])


def _raise(track: _Track, place: int, mark: Mark) -> None:
    track.marks[place] = max(track.marks[place], mark)


def _most(track: _Track, counts: Sequence[int], places: Sequence[int]) -> int | None:
    return max((counts[place] for place in places if track.marks[place]), default=None)


def _mean(track: _Track, places: Sequence[int]) -> float | None:
    count = sum(track.delays[place] for place in places)
    return round(sum(track.seconds[place] for place in places) / count, 4) if count else None
