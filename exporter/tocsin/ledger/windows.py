"""Which notifications wait in a digest. Pure.

The first of an ordering key is sent at once and opens a window of `interval`. What comes within the window waits in a
digest, which is due at its end. Sending the digest opens the next window (`Outbox.digest`).
"""

from collections.abc import Callable
from typing import NamedTuple

from tocsin.model import Address

Key = tuple[str, str]
"""Channel and ordering key."""


class Window(NamedTuple):
    """The window of an ordering key."""

    interval: float
    due: float
    """From when on the next message may be sent."""
    digest: int | None
    """What gathers until then, by the `seq` of its first; None: nothing yet."""
    is_open: bool
    """Whether the digest has pending notifications: otherwise all of it was dropped or given up on."""


class Placed(NamedTuple):
    """Where a notification goes."""

    digest: int | None
    """None: it is sent at once."""
    due: float
    first: bool
    """Whether it is the first of its digest, or in none."""


class Windows:
    """Places the notifications of one batch."""

    def __init__(self, find: Callable[[Key], Window | None], now: float) -> None:
        """`find`: the stored window of an ordering key."""
        self.changed: dict[Key, Window] = {}
        """The windows to write."""
        self._find = find
        self._now = now

    def place(self, address: Address, seq: int) -> Placed:
        """Place notification `seq`."""
        key = address.channel, address.ordering_key
        window = self.changed.get(key) or self._find(key)
        if window is None or (window.digest is None and window.due <= self._now):
            self.changed[key] = Window(address.interval, self._now + address.interval, None, is_open=False)
            return Placed(None, 0.0, first=True)
        if window.digest is not None and window.is_open:
            return Placed(window.digest, window.due, first=False)
        self.changed[key] = Window(address.interval, window.due, seq, is_open=True)
        return Placed(seq, window.due, first=True)
