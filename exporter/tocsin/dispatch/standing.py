"""What a level output has to tell, and to whom.

Pure: time is an argument. `now` is a monotonic clock in seconds, by which everything is due; `wall` is the wall clock
in seconds, which may jump and is only told.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from tocsin.channels.base import Standing


@dataclass(frozen=True, slots=True)
class _Dated:
    """`at`: when it ended, or when it was told, by the monotonic clock."""

    standing: Standing
    at: float


class Picture:
    """What stands as the last look saw it: what fires, and what has ended within `retention` seconds.

    Of an alert that nothing is known of (it starts, or its source has been silent for too long), what stood stays out
    of sight: it is told neither again nor as ended, and the receiver lets it expire.

    At most `limit` firings are told; what was told before comes first. `dropped`: how many are not.
    """

    def __init__(self, *, retention: float, limit: int) -> None:
        self.limit = limit
        self.dropped = 0
        self.unknown: frozenset[str] = frozenset()
        self._retention = retention
        self._claims: dict[str, Mapping[str, Standing]] = {}
        self._firing: dict[str, Standing] = {}
        self._hidden: dict[str, Standing] = {}
        self._ended: dict[str, _Dated] = {}

    def look(self, seen: Mapping[str, Iterable[Standing] | None], now: float, wall: float) -> None:
        """Take in what fires now, by alert; None: nothing is known of it. An alert that is not there has ended."""
        self.unknown = frozenset(alert for alert, standings in seen.items() if standings is None)
        self._claims = {
            alert: self._claims.get(alert, {}) if standings is None else _by_identity(standings)
            for alert, standings in seen.items()
        }
        before = {**self._hidden, **self._firing}
        known = (
            claim for alert, claims in self._claims.items() if alert not in self.unknown for claim in claims.values()
        )
        firing = _by_identity(known)
        self._firing = self._limited(firing, before)
        hidden = {identity for alert in self.unknown for identity in self._claims[alert]}
        self._hidden = {
            identity: standing for identity, standing in before.items() if identity in hidden and identity not in firing
        }
        for identity, standing in before.items():
            if identity not in firing and identity not in hidden:
                self._ended[identity] = _Dated(replace(standing, ended_at=max(wall, standing.started_at)), now)
        self._ended = {
            identity: end
            for identity, end in self._ended.items()
            if identity not in firing and now - end.at <= self._retention
        }

    def __iter__(self) -> Iterator[Standing]:
        """What is to be told: what has ended, then what fires."""
        yield from (end.standing for end in self._ended.values())
        yield from self._firing.values()

    def __contains__(self, identity: str) -> bool:
        """Whether it stands, out of sight or not."""
        return identity in self._firing or identity in self._ended or identity in self._hidden

    def _limited(self, firing: dict[str, Standing], before: Mapping[str, Standing]) -> dict[str, Standing]:
        self.dropped = max(0, len(firing) - self.limit)
        if not self.dropped:
            return firing
        ordered = sorted(firing, key=lambda identity: identity not in before)
        return {identity: firing[identity] for identity in ordered[: self.limit]}


class Told:
    """What one receiver has been told, and when."""

    def __init__(self, *, resend: float) -> None:
        self._resend = resend
        self._tellings: dict[str, _Dated] = {}

    def due(self, picture: Picture, now: float) -> list[Standing]:
        """What to tell now: what is new or different; and once anything is due again, whatever was not told just now,
        so that one request takes many."""
        self._tellings = {identity: told for identity, told in self._tellings.items() if identity in picture}
        fresh, again, overdue = [], [], False
        for standing in picture:
            told = self._tellings.get(standing.identity)
            if told is None or _differ(told.standing, standing):
                fresh.append(standing)
            elif now - told.at >= self._resend / 2:
                again.append(standing)
                overdue = overdue or now - told.at >= self._resend
        return fresh + again if overdue else fresh

    def next_due(self, picture: Picture) -> float | None:
        """When the next is to be told again, if nothing changes; None if nothing is to be told."""
        told = (self._tellings.get(standing.identity) for standing in picture)
        return min((one.at + self._resend for one in told if one is not None), default=None)

    def waiting(self, picture: Picture) -> int:
        """How many the receiver does not know of, or not as they are now."""
        return sum(
            (told := self._tellings.get(standing.identity)) is None or _differ(told.standing, standing)
            for standing in picture
        )

    def tell(self, standing: Standing, now: float) -> None:
        """It has been told."""
        self._tellings[standing.identity] = _Dated(standing, now)

    def forget(self) -> None:
        """Everything has to be told again: the receiver may have restarted."""
        self._tellings.clear()


def _by_identity(standings: Iterable[Standing]) -> dict[str, Standing]:
    """Of several firings that are one thing at the receiver, the one that began first."""
    found: dict[str, Standing] = {}
    for standing in standings:
        known = found.get(standing.identity)
        if known is None or standing.started_at < known.started_at:
            found[standing.identity] = standing
    return found


def _differ(one: Standing, other: Standing) -> bool:
    # What did not change is mostly the same object, which takes a tenth of the time to see.
    return one is not other and one != other
