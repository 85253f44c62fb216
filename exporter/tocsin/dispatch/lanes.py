"""What waits for one channel, in memory: a lane per fingerprint or group, each with its notifications in order. No I/O,
no clock.

Only the head of a lane may be sent; a lane is *ready*, *waiting* for a time, or *busy* (its head is being sent or
settled).
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from tocsin.model import Notification

_ASIDE = "aside "
"""What the name of a lane of one notification begins with: neither a fingerprint nor a group does."""


class Lanes:
    """The queue of a channel. Fingerprints, and the names of lanes, are unique across alerts."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Notification]] = {}
        self._ready: deque[str] = deque()
        self._waiting: list[tuple[float, int, str]] = []
        self._busy: set[str] = set()
        self._known: set[int] = set()
        self._number = 0

    def __len__(self) -> int:
        """Notifications in memory, those being sent included."""
        return len(self._known)

    @property
    def ready(self) -> int:
        """Lanes whose head may be sent now."""
        return len(self._ready)

    @property
    def busy(self) -> int:
        """Lanes whose head is on its way."""
        return len(self._busy)

    @property
    def waits(self) -> bool:
        """Whether the head of any lane is neither on its way nor settled."""
        return bool(self._ready or self._waiting)

    def add(self, notifications: Iterable[Notification]) -> None:
        """Append in order; what is already here is passed over."""
        for notification in notifications:
            if notification.seq in self._known:
                continue
            self._known.add(notification.seq)
            name = _lane(notification)
            lane = self._lanes.get(name)
            if lane is None:
                self._lanes[name] = deque((notification,))
                self._queue(name, notification)
            else:
                lane.append(notification)

    def promote(self, now: float) -> None:
        """Make ready what has waited long enough."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            _, _, name = heapq.heappop(waiting)
            self._ready.append(name)

    def next_due(self) -> float | None:
        """When the first waiting lane becomes ready."""
        return self._waiting[0][0] if self._waiting else None

    def take(self, count: int) -> list[Notification]:
        """The heads of up to `count` ready lanes, which are busy from now on."""
        taken: list[Notification] = []
        for _ in range(min(count, len(self._ready))):
            name = self._ready.popleft()
            self._busy.add(name)
            taken.append(self._lanes[name][0])
        return taken

    def done(self, notification: Notification) -> None:
        """The head of a busy lane is settled for good: the next one of the episode may go."""
        name = _lane(notification)
        self._busy.discard(name)
        self._known.discard(notification.seq)
        lane = self._lanes[name]
        lane.popleft()
        if lane:
            self._queue(name, lane[0])
        else:
            del self._lanes[name]

    def again(self, notification: Notification, *, attempts: int, not_before: float, aside: bool = False) -> None:
        """The head of a busy lane is to be sent again at `not_before`. `aside`: what follows it in the lane need not
        wait."""
        name = _lane(notification)
        head = replace(notification, attempts=attempts, not_before=not_before)
        if aside and head.digest is None:  # a digest finds its notifications by the lane
            self.done(notification)
            head = replace(head, lane=f"{_ASIDE}{head.seq}")
            name = _lane(head)
            self._known.add(head.seq)
            self._lanes[name] = deque((head,))
        else:
            self._busy.discard(name)
            self._lanes[name][0] = head
        self._queue(name, head)

    def under_way(self) -> set[int]:
        """The numbers of the heads of busy lanes."""
        return {self._lanes[name][0].seq for name in self._busy}

    def forget_waiting(self) -> None:
        """Drop all but the heads of busy lanes: the ledger is about to be read again."""
        busy = {name: deque((self._lanes[name][0],)) for name in self._busy}
        self._lanes = busy
        self._known = {lane[0].seq for lane in busy.values()}
        self._ready.clear()
        self._waiting.clear()

    def _queue(self, name: str, head: Notification) -> None:
        # Everything with a time goes through the heap; `promote` decides, with the caller's clock.
        if head.not_before:
            self._number += 1
            heapq.heappush(self._waiting, (head.not_before, self._number, name))
        else:
            self._ready.append(name)


def _lane(notification: Notification) -> str:
    return notification.lane or notification.transition.fingerprint
