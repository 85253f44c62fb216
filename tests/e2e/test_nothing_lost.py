"""Promise 1: after a kill at any instant, every transition since the first start has exactly one notification per
channel."""

import asyncio
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from support.materialize import MaterializeDouble, Relation
from support.receiver import Answer, Received, Receiver
from support.waiting import until, until_some
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Kind, Row, Transition, fingerprint, notification_id

KILLS = int(os.environ.get("TOCSIN_TEST_KILLS", "50"))
COLUMNS = [("id", "int4"), ("owner", "text"), ("amount", "numeric")]
CONFIG = """
web: {{listen: "127.0.0.1:0"}}
ledger: {{path: "{ledger}"}}
sources:
  mz: {{type: materialize, dsn: "{dsn}", backoff_initial: 20ms, backoff_max: 100ms}}
channels:
  first: &channel
    type: webhook
    url: {url}/first
    concurrency: 3
    timeout: 500ms
    backoff_initial: 10ms
    backoff_max: 50ms
    max_attempts: 1000
  second: {{<<: *channel, url: {url}/second}}
alerts:
  orders:
    source: mz
    relation: public.orders
    key: [id]
    labels: [id, owner]
    value: amount
    notify: [first, second]
"""


@dataclass
class Model:
    """What must arrive: worked out from the changes made, one timestamp at a time, with no code of the firing set."""

    shown: dict[str, Row] = field(default_factory=dict)
    started: dict[str, int] = field(default_factory=dict)
    expected: list[Transition] = field(default_factory=list)

    def change(self, at: int, key: str, row: Row | None) -> None:
        old = self.shown.get(key)
        if row is None:
            del self.shown[key]
            kind, row = Kind.RESOLVED, old
        else:
            self.shown[key] = row
            kind = Kind.UPDATED if old else Kind.FIRED
            if old is None:
                self.started[key] = at
        assert row is not None
        transition = Transition(
            alert="orders",
            fingerprint=fingerprint("orders", [key]),
            kind=kind,
            started_at=self.started[key],
            at=at,
            columns=(),
            row=row,
            previous=old if kind is Kind.UPDATED else None,
        )
        self.expected.append(transition)

    def ids(self, channel: str) -> set[str]:
        return {notification_id(transition, channel) for transition in self.expected}


class Driver:
    """Changes the view at random until told to stop."""

    def __init__(self, relation: Relation, chance: random.Random) -> None:
        self.model = Model()
        self._relation = relation
        self._chance = chance

    async def run(self) -> None:
        while True:
            self.step()
            await asyncio.sleep(self._chance.uniform(0.001, 0.02))  # how busy the view is; nobody waits for this

    def step(self) -> None:
        """A few keys at one timestamp; sometimes a row that is there for one timestamp only."""
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
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tocsin", "run", "-c", str(self._config), stderr=asyncio.subprocess.DEVNULL
        )

    @property
    def worked(self) -> float:
        """Seconds of processor time since it was started: where it stands in its start, however busy the machine is."""
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        assert self.process.returncode is None, "the process had ended by itself"
        self.process.send_signal(number)
        return await self.process.wait()


def moody(chance: random.Random) -> Answer:
    """A receiver that mostly takes what comes."""
    roll = chance.random()
    if roll < 0.05:
        return Answer(status=500)
    if roll < 0.08:
        return Answer(cut=True)
    return Answer()


@pytest.mark.e2e
@pytest.mark.timeout(600)
async def test_every_transition_arrives_however_often_the_process_is_killed(tmp_path: Path) -> None:
    """Fails, for example, when a frontier is written apart from its outbox rows, when a batch is acknowledged before
    its progress row, when ids depend on the process, or when a claim survives its process."""
    seed = int(os.environ.get("TOCSIN_TEST_SEED", str(time.time_ns() % 10**9)))
    print(f"TOCSIN_TEST_SEED={seed}")
    chance = random.Random(seed)
    accepted: dict[str, list[str]] = defaultdict(list)
    bodies: dict[str, set[bytes]] = defaultdict(set)

    def receive(request: Received) -> Answer:
        answer = moody(chance)
        if answer.status == 200 and not answer.cut:
            accepted[request.path.removeprefix("/")].append(request.headers["idempotency-key"])
        bodies[request.headers["idempotency-key"]].add(request.body)
        return answer

    async with MaterializeDouble(progress_interval=0.05) as double, Receiver(receive) as receiver:
        relation = double.create("public.orders", COLUMNS, retain=3_600_000)
        config = tmp_path / "tocsin.yaml"
        config.write_text(CONFIG.format(ledger=tmp_path / "ledger.db", dsn=double.dsn, url=receiver.url))
        process, driver = Process(config), Driver(relation, chance)
        await process.start()
        await double.subscribed(relation)
        # The very first snapshot is empty; what is in the view from now on has happened since the first start.
        await double.caught_up(relation)
        await until_some(lambda: _ledger_knows("orders", tmp_path / "ledger.db"), "the alert in the ledger")
        starting = process.worked
        driving = asyncio.create_task(driver.run())
        for _ in range(KILLS):
            await _some_instant(process, receiver, starting, chance)
            await process.end(signal.SIGKILL)
            await process.start()
        driving.cancel()
        expected = {channel: driver.model.ids(channel) for channel in ("first", "second")}
        await until_some(lambda: _all_arrived(expected, accepted), within=60)
        assert await process.end(signal.SIGTERM) == 0

    for channel in ("first", "second"):
        assert set(accepted[channel]) == expected[channel]
        _assert_in_order(driver.model, channel, accepted[channel])
    assert all(len(texts) == 1 for texts in bodies.values()), "a repeat differed from what it repeats"
    assert len(driver.model.expected) > KILLS


async def _some_instant(process: Process, receiver: Receiver, starting: float, chance: random.Random) -> None:
    """Wait until the process is somewhere in its start, or has sent something since. `starting`: the processor time
    that a start takes."""
    if chance.random() < 0.4:
        place = chance.uniform(0.0, starting)
        await until(lambda: process.worked >= place, "a place in its start")
    else:
        count = len(receiver.requests) + chance.randint(1, 200)
        await until(lambda: len(receiver.requests) >= count, f"request {count}", within=60)


async def _ledger_knows(alert: str, path: Path) -> bool:
    if not path.exists():
        return False
    ledger = open_ledger(path, exclusive=False)
    try:
        return await ledger.load(alert) is not None
    finally:
        await ledger.close()


async def _all_arrived(expected: Mapping[str, set[str]], accepted: Mapping[str, list[str]]) -> bool:
    missing = {channel: len(ids.difference(accepted[channel])) for channel, ids in expected.items()}
    assert not any(missing.values()), f"never arrived: {missing}"
    return True


def _assert_in_order(model: Model, channel: str, arrived: list[str]) -> None:
    """The first arrivals of each key are in the order of its transitions."""
    first = {name: place for place, name in reversed(list(enumerate(arrived)))}
    places: dict[str, list[int]] = defaultdict(list)
    for transition in model.expected:
        places[transition.fingerprint].append(first[notification_id(transition, channel)])
    assert all(order == sorted(order) for order in places.values())
