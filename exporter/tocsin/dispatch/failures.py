"""The latest failures of a channel, for people."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

_KEPT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Attempts that failed alike, one after another."""

    reason: str
    detail: str
    at: float
    """Wall-clock seconds of the latest one."""
    count: int = 1
    alert: str = ""
    notification: str = ""
    """The id of the latest one; empty where there is none, as of a level output."""


class Failures:
    """The latest ones since the start, those that are alike as one."""

    def __init__(self) -> None:
        self._latest: deque[Failure] = deque(maxlen=_KEPT)

    def __iter__(self) -> Iterator[Failure]:
        """Newest first."""
        return reversed(self._latest)

    def add(self, failure: Failure) -> None:
        """Note one failure."""
        same = [one for one in self._latest if (one.reason, one.detail) == (failure.reason, failure.detail)]
        for one in same:
            self._latest.remove(one)
        self._latest.append(replace(failure, count=1 + sum(one.count for one in same)))
