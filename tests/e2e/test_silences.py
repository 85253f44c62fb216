"""Silences of a whole process: made while it runs and while it does not, kept through kills, and shared by several."""

import asyncio
import json
import signal
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from support.killing import Driver, Process, begun, kills, seeded, started
from support.materialize import MaterializeDouble
from support.receiver import Answer, Received, Receiver
from support.tocsin import Harness, command, write
from support.waiting import until, until_equal, until_some
from tocsin.model import Kind, Transition, notification_id

pytestmark = pytest.mark.e2e
KILLS = kills(6)
COLUMNS = [("id", "int4"), ("owner", "text"), ("amount", "numeric")]


async def tocsin(directory: Path, *arguments: str) -> str:
    """The output of a command that succeeds."""
    status, output, errors = await command(directory, *arguments)
    assert status == 0, errors
    return output


async def silence(directory: Path, matchers: str, lasts: str = "1h") -> str:
    """Make a silence; its id."""
    made = await tocsin(directory, "silence", "add", matchers, "--for", lasts, "--reason", "a move", "--json")
    return str(json.loads(made)["id"])


async def held(directory: Path) -> dict[str, int]:
    """How many notifications silences hold, by channel."""
    lines = (await tocsin(directory, "silence", "list", "--json")).splitlines()
    counts: dict[str, int] = defaultdict(int)
    for line in lines:
        for channel, count in json.loads(line)["held"].items():
            counts[channel] += count
    return dict(counts)


async def test_silence_holds_through_a_kill_and_is_sent_at_its_end(harness: Harness) -> None:
    folder = harness.directory
    async with harness.run() as process:
        await harness.until_notified(("fired", "1"))
        id_ = await silence(folder, 'alertname="orders", name!="Zoe"')
        await process.until_logged('event="silence active"')
        harness.orders.insert(("2", "Bob", "20"))
        harness.orders.insert(("3", "Cid", "30"))
        harness.orders.insert(("4", "Zoe", "40"))
        await harness.until_notified(("fired", "1"), ("fired", "4"))
        await until_equal(lambda: held(folder), {"hook": 2}, "what is held")
        assert await process.gauge("orders")  # the rows are shown all the same
        await process.until_metric("tocsin_channel_silenced", 2.0, channel="hook")
        assert await process.metric("tocsin_channel_pending", channel="hook") == 0
        assert await process.metric("tocsin_silences", state="active") == 1
        await process.kill()
    async with harness.run() as process:
        await process.until_ready()
        harness.orders.delete(("3", "Cid", "30"))
        harness.orders.delete(("1", "Ann", "10"))
        await until_equal(lambda: held(folder), {"hook": 4}, "what is held")
        await process.kill()
    output = await tocsin(folder, "silence", "end", id_)
    assert "ended; it held 4" in output
    async with harness.run() as process:
        announced = await process.until_logged('event="silence ended"')
        assert "released=2 dropped=2" in announced
        await harness.until_notified(("fired", "1"), ("fired", "4"), ("fired", "2"), ("resolved", "1"))
    assert len(harness.receiver.requests) == 4  # each once
    dropped = (await tocsin(folder, "outbox", "list", "--dropped", "--json")).splitlines()
    assert {json.loads(line)["reason"] for line in dropped} == {"silenced"}


async def test_several_processes_hold_and_end_together(shared: Harness) -> None:
    folder = shared.directory
    async with shared.run() as one, shared.run() as two:
        for process in (one, two):
            await process.until_ready()
        id_ = await silence(folder, 'name=~"A.*"')
        for process in (one, two):
            await process.until_logged('event="silence active"')
        for number in range(20):
            shared.orders.insert((str(number), "Ann" if number % 2 else "Bob", "1"))
        await shared.until_notified(*(("fired", str(number)) for number in range(0, 20, 2)))
        await until_equal(lambda: held(folder), {"hook": 10}, "what is held")
        await one.kill()
        await tocsin(folder, "silence", "end", id_)
        await shared.until_notified(*(("fired", str(number)) for number in range(20)))
        assert len(two.logged('event="silence ended"')) == 1
    assert len(shared.receiver.requests) == 20


async def more(driver: Driver, chance: Random) -> None:
    """Wait until some more transitions have happened."""
    count = len(driver.model.expected) + chance.randint(1, 40)
    await until(lambda: len(driver.model.expected) >= count, "more transitions")


async def working(process: Process, place: float) -> None:
    """Wait until it has worked for so long since its start."""
    await until(lambda: process.worked >= place, "a place in its start")


async def records(directory: Path) -> list[dict[str, Any]]:
    """Every notification that the ledger has."""
    listed = await tocsin(directory, "outbox", "list", "--json", "--limit", "100000")
    return [json.loads(line) for line in listed.splitlines()]


async def change(directory: Path, chance: Random) -> None:
    """Make a silence, or end one."""
    lines = (await tocsin(directory, "silence", "list", "--json")).splitlines()
    active = [one["id"] for one in map(json.loads, lines) if one["state"] == "active"]
    if len(active) > 1:
        await command(directory, "silence", "end", chance.choice(active))
    else:
        await silence(directory, chance.choice(("owner=a", 'owner=~"a|b"', 'id=~"[0-5]"', 'alertname=~".+"')))


async def dropped_some(directory: Path, chance: Random) -> bool:
    """Whether something was dropped at the end of a silence, which a process does a second after its start."""
    if "dropped" in await tocsin(directory, "outbox", "list", "--dropped", "--json", "--limit", "1"):
        return True
    await change(directory, chance)
    return False


CONFIG = """
web: {{listen: "127.0.0.1:0"}}
ledger: {ledger}
sources:
  mz: {{type: materialize, dsn: "{dsn}", backoff_initial: 20ms, backoff_max: 100ms}}
channels:
  first: {{type: webhook, url: "{url}/first", concurrency: 3, backoff_initial: 10ms, backoff_max: 50ms}}
alerts:
  orders:
    source: mz
    relation: public.orders
    key: [id]
    labels: [id, owner]
    notify: [first]
"""


@pytest.mark.timeout(1200)
async def test_every_transition_is_sent_or_dropped_despite_kills(tmp_path: Path, ledger: dict[str, str]) -> None:
    """Silences begin and end all the time. What is dropped began and ended while it was silenced, and what is sent of a
    row is sent in order."""
    chance = seeded()
    accepted: list[str] = []

    def receive(request: Received) -> Answer:
        accepted.append(request.headers["idempotency-key"])
        return Answer()

    async with MaterializeDouble(progress_interval=0.05) as double, Receiver(receive) as receiver:
        relation = double.create("public.orders", COLUMNS, retain=3_600_000)
        text = CONFIG.format(ledger=json.dumps(ledger), dsn=double.dsn, url=receiver.url)
        config = write(tmp_path / "tocsin.yaml", text)
        driver = Driver(relation, chance, lambda: 10**9)
        async with started(config) as process:
            starting = await begun(process, double, relation, ledger)
            driving = asyncio.create_task(driver.run())
            for _ in range(KILLS if "path" in ledger else KILLS // 3):
                await change(tmp_path, chance)
                await more(driver, chance)
                if chance.random() < 0.4:
                    await working(process, chance.uniform(0.0, starting))
                await process.kill_and_start()
            await until_some(lambda: dropped_some(tmp_path, chance), "something is dropped", within=120, longest=1.0)
            driving.cancel()
            for line in (await tocsin(tmp_path, "silence", "list", "--json")).splitlines():
                await command(tmp_path, "silence", "end", json.loads(line)["id"])

            expected = {notification_id(one, "first"): one for one in driver.model.expected}

            async def settled() -> bool:
                statuses = Counter(record["status"] for record in await records(tmp_path))
                assert statuses.total() == len(expected), f"{statuses} of {len(expected)}"
                return not statuses["pending"]

            # Each look is a process that reads them all.
            await until_some(settled, "nothing pending", within=300, longest=5.0)
            assert await process.end(signal.SIGTERM) == 0

    found = {one["id"]: one for one in await records(tmp_path)}
    assert found.keys() == expected.keys()
    dropped = {id_ for id_, one in found.items() if one["status"] == "dropped"}
    assert {one["status"] for one in found.values()} == {"delivered", "dropped"}
    assert {found[id_]["reason"] for id_ in dropped} == {"silenced"}
    assert set(accepted) == expected.keys() - dropped
    check_order(expected, accepted, dropped)


def check_order(expected: Mapping[str, Transition], accepted: Sequence[str], dropped: set[str]) -> None:
    """An episode is dropped as a whole, at its end; what is sent of a row is sent in order."""
    episodes: dict[tuple[str, int], list[str]] = defaultdict(list)
    rows: dict[str, list[int]] = defaultdict(list)
    for id_, one in expected.items():
        episodes[one.fingerprint, one.started_at].append(id_)
        if id_ not in dropped:
            rows[one.fingerprint].append(accepted.index(id_))
    for ids in episodes.values():
        if gone := dropped.intersection(ids):
            assert gone == set(ids)
            assert expected[ids[-1]].kind is Kind.RESOLVED
    assert all(places == sorted(places) for places in rows.values())
