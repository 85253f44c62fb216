"""Promise 1 for several processes that share a ledger: each is killed, paused and cut off from the database again and
again, and the others take over."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.events_table import made
from support.killing import Driver, Model, kills, repeated, seeded
from support.materialize import MaterializeDouble, Relation
from support.postgres import Database, shared_postgres
from support.receiver import Receiver
from support.takeover import STEPS_BACK, STRANGERS, WITNESS, Arrivals, Fault, Instance, instances
from support.tocsin import quick_source
from support.waiting import until, until_equal, until_some
from tocsin.model import Kind, Transition, fingerprint, notification_id

ROUNDS = kills(6)
LEASE = 0.4
BACKLOG = 60
"""Of each view and each sender of events."""
COLUMNS = (("id", "int4"), ("owner", "text"), ("amount", "numeric"))
TOKEN = "a-token-of-some-length"
ALERTS: dict[str, dict[str, Any]] = {
    "orders": {},
    "late": {"for": "150ms"},
    "spikes": {"keep_firing_for": "200ms"},
    "fraud": {"for": "80ms", "keep_firing_for": "120ms"},
}
CHANNELS: dict[str, dict[str, Any]] = {"single": {}, "merged": {"interval": "300ms"}, "several": {"batch": "array"}}


def configured(double: MaterializeDouble, database: Database, receiver: Receiver) -> dict[str, Any]:
    common = {"type": "webhook", "timeout": "1s", "backoff_initial": "10ms", "backoff_max": "50ms"}
    view = {"source": "mz", "key": ["id"], "labels": ["id", "owner"], "value": "amount", "notify": [*CHANNELS]}
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"lease": f"{LEASE * 1000:g}ms"},
        "log": {"level": "debug"},
        "sources": {
            "mz": quick_source(double.dsn),
            "posted": {"type": "http", "token": TOKEN},
            "table": {"type": "postgres_events", "dsn": database.dsn, "poll": "1s"},
        },
        "channels": {
            name: {**common, "url": f"{receiver.url}/{name}", "concurrency": 3, "max_attempts": 1000, **more}
            for name, more in CHANNELS.items()
        },
        "alerts": {
            **{name: {**view, "relation": f"public.{name}", **more} for name, more in ALERTS.items()},
            "click": {"source": "posted", "notify": ["single"]},
            "job": {"source": "table", "event": "job", "notify": ["single"]},
        },
    }


class Events:
    """Numbered events of one alert, and the ids of their notifications."""

    def __init__(self, alert: str, origin: str, arrivals: Arrivals) -> None:
        self.sent = 0
        self._alert = alert
        self._origin = origin
        self._arrivals = arrivals

    @property
    def waits(self) -> bool:
        """Whether too many have not arrived."""
        return self.sent - len(self._arrivals.by_alert["single", self._alert]) >= BACKLOG

    def ids(self) -> set[str]:
        return {self._id(number) for number in range(1, self.sent + 1)}

    def _id(self, number: int) -> str:
        of = fingerprint(self._alert, [f"{self._origin}{number}"])
        event = Transition(self._alert, of, Kind.EVENT, started_at=0, at=0, columns=(), row=())
        return notification_id(event, "single")


async def post(clicks: Events, processes: Sequence[Instance], chance: random.Random) -> None:
    """Post an event to a random process, again and again until one has accepted it."""
    accepted = False
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        while not accepted:
            await asyncio.sleep(0.01)
            process = chance.choice(processes).process
            if process is None or not process.url:
                continue
            headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": f"{clicks.sent + 1}"}
            url = f"{process.url}/api/v1/events/click"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.post(url, json={"n": clicks.sent + 1}, headers=headers) as response:
                    accepted = response.status == 202
    clicks.sent += 1


async def a_round(processes: Sequence[Instance], receiver: Receiver, chance: random.Random) -> None:
    """At some instant one process suffers something, sometimes two or all three at once. How long that takes is about
    the length of a lease: sometimes they are ended, and sometimes they come back just in time."""
    count = len(receiver.requests) + chance.randint(1, 60)
    await until(lambda: len(receiver.requests) >= count, f"request {count}", within=60)
    chosen = chance.sample(processes, k=chance.choices([1, 2, 3], [12, 4, 1])[0])
    faults = [(one, chance.choice([*Fault]), chance.uniform(0.3, 3.0) * LEASE) for one in chosen]
    await asyncio.gather(*(one.suffer(fault, seconds) for one, fault, seconds in faults))


@pytest.mark.e2e
@pytest.mark.timeout(3600)
async def test_nothing_is_lost_when_processes_take_over(tmp_path: Path) -> None:
    """Fails, for example, when a process that was paused can still commit, or when the claims of one that was killed
    are not freed."""
    chance = seeded()
    arrivals = Arrivals(chance)
    async with (
        MaterializeDouble(progress_interval=0.05) as double,
        Receiver(arrivals.receive) as receiver,
        shared_postgres().database() as database,
    ):
        views = {name: double.create(f"public.{name}", COLUMNS, retain=3_600_000) for name in ALERTS}
        models = {"orders": Model(), "late": Model("late", hold=150), "spikes": Model("spikes", keep=200)}
        models["fraud"] = Model("fraud", hold=80, keep=120)
        clicks, jobs = Events("click", "posted/click/", arrivals), Events("job", "events/", arrivals)
        await made(database)
        config = configured(double, database, receiver)
        async with instances(3, tmp_path, config, database, chance) as processes:
            await until_some(lambda: stored(database), "the first snapshots in the ledger", within=60)
            await database.run(WITNESS)
            drivers = [driver(views[name], models[name], arrivals, chance) for name in ALERTS]

            async def change() -> None:
                for one in drivers:
                    one.step()

            async def click() -> None:
                if not clicks.waits:
                    await post(clicks, processes, chance)

            async def work() -> None:
                if not jobs.waits:
                    await database.run("INSERT INTO events (name, data) VALUES ('job', '{}')")
                    jobs.sent += 1

            async with repeated(chance, 0.1, change, click, work):
                for _ in range(ROUNDS):
                    await a_round(processes, receiver, chance)
                await until(lambda: fewest(clicks, jobs, *models.values()) > ROUNDS, "enough of each kind", within=60)
            for model in models.values():
                model.end()
            expected = {channel: set[str]().union(*(m.ids(channel) for m in models.values())) for channel in CHANNELS}
            expected["single"] |= clicks.ids() | jobs.ids()
            await until_some(lambda: arrivals.complete(expected), "everything arrived", within=60)
            await at_rest(processes, views, database)
        strangers, back = await database.run(STRANGERS), await database.run(STEPS_BACK)

    arrivals.assert_no_other(expected)
    for model in models.values():
        for channel in CHANNELS:
            arrivals.assert_in_order(model, channel)
    assert not strangers, f"commits of processes that did not lead the alert: {strangers}"
    assert not back, f"frontiers that went back: {back}"
    for process in processes:
        assert_ended_as_expected(process)
    print(Counter((*sorted(faults), status) for process in processes for faults, status in process.ends))


def fewest(*kinds: Events | Model) -> int:
    """How many events or transitions there are of the rarest kind."""
    return min(one.sent if isinstance(one, Events) else len(one.expected) for one in kinds)


def driver(relation: Relation, model: Model, arrivals: Arrivals, chance: random.Random) -> Driver:
    arrived = arrivals.by_alert["single", model.alert]
    return Driver(relation, chance, lambda: len(arrived), model, BACKLOG)


async def stored(database: Database) -> bool:
    """Whether the first snapshot of each alert is in the ledger."""
    if await database.run("SELECT to_regclass('tocsin.alerts')") == [(None,)]:
        return False
    return await database.run("SELECT count(*) FROM tocsin.alerts") == [(len(ALERTS),)]


async def at_rest(processes: Sequence[Instance], views: dict[str, Relation], database: Database) -> None:
    """All run, each with its share of the alerts and the gauges of all; nothing is pending or claimed."""

    async def shown() -> dict[str, list[bool]]:
        found: dict[str, list[bool]] = {}
        for name, view in views.items():
            rows = {
                frozenset({("id", id_), ("owner", owner)}): float(amount or 0) for id_, owner, amount in view.rows()
            }
            found[name] = [await one.gauge(name) == rows for one in processes]
        return found

    async def found() -> list[Any]:
        led = await database.run(
            "SELECT count(alert) FROM tocsin.instances LEFT JOIN tocsin.leaders USING (epoch) GROUP BY epoch ORDER BY 1"
        )
        left = await database.run("SELECT status, owner FROM tocsin.notifications WHERE status <> 'delivered'")
        return [led, left]

    await until_equal(shown, dict.fromkeys(views, [True] * len(processes)), "whether the gauges are the view")
    await until_equal(found, [[(1,), (1,), (2,)], []], "alerts per process, and pending notifications,")
    handled = "SELECT count(*) FROM events WHERE handled_as IS NULL"
    await until_equal(lambda: database.run(handled), [(0,)], "events that no process has taken")


def assert_ended_as_expected(one: Instance) -> None:
    for faults, status in one.ends:
        # 124: another process has taken over, also from one that was too slow. 3: no database at its start. -15: not
        # yet so far that it takes the signal itself.
        expected = {124, 3, *([-9] if Fault.KILL in faults else []), *([0, -15] if Fault.STOP in faults else [])}
        assert status in expected, f"ended with {status} after {faults}"
    shown = [line for line in one.logs if "level=debug" not in line]
    assert not [line for line in shown if "Traceback" in line or "defect" in line]
