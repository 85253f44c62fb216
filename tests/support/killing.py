"""Parts of the tests that kill the process repeatedly: the process, a view that changes at random with a model of what
must arrive, and a receiver that fails at random."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from support.forks import Started
from support.materialize import MaterializeDouble, Relation
from support.receiver import Answer, Receiver
from support.tocsin import start
from support.waiting import until, until_some
from tocsin.app.ledgers import opened
from tocsin.config.sections import LedgerSettings
from tocsin.errors import LedgerError
from tocsin.model import Kind, Row, Transition, fingerprint, notification_id


def kills(default: int) -> int:
    """How often to kill the process; TOCSIN_TEST_KILLS asks for another number."""
    return int(os.environ.get("TOCSIN_TEST_KILLS", str(default)))


def seeded() -> random.Random:
    """Return the random generator of a test. The seed is printed; TOCSIN_TEST_SEED repeats a run."""
    seed = int(os.environ.get("TOCSIN_TEST_SEED", str(time.time_ns() % 10**9)))
    print(f"TOCSIN_TEST_SEED={seed}")
    return random.Random(seed)


@dataclass
class _Episode:
    """A key that is in the view, or kept firing."""

    row: Row
    started: int
    fires: bool
    left: int | None = None
    """When it left the view."""


@dataclass
class Model:
    """What must arrive: worked out from the changes made, one timestamp at a time, with no code of the firing set.

    `hold` and `keep`: milliseconds of `for` and `keep_firing_for`."""

    alert: str = "orders"
    hold: int = 0
    keep: int = 0
    shown: dict[str, Row] = field(default_factory=dict)
    expected: list[Transition] = field(default_factory=list)
    _episodes: dict[str, _Episode] = field(default_factory=dict)

    def change(self, at: int, key: str, row: Row | None) -> None:
        self._pass(key, at)
        episode = self._episodes.get(key)
        if row is None:
            del self.shown[key]
            assert episode is not None
            episode.left = at
            if not (episode.fires and self.keep):
                self._end(key, at)
            return
        self.shown[key] = row
        if episode is None:
            self._episodes[key] = episode = _Episode(row, at, fires=not self.hold)
            if episode.fires:
                self._expect(Kind.FIRED, key, at)
            return
        previous, episode.row, episode.left = episode.row, row, None
        if episode.fires and previous != row:
            self._expect(Kind.UPDATED, key, at, previous)

    def end(self) -> None:
        """All timers have passed."""
        for key in list(self._episodes):
            self._pass(key, None)

    def ids(self, channel: str) -> set[str]:
        return {notification_id(transition, channel) for transition in self.expected}

    def _pass(self, key: str, until: int | None) -> None:
        """The timer of a key, if it is over before `until`."""
        episode = self._episodes.get(key)
        if episode is None:
            return
        if episode.left is not None and (until is None or episode.left + self.keep < until):
            self._end(key, episode.left + self.keep)
        elif not episode.fires and (until is None or episode.started + self.hold < until):
            episode.fires = True
            self._expect(Kind.FIRED, key, episode.started + self.hold)

    def _end(self, key: str, at: int) -> None:
        if self._episodes[key].fires:
            self._expect(Kind.RESOLVED, key, at)
        del self._episodes[key]

    def _expect(self, kind: Kind, key: str, at: int, previous: Row | None = None) -> None:
        episode = self._episodes[key]
        transition = Transition(
            alert=self.alert,
            fingerprint=fingerprint(self.alert, [key]),
            kind=kind,
            started_at=episode.started,
            at=at,
            columns=(),
            row=episode.row,
            previous=previous,
        )
        self.expected.append(transition)


BACKLOG = 300
"""Transitions or events of one sender that may be on their way before it waits, so that a slow machine has no more to
catch up with than a fast one."""


class Driver:
    """Changes the view at random, unless too much of it has not arrived. `arrived`: how many transitions have."""

    def __init__(
        self,
        relation: Relation,
        chance: random.Random,
        arrived: Callable[[], int],
        model: Model | None = None,
        backlog: int = BACKLOG,
    ) -> None:
        self.model = model or Model()
        self._relation = relation
        self._chance = chance
        self._arrived = arrived
        self._backlog = backlog

    async def run(self) -> None:
        while True:
            self.step()
            await asyncio.sleep(self._chance.uniform(0.001, 0.02))  # how busy the view is; no test waits for it

    def step(self) -> None:
        """A few keys at one timestamp; sometimes a row that is there for one timestamp only."""
        if len(self.model.expected) - self._arrived() >= self._backlog:
            return
        chance = self._chance
        changes: list[tuple[int, Row]] = []
        decided: dict[str, Row | None] = {}
        for key in {str(chance.randrange(12)) for _ in range(chance.randint(1, 3))}:
            old = self.model.shown.get(key)
            gone = old is not None and chance.random() < 0.4
            row: Row | None = None if gone else (key, chance.choice("abc"), str(chance.randrange(10**9)))
            if old is not None:
                changes.append((-1, old))
            if row is not None:
                changes.append((1, row))
            decided[key] = row
        at = self._relation.change(changes)
        for key, row in decided.items():
            self.model.change(at, key, row)


class Process:
    """`tocsin run`, to be killed."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self.process: Started | None = None

    async def start(self) -> None:
        self.process = await start(self._config.parent, "run", "-c", str(self._config))

    @property
    def worked(self) -> float:
        """Seconds of processor time since it was started: how far its start has come, on a busy machine too."""
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        assert self.process.returncode is None, "the process had ended by itself"
        self.process.send_signal(number)
        return await self.process.wait()

    async def kill_and_start(self) -> None:
        await self.end(signal.SIGKILL)
        await self.start()


@asynccontextmanager
async def started(config: Path) -> AsyncIterator[Process]:
    """A running process; it is killed at the end."""
    process = Process(config)
    await process.start()
    try:
        yield process
    finally:
        assert process.process is not None
        if process.process.returncode is None:
            process.process.kill()
            await process.process.wait()


def moody(chance: random.Random) -> Answer:
    """A receiver that accepts most requests."""
    roll = chance.random()
    if roll < 0.05:
        return Answer(status=500)
    if roll < 0.08:
        return Answer(cut=True)
    return Answer()


async def some_instant(process: Process, receiver: Receiver, starting: float, chance: random.Random) -> None:
    """Wait until the process is somewhere in its start, or has sent something since. `starting`: the processor time
    that a start takes."""
    if chance.random() < 0.4:
        place = chance.uniform(0.0, starting)
        await until(lambda: process.worked >= place, "a place in its start")
    else:
        count = len(receiver.requests) + chance.randint(1, 60)
        await until(lambda: len(receiver.requests) >= count, f"request {count}", within=60)


@asynccontextmanager
async def repeated(chance: random.Random, pause: float, *steps: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Each step is repeated meanwhile; a running one is finished. `pause`: the most seconds between two of them."""
    over = asyncio.Event()

    async def repeat(step: Callable[[], Awaitable[None]]) -> None:
        while not over.is_set():
            await step()
            await asyncio.sleep(chance.uniform(0.001, pause))  # how busy the sender is; the test waits for no time

    async with asyncio.TaskGroup() as tasks:
        for step in steps:
            tasks.create_task(repeat(step))
        yield
        over.set()


async def begun(process: Process, double: MaterializeDouble, relation: Relation, ledger: Mapping[str, str]) -> float:
    """Wait until the ledger has the first snapshot, an empty one, so that all later rows appear after the first start.
    Returns how long the process has worked for that."""
    await double.subscribed(relation)
    await double.caught_up(relation)
    await until_some(lambda: _knows("orders", ledger), "the alert in the ledger")
    return process.worked


async def _knows(alert: str, settings: Mapping[str, str]) -> bool:
    """Whether the ledger with these settings has stored the alert's first snapshot."""
    try:
        ledger = await opened(LedgerSettings.model_validate(settings), runs_alerts=False)
    except LedgerError:
        return False
    try:
        return await ledger.load(alert) is not None
    finally:
        await ledger.close()
