"""Who reads /metrics, for `tocsin doctor` and the page."""

from dataclasses import dataclass, replace
from typing import Any

from tocsin.web.views import wall_time

_MOST = 20
_LONGEST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    count: int
    first: float
    last: float


class Readers:
    """The clients that have read /metrics since the start, by address and user agent: the latest 20."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Reader] = {}

    def add(self, address: str, agent: str, now: float) -> None:
        """Count a reading. `now`: wall-clock seconds."""
        key = address, agent[:_LONGEST]
        was = self._known.pop(key, _Reader(count=0, first=now, last=now))
        self._known[key] = replace(was, count=was.count + 1, last=now)
        if len(self._known) > _MOST:
            del self._known[next(iter(self._known))]

    def shown(self) -> list[dict[str, Any]]:
        """Return them as JSON, the latest first."""
        return [
            {
                "address": address,
                "agent": agent,
                "count": one.count,
                "first": wall_time(one.first),
                "last": wall_time(one.last),
            }
            for (address, agent), one in reversed(self._known.items())
        ]
