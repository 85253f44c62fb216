"""The pending notifications of one channel in memory: a queue per fingerprint or group (a *lane*), each in order. No
I/O, no clock.

Only the head of a lane may be sent; a lane is *ready*, *waiting* for a time, or *busy* (its head is being sent or
settled). Heads that were in one request whose outcome is unknown are a `Bulk`: they are ready, wait and are sent
together only.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tocsin.model import Notification

_ASIDE = "aside "
"""What the name of a lane of one notification begins with: neither a fingerprint nor a group does."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """The notifications of one request, in its order; there may be one alone.

    `stored`: the ledger has it. `sent`: the receiver may have it.
    """

    members: tuple[Notification, ...]
    stored: bool = False
    sent: bool = False

    @property
    def seqs(self) -> tuple[int, ...]:
        """The numbers of the members."""
        return tuple(member.seq for member in self.members)


class Lanes:
    """The queue of a channel. Fingerprints, and the names of lanes, are unique across alerts."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Notification]] = {}
        self._ready: deque[str] = deque()
        self._bulks: deque[Bulk] = deque()
        self._waiting: list[tuple[float, int, str | Bulk]] = []
        self._busy: set[str] = set()
        self._known: set[int] = set()
        self._number = 0

    def __len__(self) -> int:
        """Notifications in memory, those being sent included."""
        return len(self._known)

    @property
    def ready(self) -> int:
        """Lanes and bulks that may be sent now."""
        return len(self._ready) + len(self._bulks)

    @property
    def free(self) -> int:
        """Lanes whose head may be sent now, with any others."""
        return len(self._ready)

    @property
    def busy(self) -> int:
        """Lanes whose head is on its way."""
        return len(self._busy)

    @property
    def waits(self) -> bool:
        """Whether the head of any lane is neither on its way nor settled."""
        return bool(self._ready or self._bulks or self._waiting)

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
                self._queue(name, notification.not_before)
            else:
                lane.append(notification)

    def add_bulk(self, bulk: Bulk) -> None:
        """Put the members of a bulk at the front of their lanes. Passed over where a member or its lane is here
        already: then it is on its way."""
        names = [_lane(member) for member in bulk.members]
        if any(name in self._lanes for name in names) or self._known.intersection(bulk.seqs):
            return
        for name, member in zip(names, bulk.members, strict=True):
            self._known.add(member.seq)
            self._lanes[name] = deque((member,))
        self._queue(bulk, max(member.not_before for member in bulk.members))

    def promote(self, now: float) -> None:
        """Make ready what has waited long enough."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            _, _, what = heapq.heappop(waiting)
            self._make_ready(what)

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

    def take_bulk(self) -> Bulk | None:
        """A bulk that is ready, whose lanes are busy from now on."""
        if not self._bulks:
            return None
        bulk = self._bulks.popleft()
        self._busy.update(_lane(member) for member in bulk.members)
        return bulk

    def done(self, notification: Notification) -> None:
        """The head of a busy lane is settled for good: the next one of the episode may go."""
        name = _lane(notification)
        self._busy.discard(name)
        self._known.discard(notification.seq)
        lane = self._lanes[name]
        lane.popleft()
        if lane:
            self._queue(name, lane[0].not_before)
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
        self._queue(name, not_before)

    def again_together(self, bulk: Bulk) -> None:
        """The heads of these busy lanes are to be sent again in one request, at the time that they say."""
        for member in bulk.members:
            name = _lane(member)
            self._busy.discard(name)
            self._lanes[name][0] = member
        self._queue(bulk, max(member.not_before for member in bulk.members))

    def cut(self, head: Notification, rest: Notification | None) -> None:
        """The head of a busy lane stands for less than it did, and is to be sent at once; `rest` follows it."""
        name = _lane(head)
        self._busy.discard(name)
        lane = self._lanes[name]
        lane[0] = head
        if rest is not None and rest.seq not in self._known:
            self._known.add(rest.seq)
            lane.insert(1, rest)
        self._queue(name, 0.0)

    def under_way(self) -> set[int]:
        """The numbers of the heads of busy lanes."""
        return {self._lanes[name][0].seq for name in self._busy}

    def forget_waiting(self) -> None:
        """Drop all but the heads of busy lanes: the ledger is about to be read again."""
        busy = {name: deque((self._lanes[name][0],)) for name in self._busy}
        self._lanes = busy
        self._known = {lane[0].seq for lane in busy.values()}
        self._ready.clear()
        self._bulks.clear()
        self._waiting.clear()

    def _queue(self, what: str | Bulk, not_before: float) -> None:
        # Everything with a time goes through the heap; `promote` decides, with the caller's clock.
        if not_before:
            self._number += 1
            heapq.heappush(self._waiting, (not_before, self._number, what))
        else:
            self._make_ready(what)

    def _make_ready(self, what: str | Bulk) -> None:
        if isinstance(what, Bulk):
            self._bulks.append(what)
        else:
            self._ready.append(what)


def _lane(notification: Notification) -> str:
    return notification.lane or notification.transition.fingerprint
