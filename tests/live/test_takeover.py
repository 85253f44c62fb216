"""Several processes on one ledger, with a running Materialize (TOCSIN_TEST_MATERIALIZE_DSN): each is killed, paused and
cut off, and the others take over. What must arrive is worked out from the history of the views, which they keep."""

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.killing import Model, kills, repeated, seeded
from support.live import LiveServer, serving
from support.live_server import VARIABLE
from support.postgres import Database
from support.receiver import Receiver
from support.takeover import STEPS_BACK, STRANGERS, WITNESS, Arrivals, Fault, Instance, instances
from support.tcp_proxy import TcpProxy
from support.waiting import until, until_some
from tocsin.model import Row

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no server"),
    pytest.mark.timeout(3600),
]

ROUNDS = kills(3)
LEASE = 1.5
BACKLOG = 200
"""Pending notifications from which on the views do not change."""
LONG = 120.0
ALERTS: dict[str, dict[str, Any]] = {
    "orders": {},
    "late": {"for": "150ms"},
    "spikes": {"keep_firing_for": "200ms"},
    "fraud": {"for": "80ms", "keep_firing_for": "120ms"},
    "asked": {},
    "spare": {},
}
CHANNELS: dict[str, dict[str, Any]] = {"single": {}, "merged": {"interval": "300ms"}, "several": {"batch": "array"}}
LATEST = "SELECT DISTINCT ON (id) * FROM {schema}.changes WHERE view = '{view}' ORDER BY id, n DESC"


def configured(dsn: str, schema: str, receiver: Receiver) -> dict[str, Any]:
    common = {"type": "webhook", "timeout": "2s", "backoff_initial": "10ms", "backoff_max": "50ms"}
    view = {"source": "mz", "key": ["id"], "labels": ["id", "owner"], "value": "amount", "notify": [*CHANNELS]}
    subjects = {name: {"relation": f"{schema}.{name}"} for name in ALERTS}
    subjects["asked"] = {"query": f"SELECT id, owner, amount FROM {schema}.asked WHERE id >= 0"}
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"lease": f"{LEASE * 1000:g}ms"},
        "sources": {
            "mz": {
                "type": "materialize",
                "dsn": dsn,
                "connect_timeout": "30s",
                "progress_timeout": "20s",
                "backoff_max": "1s",
            }
        },
        "channels": {
            name: {**common, "url": f"{receiver.url}/{name}", "concurrency": 3, "max_attempts": 1000, **more}
            for name, more in CHANNELS.items()
        },
        "alerts": {name: {**view, **subjects[name], **more} for name, more in ALERTS.items()},
    }


class Views:
    """Views over one table of changes, to which rows are only added: of each id the last one counts."""

    def __init__(self, server: LiveServer, database: Database, chance: random.Random) -> None:
        self._changes = 0
        self._server = server
        self._database = database
        self._chance = chance

    async def create(self) -> None:
        schema = self._server.schema
        await self._server.run(
            f"CREATE TABLE {schema}.changes (n int8, view text, id uint8, owner text, amount uint8, gone bool)"
        )
        for view in ALERTS:
            latest = LATEST.format(schema=schema, view=view)
            await self._server.run(
                f"CREATE MATERIALIZED VIEW {schema}.{view} WITH (RETAIN HISTORY FOR '3 hours')"
                f" AS SELECT id, owner, amount FROM ({latest}) AS latest WHERE NOT gone"
            )

    async def change(self) -> None:
        """A few ids of a few views at one timestamp, unless too much is pending."""
        pending = "SELECT count(*) FROM tocsin.notifications WHERE status = 'pending'"
        if (await self._database.run(pending))[0][0] >= BACKLOG:
            return
        chance, rows = self._chance, []
        for view in chance.sample([*ALERTS], k=chance.randint(1, len(ALERTS))):
            for id_ in chance.sample(range(12), k=chance.randint(1, 3)):
                self._changes += 1
                amount = chance.choice([chance.randrange(10**9), 2**64 - 1])
                rows.append((self._changes, view, str(id_), chance.choice("abc"), amount, chance.random() < 0.4))
        values = ", ".join(f"({n}, '{v}', {i}, '{o}', {a}, {g})" for n, v, i, o, a, g in rows)
        await self._server.run(f"INSERT INTO {self._server.schema}.changes VALUES {values}")

    async def history(self, view: str, since: int, until: int) -> Model:
        """What must arrive of a view whose rows came after `since`."""
        of = ALERTS[view]
        hold, keep = (int(str(of.get(name, "0ms")).removesuffix("ms")) for name in ("for", "keep_firing_for"))
        model = Model(view, hold, keep)
        steps: defaultdict[tuple[int, str], Row | None] = defaultdict(lambda: None)
        statement = f"COPY (SUBSCRIBE {self._server.schema}.{view} AS OF {since} UP TO {until}) TO STDOUT"
        async with (
            await psycopg.AsyncConnection.connect(self._server.dsn, autocommit=True) as connection,
            connection.cursor().copy(statement.encode()) as copy,
        ):
            async for at, diff, id_, *values in copy.rows():
                assert diff in ("1", "-1"), "an id is there once"
                step = int(at), str(id_)
                steps[step] = (id_, *values) if diff == "1" else steps[step]
        for (at, key), row in sorted(steps.items(), key=lambda step: step[0][0]):
            model.change(at, key, row)
        model.end()
        return model

    async def now(self) -> int:
        """A time at which everything is that was inserted."""
        [[now]] = await self._server.run(
            f"SELECT mz_now()::text FROM (SELECT count(*) FROM {self._server.schema}.changes)"
        )
        return int(now)

    async def rows(self, view: str) -> dict[frozenset[tuple[str, str]], float]:
        found = await self._server.run(f"SELECT id::text, owner, amount::float8 FROM {self._server.schema}.{view}")
        return {frozenset({("id", id_), ("owner", owner)}): amount for id_, owner, amount in found}


async def a_round(processes: Sequence[Instance], receiver: Receiver, proxy: TcpProxy, chance: random.Random) -> None:
    """At some instant processes suffer something, for about as long as a lease is; sometimes Materialize is away."""
    count = len(receiver.requests) + chance.randint(1, 60)
    await until(lambda: len(receiver.requests) >= count, f"request {count}", within=LONG)
    chosen = chance.sample(processes, k=chance.choices([1, 2, 3], [12, 4, 1])[0])
    faults = [(one, chance.choice([*Fault]), chance.uniform(0.3, 3.0) * LEASE) for one in chosen]
    if is_away := chance.random() < 0.3:
        await proxy.cut()
    await asyncio.gather(*(one.suffer(fault, seconds) for one, fault, seconds in faults))
    if is_away:
        await proxy.open()


async def test_nothing_is_lost_when_processes_take_over_live(tmp_path: Path, database: Database) -> None:
    """Each notification has the id that follows from the history, and the gauges of all processes are the views."""
    chance = seeded()
    arrivals = Arrivals(chance)
    address = conninfo_to_dict(os.environ[VARIABLE])
    async with (
        serving("live") as server,
        TcpProxy(str(address["host"]), int(address.get("port") or 6875)) as proxy,
        Receiver(arrivals.receive) as receiver,
    ):
        assert isinstance(server, LiveServer)
        views = Views(server, database, chance)
        await views.create()
        config = configured(make_conninfo(server.dsn, port=proxy.port), server.schema, receiver)
        async with instances(3, tmp_path, config, database, chance) as processes:
            await until_some(lambda: stored(database), "the first snapshots in the ledger", within=LONG)
            await database.run(WITNESS)
            since = await views.now()
            async with repeated(chance, 0.1, views.change):
                for _ in range(ROUNDS):
                    await a_round(processes, receiver, proxy, chance)
            end = await views.now() + 1
            models = [await views.history(view, since, end) for view in ALERTS]
            expected = {channel: set[str]().union(*(one.ids(channel) for one in models)) for channel in CHANNELS}
            await until_some(lambda: arrivals.complete(expected), "everything arrived", within=LONG)
            await until_some(lambda: at_rest(processes, views, database), "at rest", within=LONG, longest=2)
        strangers, back = await database.run(STRANGERS), await database.run(STEPS_BACK)

    assert len(expected["single"]) > ROUNDS
    arrivals.assert_no_other(expected)
    for model in models:
        for channel in CHANNELS:
            arrivals.assert_in_order(model, channel)
    assert not strangers, f"commits of processes that did not lead the alert: {strangers}"
    assert not back, f"frontiers that went back: {back}"
    lines = [line for process in processes for line in process.logs]
    assert not [line for line in lines if "Traceback" in line or "defect" in line]
    # The views keep their history, so nothing was missed at any time.
    assert not [line for line in lines if "gap:" in line or "snapshot differs" in line]


async def stored(database: Database) -> bool:
    """Whether the first snapshot of each alert is in the ledger."""
    if await database.run("SELECT to_regclass('tocsin.alerts')") == [(None,)]:
        return False
    return await database.run("SELECT count(*) FROM tocsin.alerts") == [(len(ALERTS),)]


async def at_rest(processes: Sequence[Instance], views: Views, database: Database) -> bool:
    """All run, each with its share of the alerts and the gauges of all; nothing is pending or claimed."""
    for view in ALERTS:
        rows = await views.rows(view)
        for number, one in enumerate(processes):
            found = await one.gauge(view)
            assert found == rows, f"{view} of process {number} is {found}, not {rows}"
    led = await database.run(
        "SELECT count(alert) FROM tocsin.instances LEFT JOIN tocsin.leaders USING (epoch) GROUP BY epoch ORDER BY 1"
    )
    assert led == [(2,), (2,), (2,)], f"alerts per process: {led}"
    left = await database.run("SELECT status, owner FROM tocsin.notifications WHERE status <> 'delivered'")
    assert not left, f"pending: {left[:5]}"
    return True
