"""How the processes of one ledger share its alerts.

Each alert has one leader at a time, the process that writes its batches. All processes send what is in the outbox.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import NamedTuple, Protocol


class Instance(NamedTuple):
    """A process that runs alerts of a ledger."""

    epoch: int
    """Its number, which no other process ever has."""
    name: str
    """Process and host, for people."""
    address: str
    """Where it listens."""
    since: float
    """Wall-clock seconds."""
    leads: frozenset[str]
    """The alerts that it leads."""
    stops: bool = False
    """Whether it is about to end, and leads nothing any more."""

    @property
    def host(self) -> str:
        """The machine that it runs on."""
        return self.name.rpartition(" on ")[2]


class Held(NamedTuple):
    """That another process was refused by the receiver of a channel."""

    until: float
    """Seconds by the clock of the ledger."""
    why: str


class Shares(NamedTuple):
    """What a process does to reach its share of the alerts."""

    take: frozenset[str]
    """Those without a leader that it is to lead."""
    give: frozenset[str]
    """Those that it leads, and others should."""


def shares(me: int, led: Mapping[int, AbstractSet[str]], wanted: AbstractSet[str]) -> Shares:
    """The share of process `me`. `led`: the alerts of each process, by epoch. `wanted`: those of the configuration.

    All processes compute it from the same table, so that they end with shares that differ by one at most, and nothing
    moves that need not. Those that lead the most keep one more where the number is not even.
    """
    mine = led[me] & wanted
    order = sorted(led, key=lambda epoch: (-len(led[epoch] & wanted), epoch))
    each, over = divmod(len(wanted), len(led))
    share = each + (order.index(me) < over)
    free = frozenset(wanted).difference(*led.values())
    take = sorted(free)[: max(0, share - len(mine))]
    return Shares(frozenset(take), frozenset(sorted(mine)[share:]) | (led[me] - wanted))


_MEETINGS = 5
"""Meetings in the time of a lease."""
_AFTER = 0.005
"""Seconds after the end of a lease, by when the server sees that it is over."""


def pause(lease: float, left: Iterable[float]) -> float:
    """Seconds until a process meets the others again. `left`: of the leases of the others.

    A lease that ends before the next meeting was not renewed at the one before: its process can be ended at once.
    """
    return min([lease / _MEETINGS, *(one + _AFTER for one in left if one > 0)])


class Sharing(Protocol):
    """The place of this process among those of its ledger."""

    @property
    def epoch(self) -> int:
        """The number of this process among `instances`."""
        ...

    instances: Sequence[Instance]
    """Those that run, this one among them, the first one first; empty where only one can run."""
    leads: AbstractSet[str]
    """The alerts that this process leads."""
    gives: AbstractSet[str]
    """Those of them that another process is to lead: stop them, then `hand_over`."""
    waiting: AbstractSet[str]
    """Channels of which something can be sent that no process has claimed."""
    holds: Mapping[str, Held]
    """The channels that other processes have paused."""
    ended: int
    """How often other processes have ended: their claims can be recovered."""

    @property
    def valid(self) -> bool:
        """Whether no other process can have taken over from this one. While it is not, nothing may be sent."""
        ...

    @property
    def first(self) -> bool:
        """Whether this is the process that does what one does for all."""
        ...

    async def want(self, alerts: Collection[str], channels: Collection[str]) -> None:
        """Share these alerts and channels from now on. Raises LedgerError."""
        ...

    async def change(self, configuration: Mapping[str, str]) -> bool:
        """Go on with another configuration. Returns False where other processes run the former one. Raises
        LedgerError."""
        ...

    async def hand_over(self, alerts: Collection[str]) -> None:
        """Let others lead these alerts, which this process has stopped. Raises LedgerError."""
        ...

    async def resign(self) -> None:
        """Lead nothing any more: this process has stopped all alerts, and is about to end. Raises LedgerError."""
        ...

    async def changed(self) -> None:
        """Return when something here has changed since the last return."""
        ...


class Alone:
    """The sharing of a ledger that only one process uses at a time. See `Sharing`."""

    epoch = 0
    instances: Sequence[Instance] = ()
    gives: AbstractSet[str] = frozenset()
    waiting: AbstractSet[str] = frozenset()
    holds: Mapping[str, Held] = MappingProxyType({})
    ended = 0
    valid = True
    first = True

    def __init__(self) -> None:
        self.leads: AbstractSet[str] = frozenset()

    async def want(self, alerts: Collection[str], channels: Collection[str]) -> None:  # noqa: ARG002 - no one else sends
        self.leads = frozenset(alerts)

    async def change(self, configuration: Mapping[str, str]) -> bool:  # noqa: ARG002 - no one else has another one
        return True

    async def hand_over(self, alerts: Collection[str]) -> None:  # noqa: ARG002 - nothing is given
        return

    async def resign(self) -> None:
        self.leads = frozenset()

    async def changed(self) -> None:
        await asyncio.Event().wait()
