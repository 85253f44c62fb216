"""Dispatchers between a real ledger and scripted channels, with a clock that the test moves."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.clock import LoopClock
from support.ledger import commit, transition
from support.waiting import until, until_some
from tocsin.backoff import Backoff
from tocsin.channels.base import Channel, Message, Paused, Rejected, Retry
from tocsin.dispatch import Compose, Dispatcher, Policy, Setup
from tocsin.envelope import View, build, merged
from tocsin.errors import LedgerError, LedgerReason, Reason
from tocsin.exposition import Metrics
from tocsin.ledger.base import Filter, Ledger, Record, Status
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Kind, Notification, Transition
from tocsin.silences import Silence, parse

DOWN = Retry(Reason.CONNECTION, "refused")
BUSY = Retry(Reason.IN_PROGRESS, "later")
REFUSED = Paused(Reason.UNAUTHORIZED, "wrong key")
GONE = Rejected(Reason.NOT_FOUND, "404 no such hook")

_VIEW = View(labels=(), value=None)
_POLICY: dict[str, Any] = {
    "concurrency": 4,
    "timeout": 10.0,
    "backoff": Backoff(initial=1.0, maximum=60.0),
    "max_attempts": 5,
    "max_age": 3600.0,
}


def compose(together: Sequence[Notification]) -> Message | Rejected:
    """Return a simple message."""
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


def labels(notification: Notification) -> dict[str, str]:
    """Return the columns of a row as labels, and `alertname`."""
    order, note = notification.transition.row
    return {"alertname": notification.transition.alert, "order": order or "", "note": note or ""}


class FaultyLedger:
    """A ledger whose methods can be made to fail, or to wait, by name."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.sharing = ledger.sharing
        self.silences = ledger.silences
        self.failures: dict[str, int] = {}
        """How often each method fails from now on."""
        self.gates: dict[str, asyncio.Event] = {}
        """What each method waits for: `claim` after it has read, others before."""
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments[0] if arguments else None))
            if name != "claim":
                await self._wait(name)
            if self.failures.get(name):
                self.failures[name] -= 1
                raise LedgerError("the disk reports an error", LedgerReason.FAILED)
            result = await method(*arguments, **named)
            if name == "claim":
                self.calls.append(("claimed", None))
                await self._wait(name)
            return result

        return call

    async def _wait(self, name: str) -> None:
        if name in self.gates:
            await self.gates[name].wait()

    def close_gate(self, name: str) -> asyncio.Event:
        """Make a method wait until the event is set."""
        return self.gates.setdefault(name, asyncio.Event())

    def count(self, name: str) -> int:
        """How often a method was called."""
        return sum(called == name for called, _ in self.calls)


class DispatcherHarness:
    """One ledger file, and the dispatchers that work on it now."""

    def __init__(self, path: Path, clock: Any = None) -> None:
        self.path = path
        self.chance = 0.999
        """The value of every random number."""
        self.clock = clock or LoopClock(asyncio.get_running_loop())
        self.metrics = Metrics("0").channel("hook")
        self.ledger: Ledger = open_ledger(path, clock=self.clock)
        self.dispatchers: list[Dispatcher] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._set_by = 0.0

    def start(
        self, channel: Channel, *, name: str = "hook", ledger: Any = None, compose: Compose = compose, **policy: Any
    ) -> Dispatcher:
        """Run a dispatcher. `policy`: what differs from a plain policy."""
        setup = Setup(
            name=name,
            channel=channel,
            policy=Policy(**{**_POLICY, **policy}),
            ledger=ledger or self.ledger,
            compose=compose,
            labels=labels,
            metrics=self.metrics,
            since=self.clock(),
            clock=self.clock,
            monotonic=lambda: self.clock() - self._set_by,
            chance=lambda: self.chance,
        )
        dispatcher = Dispatcher(setup)
        self.dispatchers.append(dispatcher)
        self._tasks.append(asyncio.create_task(dispatcher.run()))
        return dispatcher

    def set_clock(self, seconds: float) -> None:
        """Set the wall clock, so that no time passes."""
        self.clock.now += seconds
        self._set_by += seconds

    @property
    def task(self) -> asyncio.Task[None]:
        """The task of the dispatcher started last."""
        return self._tasks[-1]

    async def stop(self) -> None:
        """Cancel every dispatcher."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.dispatchers.clear()
        self._tasks.clear()

    async def close(self) -> None:
        """End the test. Raises the error of a dispatcher that ended by itself."""
        ended = [task for task in self._tasks if task.done() and not task.cancelled()]
        await self.stop()
        await self.ledger.close()
        for task in ended:
            task.result()

    async def fire(self, *keys: str, to: Sequence[str] = ("hook",), at: int = 1000) -> list[str]:
        """Commit a fired notification for each key; their ids."""
        return await self.commit([transition(key, at=at) for key in keys], to=to)

    async def episode(self, key: str = "1", length: int = 3) -> list[str]:
        """Commit an episode: fired, updated ..., resolved; its ids."""
        kinds = [Kind.FIRED, *[Kind.UPDATED] * (length - 2), Kind.RESOLVED]
        return await self.commit(
            [transition(key, kind, at=1000 + number, started_at=1000) for number, kind in enumerate(kinds)]
        )

    async def commit(self, transitions: Sequence[Transition], *, to: Sequence[str] = ("hook",)) -> list[str]:
        notifications = await self.ledger.commit(commit(transitions, to=to))
        self.wake()
        return [one.id for one in notifications]

    def wake(self) -> None:
        """Wake every dispatcher."""
        for dispatcher in self.dispatchers:
            dispatcher.wake()

    async def change(self, action: str, ids: Sequence[str]) -> None:
        """Retry or drop as another process does."""
        await getattr(self.ledger, action)(ids)
        for dispatcher in self.dispatchers:
            dispatcher.rescan()

    async def silence(self, matchers: str, *, start: float = 0.0, seconds: float = 100.0) -> str:
        """Make a silence as another process does, from `start` seconds on; its id."""
        begin, id_ = self.clock.now + start, f"silence of {matchers}"
        made = Silence(id=id_, matchers=parse(matchers), starts_at=begin, ends_at=begin + seconds, reason="work")
        await self.ledger.silence(made)
        for dispatcher in self.dispatchers:
            dispatcher.rescan()
        return id_

    async def close_silences(self) -> None:
        """Do what a process does every second."""
        await self.ledger.close_silences()
        for dispatcher in self.dispatchers:
            dispatcher.rescan()

    async def quiet(self) -> None:
        """Wait until every dispatcher has nothing to do before its next time comes, or a send is answered."""

        def sleeping(dispatcher: Dispatcher) -> bool:
            return bool(dispatcher._wake._waiters) and not dispatcher._wake.is_set()

        quiet = 0
        while quiet < 5:
            # The ledger handles both queues in order, so all earlier requests are answered after this.
            await self.ledger.settle([])
            await self.ledger.backlog()
            quiet = quiet + 1 if all(map(sleeping, self.dispatchers)) else 0

    async def advance(self, seconds: float) -> None:
        """Advance the clock, and wait until everything that is due has happened."""
        await self.quiet()
        self.clock.advance(seconds)
        await self.quiet()

    async def records(self, *ids: str) -> list[Record]:
        """The records of these ids in their order, or all."""
        found = {record.id: record for record in await self.ledger.find(Filter(limit=1_000_000))}
        return [found[id_] for id_ in ids] if ids else list(found.values())

    async def record(self, id_: str) -> Record:
        """The record of this id."""
        return (await self.records(id_))[0]

    async def statuses(self, *ids: str) -> list[Status]:
        """The statuses of these ids, or of all."""
        return [record.status for record in await self.records(*ids)]

    async def delivered(self, *ids: str) -> None:
        """Wait until these are delivered in the ledger."""

        async def all_delivered() -> bool:
            return {*await self.statuses(*ids)} <= {Status.DELIVERED}

        await until_some(all_delivered, f"{len(ids)} deliveries")

    async def until(self, condition: Any, what: str = "") -> None:
        """Wait until something is true."""
        await until(condition, what)
