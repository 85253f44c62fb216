"""A dispatcher between a real ledger and a scripted channel, with a clock and a chance of its own."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.channels import FakeChannel
from support.clock import LoopClock
from support.ledger import commit, transition
from support.waiting import until, until_some
from tocsin.backoff import Backoff
from tocsin.channels.base import Message, Paused, Rejected, Retry
from tocsin.dispatch import Compose, Dispatcher, Policy
from tocsin.envelope import View, build, merged
from tocsin.errors import Reason
from tocsin.exposition import Metrics
from tocsin.ledger.base import Filter, Ledger, Record, Status
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Kind, Notification, Transition

DOWN = Retry(Reason.CONNECTION, "refused")
BUSY = Retry(Reason.IN_PROGRESS, "later")
REFUSED = Paused(Reason.UNAUTHORIZED, "wrong key")

_VIEW = View(labels=(), value=None)
_POLICY = Policy(
    concurrency=4,
    timeout=10.0,
    backoff=Backoff(initial=1.0, maximum=60.0),
    max_attempts=5,
    max_age=3600.0,
    pause=Backoff(initial=30.0, maximum=300.0),
)


def compose(together: Sequence[Notification]) -> Message | Rejected:
    """A message as simple as can be."""
    first = together[0]
    envelope = merged([build(one.transition, one.id, _VIEW) for one in together])
    return Message(
        id=first.id,
        alert=first.transition.alert,
        kind=Kind(envelope["status"]),
        envelope=envelope,
        attempts=first.attempts,
        generation=first.generation,
    )


class Desk:
    """One ledger file, and the dispatcher that works on it now. `chance`: what every throw of the dice gives; `set_by`:
    the seconds by which somebody has set the wall clock."""

    def __init__(self, path: Path, clock: Any = None) -> None:
        self.path = path
        self.chance = 0.999
        self.clock = clock or LoopClock(asyncio.get_running_loop())
        self.set_by = 0.0
        self.metrics = Metrics("0").channel("hook")
        self.ledger: Ledger = open_ledger(path, clock=self.clock)
        self.dispatchers: list[Dispatcher] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(
        self,
        channel: FakeChannel,
        *,
        name: str = "hook",
        ledger: Ledger | None = None,
        compose: Compose = compose,
        **policy: Any,
    ) -> Dispatcher:
        """Run a dispatcher. `policy`: what is to differ from a plain policy."""
        fields = {field: getattr(_POLICY, field) for field in Policy.__slots__}
        dispatcher = Dispatcher(
            name,
            channel,
            Policy(**{**fields, **policy}),
            ledger=ledger or self.ledger,
            compose=compose,
            metrics=self.metrics,
            clock=self.clock,
            monotonic=self.monotonic,
            chance=lambda: self.chance,
        )
        self.dispatchers.append(dispatcher)
        self._tasks.append(asyncio.create_task(dispatcher.run()))
        return dispatcher

    def monotonic(self) -> float:
        """The clock that goes on when the other one is set."""
        return self.clock() - self.set_by

    def set_clock(self, seconds: float) -> None:
        """Set the wall clock, so that no time passes."""
        self.clock.now += seconds
        self.set_by += seconds

    @property
    def task(self) -> asyncio.Task[None]:
        """The task of the dispatcher started last."""
        return self._tasks[-1]

    async def stop(self) -> None:
        """End every dispatcher as a killed process would: nothing is waited for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.dispatchers.clear()
        self._tasks.clear()

    async def close(self) -> None:
        """The end of the test. Raises what a dispatcher ended with, if it ended by itself."""
        ended = [task for task in self._tasks if task.done() and not task.cancelled()]
        await self.stop()
        await self.ledger.close()
        for task in ended:
            task.result()

    async def tell(self, *keys: str, to: Sequence[str] = ("hook",), at: int = 1000) -> list[str]:
        """Commit and offer a fired notification for each key; their ids."""
        return await self.tell_of([transition(key, at=at) for key in keys], to=to)

    async def episode(self, key: str = "1", length: int = 3) -> list[str]:
        """Commit and offer an episode: fired, updated ..., resolved; its ids."""
        kinds = [Kind.FIRED, *[Kind.UPDATED] * (length - 2), Kind.RESOLVED]
        return await self.tell_of(
            [transition(key, kind, at=1000 + number, started_at=1000) for number, kind in enumerate(kinds)]
        )

    async def tell_of(self, transitions: Sequence[Transition], *, to: Sequence[str] = ("hook",)) -> list[str]:
        notifications = await self.ledger.commit(commit(transitions, to=to))
        for dispatcher in self.dispatchers:
            if dispatcher.name in to:
                dispatcher.wake()
        return [one.id for one in notifications]

    async def quiet(self) -> None:
        """Wait until every dispatcher has nothing to do before its next time comes (or a send is answered)."""

        def sleeping(dispatcher: Dispatcher) -> bool:
            return bool(dispatcher._wake._waiters) and not dispatcher._wake.is_set()

        quiet = 0
        while quiet < 3:
            # Both queues of the ledger are worked off in order: what was asked of it before has been answered after.
            await self.ledger.settle([])
            await self.ledger.backlog()
            idle = all(sleeping(dispatcher) for dispatcher in self.dispatchers)
            quiet = quiet + 1 if idle else 0

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due."""
        await self.quiet()
        self.clock.advance(seconds)
        await self.quiet()

    async def records(self, *ids: str) -> list[Record]:
        """What the ledger has, of these ids in their order, or of all."""
        found = {record.id: record for record in await self.ledger.find(Filter(limit=1_000_000))}
        return [found[id_] for id_ in ids] if ids else list(found.values())

    async def record(self, id_: str) -> Record:
        """What the ledger has of this id."""
        return (await self.records(id_))[0]

    async def delivered(self, *ids: str) -> None:
        """Wait until the ledger says that these are delivered."""

        async def all_delivered() -> bool:
            return all(record.status is Status.DELIVERED for record in await self.records(*ids))

        await until_some(all_delivered, f"{len(ids)} deliveries")

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait until something is so."""
        await until(condition, what)
