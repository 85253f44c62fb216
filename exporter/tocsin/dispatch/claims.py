"""The notifications of one channel that are claimed and not sent yet. The rest of the queue is in the ledger."""

import contextlib
from collections import deque
from collections.abc import Sequence

import structlog

from tocsin.dispatch.base import Setup
from tocsin.dispatch.screening import Screen
from tocsin.dispatch.sending import Claim
from tocsin.errors import LedgerError
from tocsin.ledger.base import RETRY
from tocsin.model import Notification
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_SMALLEST_CAPACITY = 500
"""Notifications that are claimed together at least: a read for each would slow down a channel that sends one by one."""


class Claims:
    """Reads pages of the ledger before they are needed."""

    def __init__(self, setup: Setup) -> None:
        self.read_at = 0.0
        """When the ledger is read next, after it could not be read; by the monotonic clock."""
        self.fault = ""
        """Why the ledger could not be read; empty once it was."""
        self._setup = setup
        self._heads: deque[Notification] = deque()
        self._unscreened: list[Notification] = []
        self._screening: list[Notification] = []
        self._screen = Screen(setup)
        self._repeats: deque[Claim] = deque()
        self._next_at: float | None = None
        self._changes = 1
        self._seen_changes = 0
        policy = setup.policy
        size = 2 * policy.concurrency * setup.channel.batch_size(policy.limit)
        self._capacity = max(2, min(max(size, _SMALLEST_CAPACITY), policy.limit))
        self._recovered = False
        self._ended = self._inherited = 0  # processes that have ended
        self._failures = 0
        self._unread = Repeats(log, "cannot read the outbox", level="error", monotonic=setup.monotonic)

    def __len__(self) -> int:
        return len(self._heads) + len(self._repeats)

    @property
    def wants_more(self) -> bool:
        """Whether the ledger is to be read, as soon as it can be."""
        return bool(self._unscreened or self._screening) or (
            len(self) < self._capacity // 2
            and (
                self._changes > self._seen_changes
                or (self._next_at is not None and self._next_at <= self._setup.clock())
            )
        )

    @property
    def next_at(self) -> float | None:
        """When something becomes sendable, by the wall clock; None if there is no room for it."""
        return self._next_at if len(self) < self._capacity // 2 else None

    def screened(self) -> bool:
        """Whether what is held here passes today's silences. If not, `refill` finds out."""
        if self._screen.outdated:
            self._unscreened += self._heads
            self._heads.clear()
        return not self._unscreened

    def changed(self) -> None:
        """The ledger may have more to claim."""
        self._changes += 1

    def inherit(self) -> None:
        """Another process has ended: what it had claimed can be claimed."""
        self._ended += 1
        self.changed()

    async def refill(self) -> None:
        """Claim what can be claimed and held."""
        name, policy, ledger = self._setup.name, self._setup.policy, self._setup.ledger
        while self.wants_more and self._setup.monotonic() >= self.read_at:
            changes, ended = self._changes, self._ended
            try:
                if self._unscreened:
                    await self._screen_all()
                    continue
                ready_at = self._setup.clock() + policy.recovery_delay if policy.recovery_delay else 0.0
                if not self._recovered:
                    await ledger.recover(name, self._setup.since, ready_at)
                    self._recovered, self._inherited = True, ended
                if self._inherited != ended:
                    await ledger.inherit(name, ready_at)
                    self._inherited = ended
                claimed = await ledger.claim(name, self._capacity - len(self))
            except LedgerError as error:
                self.fault = str(error)
                self._unread.add(channel=name, error=self.fault)
                self.read_at = self._setup.monotonic() + RETRY.delay(self._failures, self._setup.chance, at_least=0.5)
                self._failures += 1
                return
            self.fault, self._failures, self._next_at = "", 0, claimed.next_at
            self._seen_changes = changes - claimed.more
            self._unscreened += claimed.heads
            # A request of which the receiver may have something is repeated as it was.
            self._repeats += (Claim(members, sent_before=True) for members in claimed.repeats)

    async def _screen_all(self) -> None:
        self._screening, self._unscreened = self._unscreened, []
        try:
            found = await self._screen.passing(self._screening)
        except LedgerError:
            self._unscreened = self._screening + self._unscreened
            raise
        else:
            if len(found) < len(self._screening):
                self.changed()  # the next of an ordering key may be sent
            self._heads += found
        finally:
            self._screening = []

    def take(self, *, probe: bool) -> Claim:
        """What is to be sent next; there must be something. `probe`: only one notification or request, to find out
        whether the receiver accepts again."""
        if self._repeats:
            return self._repeats.popleft()
        count = 1 if probe else max(1, self._setup.channel.batch_size(len(self._heads)))
        heads = [self._heads.popleft() for _ in range(min(count, len(self._heads)))]
        return Claim(sorted(heads, key=lambda head: head.seq))

    async def reread(self) -> None:
        """Give back what is not sent yet, and read the ledger again: another process has changed it."""
        held = [*self._heads, *self._unscreened, *(head for claim in self._repeats for head in claim.heads)]
        self._heads.clear()
        self._unscreened.clear()
        self._repeats.clear()
        self.changed()
        await self.give_back(held)

    async def give_back(self, heads: Sequence[Notification]) -> None:
        """Release claimed notifications, to claim them again."""
        if heads:
            with contextlib.suppress(LedgerError):  # then they are claimed until the ledger recovers
                await self._setup.ledger.release(heads)
            self.changed()
