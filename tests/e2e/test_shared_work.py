"""Several processes with one configuration share a ledger in PostgreSQL: each leads some alerts, all serve all gauges,
and what one that ended had to do is done by the others."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.alertmanager import alertmanager
from support.materialize import Relation
from support.postgres import Database
from support.receiver import Answer, Received
from support.tcp_proxy import TcpProxy
from support.tocsin import Harness, TocsinProcess, quick_channel
from support.waiting import SOON, until, until_equal

pytestmark = pytest.mark.e2e

PROMPT = SOON / 2
"""Seconds in which the others take over after a kill on a busy machine; one in good order leaves at once."""
VIEWS = ("orders", "late", "spikes", "fraud")


@pytest.fixture
def harness(shared: Harness) -> Harness:
    shared.add_views(*VIEWS[1:])
    return shared


@pytest.fixture
async def three(harness: Harness) -> AsyncIterator[list[TocsinProcess]]:
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(harness.run()) for _ in range(3)]
        for one in started:
            await one.until_ready()
        yield started


def views(harness: Harness) -> list[Relation]:
    return [harness.double.relation(f"public.{name}") for name in VIEWS]


async def led(one: TocsinProcess) -> set[str]:
    return {name for name in VIEWS if await one.metric("tocsin_instance_leads", alert=name)}


async def until_shared(processes: Sequence[TocsinProcess], *shares: int) -> None:
    """Wait until each alert has one leader, and each process its share; in any order."""

    async def found() -> tuple[list[int], Counter[str]]:
        leads = [await led(one) for one in processes]
        return sorted(map(len, leads)), Counter(name for names in leads for name in names)

    await until_equal(found, (sorted(shares), Counter(VIEWS)), "the shares of the processes")


async def test_alerts_are_spread_evenly_and_each_row_notified_once(
    harness: Harness, three: list[TocsinProcess]
) -> None:
    await until_shared(three, 1, 1, 2)
    for view in views(harness):
        view.insert(("1", "Ann", "10"))
    await until(lambda: len(harness.receiver.requests) == len(VIEWS), "one notification for each")
    assert len({one["id"] for one in harness.envelopes()}) == len(VIEWS)


async def test_every_process_serves_every_gauge(harness: Harness, three: list[TocsinProcess]) -> None:
    harness.orders.insert(("1", "Ann", "10"))
    for one in three:
        await harness.until_shown(one)


async def test_others_take_over_from_one_that_was_killed(harness: Harness, three: list[TocsinProcess]) -> None:
    """The gauges of the others have no gap meanwhile."""
    await until_shared(three, 1, 1, 2)
    harness.orders.insert(("1", "Ann", "10"))
    await harness.until_notified(("fired", "1"))
    killed = await leader(*three, of="orders")
    others = [one for one in three if one is not killed]
    for one in others:
        await harness.until_shown(one)
    await killed.kill()
    harness.orders.insert(("2", "Bob", "20"))
    began = time.monotonic()
    while len(harness.notified()) < 2:
        assert time.monotonic() - began < PROMPT
        for one in others:
            assert frozenset({("id", "1"), ("name", "Ann")}) in await one.gauge("orders")
    await until_shared(others, 2, 2)
    await harness.until_notified(("fired", "1"), ("fired", "2"))


async def test_what_one_was_sending_when_it_was_killed_is_sent_by_another(
    harness: Harness, three: list[TocsinProcess]
) -> None:
    """With the same id, and without a restart of the one that was killed."""
    await until_shared(three, 1, 1, 2)
    sends = await leader(*three, of="orders")
    harness.receiver.script(Answer(hang=True))
    harness.orders.insert(("1", "Ann", "10"))
    await harness.receiver.arrived(1)
    await sends.kill()
    await until(lambda: len(harness.receiver.requests) == 2, "it is sent again")
    assert len({one["id"] for one in harness.envelopes()}) == 1


async def test_others_take_over_at_once_from_one_that_is_stopped(harness: Harness, three: list[TocsinProcess]) -> None:
    await until_shared(three, 1, 1, 2)
    first, *others = three
    assert await first.stop() == 0
    began = time.monotonic()
    for view in views(harness):
        view.insert(("1", "Ann", "10"))
    await until(lambda: len(harness.receiver.requests) == len(VIEWS), "one notification for each")
    assert time.monotonic() - began < PROMPT
    await until_shared(others, 2, 2)


@pytest.fixture
async def leader_that_sends(harness: Harness) -> AsyncIterator[tuple[TocsinProcess, TocsinProcess]]:
    """The leader of `orders`, whose request to `stuck` is not answered, and another process."""
    harness.config["channels"]["stuck"] = quick_channel(f"{harness.receiver.url}/stuck", timeout="15s")
    harness.alert["notify"] = ["hook", "stuck"]
    harness.receiver.otherwise = lambda request: Answer(hang=request.path == "/stuck")
    async with harness.run() as first, harness.run() as second:
        await until_shared([first, second], 2, 2)
        harness.orders.insert(("1", "Ann", "10"))
        await until_equal(lambda: arrived(harness), ["/hook", "/stuck"], "what arrived")
        yield (first, second) if "orders" in await led(first) else (second, first)


async def arrived(harness: Harness) -> list[str]:
    return sorted(request.path for request in harness.receiver.requests)


async def test_one_that_stops_hands_over_before_all_is_sent(
    harness: Harness, database: Database, leader_that_sends: tuple[TocsinProcess, TocsinProcess]
) -> None:
    leader, _ = leader_that_sends
    leader.signal(signal.SIGTERM)
    await until(lambda: len(harness.orders.streams) == 1, "the subscription of the other one alone")
    harness.orders.insert(("2", "Bob", "20"))
    await until_equal(lambda: arrived(harness), ["/hook", "/hook", "/stuck", "/stuck"], "what arrived")
    assert await database.run("SELECT count(*) FROM tocsin.instances") == [(2,)], "processes"
    harness.receiver.release()
    assert await leader.exited() == 0


async def test_one_taken_over_while_it_stops_ends_at_once(
    harness: Harness, database: Database, leader_that_sends: tuple[TocsinProcess, TocsinProcess]
) -> None:
    """It does not try to record what another process sends again."""
    leader, _ = leader_that_sends
    leader.signal(signal.SIGTERM)
    await leader.until_logged("event=stopping")
    leader.signal(signal.SIGSTOP)
    await until_equal(lambda: database.run("SELECT count(*) FROM tocsin.instances"), [(1,)], "processes")
    harness.receiver.release()
    leader.signal(signal.SIGCONT)
    began = time.monotonic()
    assert await leader.exited() == 0
    assert time.monotonic() - began < PROMPT


async def test_one_that_was_paused_writes_and_sends_nothing_more(
    harness: Harness, three: list[TocsinProcess], database: Database
) -> None:
    """Fails if the epoch is not part of each transaction."""
    await until_shared(three, 1, 1, 2)
    paused = await leader(*three, of="orders")
    paused.signal(signal.SIGSTOP)
    harness.orders.insert(("1", "Ann", "10"))
    await harness.until_notified(("fired", "1"))
    paused.signal(signal.SIGCONT)
    began = time.monotonic()
    assert await paused.exited() == 124
    assert time.monotonic() - began < PROMPT
    assert paused.logged("another process has taken over")
    assert len(harness.receiver.requests) == 1
    await until_shared([one for one in three if one is not paused], 2, 2)
    assert await database.run("SELECT count(*) FROM tocsin.instances") == [(2,)]


async def test_one_whose_connections_lead_nowhere_ends_soon(harness: Harness, database: Database) -> None:
    """Long before a transaction counts as lost, for which it may take a minute."""
    target = conninfo_to_dict(database.dsn)
    async with TcpProxy(str(target["host"]), int(target.get("port") or 5432)) as proxy, harness.run() as other:
        await other.until_ready()
        harness.config["ledger"]["url"] = make_conninfo(database.dsn, host="127.0.0.1", port=proxy.port)
        async with harness.run() as cut:
            await until_shared([other, cut], 2, 2)
            proxy.lose()
            for view in views(harness):
                view.insert(("1", "Ann", "10"))
            assert await cut.exited() == 124
            await until(lambda: len(harness.receiver.requests) == len(VIEWS), "one notification for each")


async def test_one_that_comes_gets_its_share(harness: Harness) -> None:
    async with harness.run() as first:
        await until_shared([first], 4)
        async with harness.run() as second:
            await until_shared([first, second], 2, 2)
            for view in views(harness):
                view.insert(("1", "Ann", "10"))
            await until(lambda: len(harness.receiver.requests) == len(VIEWS), "one notification for each")


async def test_rate_limit_is_one_of_all_processes(harness: Harness) -> None:
    """Three processes with a limit each would need a third of the time."""
    harness.config["channels"]["hook"] |= {"rate_limit": 20, "concurrency": 4}
    async with AsyncExitStack() as stack:
        three = [await stack.enter_async_context(harness.run()) for _ in range(3)]
        await until_shared(three, 1, 1, 2)
        times: list[float] = []

        def note(_: Received) -> Answer:
            times.append(time.monotonic())
            return Answer()

        harness.receiver.otherwise = note
        for view in views(harness):
            view.insert(*((str(number), "Ann", "10") for number in range(20)))
        await until(lambda: len(times) == 20 * len(VIEWS), "all are sent")
        assert times[-1] - times[0] > 0.8 * len(times) / 20


async def test_refusal_pauses_the_channel_of_all_processes(harness: Harness, three: list[TocsinProcess]) -> None:
    """Each would send one otherwise, to find out by itself."""
    await until_shared(three, 1, 1, 2)
    harness.receiver.otherwise = lambda _: Answer(status=401)
    leader_of = {name: one for one in three for name in await led(one)}
    harness.orders.insert(("1", "Ann", "10"))

    async def states() -> list[str]:
        return [(await one.json("/api/v1/channels"))["channels"][0]["state"] for one in three]

    await until_equal(states, ["paused"] * 3, "the states of the channel")
    other = next(name for name in VIEWS if leader_of[name] is not leader_of["orders"])
    harness.double.relation(f"public.{other}").insert(("1", "Ann", "10"))
    await until_equal(lambda: pending(three[0]), 2, "pending notifications")
    assert len(harness.receiver.requests) == 1


async def test_alertmanager_gets_each_alert_from_its_leader(harness: Harness, tmp_path: Path) -> None:
    """Nothing that fires ends there when another process comes, or the one that leads it goes."""
    (tmp_path / "am.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    async with alertmanager(tmp_path, tmp_path / "am.yml") as manager, AsyncExitStack() as stack:
        output = {"type": "alertmanager", "urls": [manager.url], "resend_interval": "1s", "expiry": "1h"}
        harness.config["channels"] = {"am": output}
        for name in VIEWS:
            harness.config["alerts"][name]["notify"] = [{"channel": "am", "alertname": name}]
        for view in views(harness):
            view.insert(("1", "Ann", "10"))

        async def fires() -> set[str]:
            return set(await manager.alerts())

        first = await stack.enter_async_context(harness.run())
        await until_equal(fires, {*VIEWS}, "what fires in Alertmanager")
        second = await stack.enter_async_context(harness.run())
        await until_shared([first, second], 2, 2)
        assert await fires() == {*VIEWS}
        await (await leader(first, second, of="orders")).kill()
        [left] = [one for one in (first, second) if one.running]
        await until_shared([left], 4)
        assert await fires() == {*VIEWS}
        harness.orders.delete(("1", "Ann", "10"))
        await until_equal(fires, {*VIEWS[1:]}, "what fires in Alertmanager")


async def test_alert_held_by_for_stays_in_alertmanager_at_a_takeover(harness: Harness, tmp_path: Path) -> None:
    """Its new leader goes on counting. From the start it would be too late: what is not sent for four seconds ends."""
    (tmp_path / "am.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    async with alertmanager(tmp_path, tmp_path / "am.yml") as manager, AsyncExitStack() as stack:
        output = {"type": "alertmanager", "urls": [manager.url], "resend_interval": "1s", "expiry": "4s"}
        harness.config["channels"] = {"am": output}
        for name in VIEWS:
            harness.config["alerts"][name] |= {"notify": [{"channel": "am", "alertname": name}], "for": "6s"}
        harness.orders.insert(("1", "Ann", "10"))
        both = [await stack.enter_async_context(harness.run()) for _ in range(2)]

        async def fires() -> set[str]:
            return set(await manager.alerts())

        await until_equal(fires, {"orders"}, "what fires in Alertmanager")
        await until_shared(both, 2, 2)
        await (await leader(*both, of="orders")).kill()
        began = time.monotonic()
        while time.monotonic() - began < 6:
            assert await fires() == {"orders"}
            await asyncio.sleep(0.2)


async def test_process_follows_others_only_if_it_should(harness: Harness) -> None:
    harness.config["ledger"]["follow"] = False
    harness.orders.insert(("1", "Ann", "10"))
    async with harness.run() as first, harness.run() as second:
        await until_shared([first, second], 2, 2)
        leads = await leader(first, second, of="orders")
        await harness.until_shown(leads)
        other = second if leads is first else first
        assert not await other.gauge("orders")
        await other.until_ready()
        await leads.stop()
        await harness.until_shown(other)


async def leader(*processes: TocsinProcess, of: str) -> TocsinProcess:
    return next(iter([one for one in processes if of in await led(one)]))


async def pending(one: TocsinProcess) -> int:
    """As the outbox of all processes has it."""
    return int((await one.json("/api/v1/channels"))["channels"][0]["pending"])
