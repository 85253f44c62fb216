"""The claims on the notifications of one channel, and what can be claimed without reading the file."""

from collections.abc import Collection
from itertools import islice

from tocsin.ledger.base import Claimed
from tocsin.ledger.outbox import Read
from tocsin.model import Notification

_REMEMBERED = 10_000
"""Notifications kept in memory until they are claimed. Beyond that they are read from the file."""


class Queue:
    """What one process has claimed, and what its commits have made ready since the file was read.

    One process writes, so its claims end with it. Used in the event loop only.
    """

    def __init__(self) -> None:
        self.claimed: dict[str, int] = {}
        """The claimed notification (`seq`) of each ordering key that has one."""
        self.ready: dict[int, Notification] = {}
        """Committed, not claimed, the first of their ordering key and without a time. By `seq`, which rises."""
        self.changes = 0
        """Rises with each change that `ready` does not show."""
        self.resets = 0
        """Rises when the order in the file has changed: what was read before may not be the first any more."""
        self._complete = False
        """Whether `ready` has all that may be sent and is not claimed, until `_next_at`."""
        self._next_at: float | None = None
        self._read_to = 0

    def committed(self, notification: Notification) -> None:
        """A commit has made a notification ready."""
        if notification.seq <= self._read_to:
            return  # a read was faster than the answer of the commit
        if notification.not_before or notification.ordering_key in self.claimed:
            self.changed()
        else:
            self.ready[notification.seq] = notification
            if len(self.ready) > _REMEMBERED:
                self.reset()

    def changed(self) -> None:
        """Something else may be sent: the file is to be read."""
        self._complete = False
        self.changes += 1

    def reset(self) -> None:
        """The file is to be read, whatever memory holds."""
        self.ready.clear()
        self.resets += 1
        self.changed()

    def end(self, seq: int, ordering_key: str) -> None:
        """End the claim on a notification."""
        if self.claimed.get(ordering_key) == seq:
            del self.claimed[ordering_key]
            self.changes += 1  # a read that is under way skips the ordering key
        self.ready.pop(seq, None)

    def withheld(self, seqs: Collection[int]) -> None:
        """End the claims on notifications that are not sent now. What may be sent in their place is to be read."""
        for ordering_key, seq in [*self.claimed.items()]:
            if seq in seqs:
                self.end(seq, ordering_key)
        if seqs:
            self.reset()

    def claim(self, limit: int, now: float) -> Claimed | None:
        """Claim what memory holds. None: the file has to be read."""
        if not self._complete or (self._next_at is not None and self._next_at <= now):
            return None
        heads = list(islice(self.ready.values(), limit))
        self._claim(heads)
        return Claimed(heads=heads, more=bool(self.ready), next_at=self._next_at)

    def was_read(self, read: Read, changes: int) -> Claimed:
        """Claim what was read from the file. `changes`: those of the queue when the read began."""
        found, self._read_to, self._next_at = read.claimed, read.last_seq, read.claimed.next_at
        self._claim([*found.heads, *(member for members in found.repeats for member in members)])
        self._complete = not read.full and changes == self.changes
        if self._complete:
            self.ready = {seq: one for seq, one in self.ready.items() if seq > read.last_seq}
        return found

    def _claim(self, notifications: list[Notification]) -> None:
        for notification in notifications:
            self.claimed[notification.ordering_key] = notification.seq
            self.ready.pop(notification.seq, None)
