"""The claims on the notifications of one channel, and what can be claimed without reading the file."""

from itertools import islice

from tocsin.ledger.base import Page
from tocsin.ledger.outbox import Read
from tocsin.model import Notification

_REMEMBERED = 10_000
"""Notifications kept in memory until they are claimed. Beyond that they are read from the file."""


class Queue:
    """What one process has claimed, and what its commits have made ready since the file was read.

    One process writes, so its claims end with it. Used in the event loop only.
    """

    def __init__(self) -> None:
        self.claimed: dict[int, str] = {}
        """Ordering keys by `seq`."""
        self.ready: dict[int, Notification] = {}
        """Committed, not claimed, the first of their ordering key and without a time. By `seq`, which rises."""
        self.changes = 0
        """Rises with each change that `ready` does not show."""
        self._complete = False
        """Whether `ready` has all that may be sent and is not claimed, until `_next_at`."""
        self._next_at: float | None = None
        self._read_to = 0

    def committed(self, notification: Notification) -> None:
        """A commit has made a notification ready. A read that was faster may have returned it."""
        if notification.not_before:
            self.changed()
        elif self._complete and notification.seq > self._read_to:
            self.ready[notification.seq] = notification
            if len(self.ready) > _REMEMBERED:
                self.ready.clear()
                self.changed()

    def changed(self) -> None:
        """Something else may be sent: the file is to be read."""
        self._complete = False
        self.changes += 1

    def reset(self) -> None:
        """The file is to be read, whatever memory holds."""
        self.ready.clear()
        self.changed()

    def end(self, seq: int) -> None:
        """End the claim on a notification."""
        self.claimed.pop(seq, None)
        self.ready.pop(seq, None)

    def claim(self, limit: int, now: float) -> Page | None:
        """Claim what memory holds. None: the file has to be read."""
        if not self._complete or (self._next_at is not None and self._next_at <= now):
            return None
        heads = list(islice(self.ready.values(), limit))
        self._claim(heads)
        return Page(heads=heads, more=bool(self.ready), next_at=self._next_at)

    def was_read(self, read: Read, changes: int) -> Page:
        """Claim what was read from the file. `changes`: those of the queue when the read began."""
        page, self._read_to = read.page, read.last_seq
        self._claim([*page.heads, *(member for members in page.repeats for member in members)])
        if not read.full and changes == self.changes:
            self._complete, self._next_at = True, page.next_at
            self.ready = {seq: one for seq, one in self.ready.items() if seq > read.last_seq}
        return page

    def _claim(self, notifications: list[Notification]) -> None:
        for notification in notifications:
            self.claimed[notification.seq] = notification.ordering_key
            self.ready.pop(notification.seq, None)
