"""Promise 1: after a kill at any instant, every transition since the first start has exactly one notification per
channel."""

import asyncio
import json
import signal
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.killing import Driver, Model, begun, kills, moody, seeded, some_instant, started
from support.materialize import MaterializeDouble
from support.receiver import Answer, Received, Receiver
from support.waiting import until, until_some
from tocsin.model import notification_id

KILLS = kills(50)
COLUMNS = [("id", "int4"), ("owner", "text"), ("amount", "numeric")]
CONFIG = """
web: {{listen: "127.0.0.1:0"}}
ledger: {ledger}
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


@pytest.mark.e2e
@pytest.mark.timeout(600)
async def test_every_transition_arrives_despite_kills(tmp_path: Path, ledger: dict[str, str]) -> None:
    """Fails, for example, when a frontier is written apart from its outbox rows, when a batch is acknowledged before
    its progress row, when ids depend on the process, or when a claim survives its process."""
    chance = seeded()
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
        config.write_text(CONFIG.format(ledger=json.dumps(ledger), dsn=double.dsn, url=receiver.url))
        driver = Driver(relation, chance, lambda: len(bodies) // 2)
        async with started(config) as process:
            starting = await begun(process, double, relation, ledger)
            driving = asyncio.create_task(driver.run())
            for _ in range(KILLS if "path" in ledger else KILLS // 3):
                await some_instant(process, receiver, starting, chance)
                await process.kill_and_start()
            await until(lambda: len(driver.model.expected) > KILLS // 3, "enough transitions", within=60)
            driving.cancel()
            expected = {channel: driver.model.ids(channel) for channel in ("first", "second")}
            await until_some(lambda: _all_arrived(expected, accepted), within=60)
            assert await process.end(signal.SIGTERM) == 0

    for channel in ("first", "second"):
        assert set(accepted[channel]) == expected[channel]
        _assert_in_order(driver.model, channel, accepted[channel])
    assert all(len(texts) == 1 for texts in bodies.values()), "a repeat differed from what it repeats"


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
