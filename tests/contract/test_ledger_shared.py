"""What several processes have in common through a ledger in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest
from pydantic import SecretStr

from support.ledger import commit, delivered, fired, settlement, transition
from support.postgres import Database
from support.waiting import SOON, until, until_equal, until_some
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Filter, Status
from tocsin.ledger.postgres import LedgerServer, PostgresLedger, append, ledger, listed, open_ledger
from tocsin.ledger.postgres.connection import Link
from tocsin.ledger.postgres.instances import Member
from tocsin.ledger.postgres.membership import Membership
from tocsin.ledger.postgres.opening import try_to_join
from tocsin.model import Notification

Two = tuple[PostgresLedger, PostgresLedger]


@pytest.fixture
def server(database: Database) -> LedgerServer:
    return LedgerServer(dsn=SecretStr(database.dsn), lease=1.0)


@pytest.fixture
async def two(server: LedgerServer) -> AsyncIterator[Two]:
    ledgers = await open_ledger(server), await open_ledger(server)
    for one in ledgers:
        await one.sharing.want([], ["hook"])
    await know_each_other(*ledgers)
    yield ledgers
    for one in ledgers:
        await one.close()


async def know_each_other(*ledgers: PostgresLedger) -> None:
    await until(lambda: all(len(one.sharing.instances) == len(ledgers) for one in ledgers), "they meet")


async def killed(ledger: PostgresLedger) -> None:
    """Have a ledger renew its lease no more, as if its process were killed or paused."""
    assert isinstance(ledger.sharing, Membership)
    await ledger.sharing.close()


async def claimed(ledger: PostgresLedger) -> list[Notification]:
    return [*(await ledger.claim("hook", 1000)).heads]


def probe(value: Callable[[], object]) -> Callable[[], "asyncio.Future[object]"]:
    async def found() -> object:
        return value()

    return lambda: asyncio.ensure_future(found())


@pytest.fixture(params=["by the server", "here"])
def placed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who places new notifications: the server does it for a few."""
    if request.param == "here":
        monkeypatch.setattr(append, "FEW", 0)


async def test_notification_is_claimed_by_one(two: Two) -> None:
    """The other process gets what the one that committed it has no room for."""
    first, second = two
    written = await fired(first, *map(str, range(500)))
    taken = [one.seq for ledger in two for one in await claimed(ledger)]
    assert sorted(taken) == [one.seq for one in written]
    assert await claimed(first) == []
    assert await claimed(second) == []


async def test_second_of_a_key_waits_for_the_first_of_another_process(two: Two) -> None:
    first, second = two
    [head] = await fired(first, "1")
    assert await claimed(first) == [head]
    await second.commit(commit([transition("1", at=2000, started_at=1000)]))
    assert await claimed(second) == []
    assert await first.settle([delivered(head)])
    assert len(await claimed(first)) == 1


@pytest.mark.usefixtures("placed")
async def test_second_of_a_key_does_not_wait_for_one_that_is_settled_meanwhile(two: Two, database: Database) -> None:
    """Who settles the first cannot see the second yet, so it makes nothing ready; and the commit waits for no one."""
    first, second = two
    [head] = await fired(first, "1")
    assert await claimed(first) == [head]
    async with await psycopg.AsyncConnection.connect(database.dsn) as settling:
        await settling.execute("UPDATE tocsin.notifications SET status = 'delivered'")
        async with asyncio.timeout(SOON):
            [follower] = await second.commit(commit([transition("1", at=2000, started_at=1000)]))
        assert await claimed(second) == []
    await until_equal(probe(lambda: second.sharing.waiting), {"hook"}, "channels with work")
    assert await claimed(second) == [follower]


@pytest.mark.usefixtures("placed")
async def test_those_that_wait_take_no_place_in_a_page(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two
    monkeypatch.setattr(ledger, "_CLAIMED_AT_ONCE", 0)
    [head] = await fired(first, "1")
    assert await claimed(first) == [head]
    [_, other] = await second.commit(commit([transition("1", at=2000, started_at=1000), transition("2")]))
    assert (await second.claim("hook", 1)).heads == [other]


@pytest.mark.usefixtures("placed")
async def test_commit_claims_what_the_channel_has_room_for(
    two: Two, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is left to other processes."""
    monkeypatch.setattr(ledger, "_CLAIMED_AT_ONCE", 2)
    await fired(two[0], *"12345")
    assert await database.run("SELECT count(owner), count(*) FROM tocsin.notifications") == [(2, 5)]


@pytest.mark.usefixtures("placed")
async def test_one_that_another_process_writes_meanwhile_is_written_once(two: Two, database: Database) -> None:
    """A broker may deliver an event again while the process that got it first is writing it."""
    one, _ = two
    [notification] = await fired(one, "1")
    await database.run("CREATE TABLE copied AS SELECT * FROM tocsin.notifications")
    await database.run("DELETE FROM tocsin.notifications")
    async with await psycopg.AsyncConnection.connect(database.dsn) as other:
        await other.execute("INSERT INTO tocsin.notifications SELECT * FROM copied")
        writing = asyncio.create_task(fired(one, "1", "2"))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        await until_some(lambda: database.run(waiting), "it waits for the other")
    assert [each.transition for each in await writing] == [transition("2")]
    assert await database.run("SELECT count(*) FROM tocsin.transitions") == [(2,)]
    assert [each.id for each in await one.find(Filter())][1:] == [notification.id]


async def test_retry_is_sent_by_whoever_claims_it_first(two: Two) -> None:
    first, second = two
    [head] = await fired(first, "1")
    assert await claimed(first) == [head]
    assert await first.settle([settlement(head, Status.PENDING)])
    await until_equal(probe(lambda: second.sharing.waiting), {"hook"}, "channels with work")
    assert [one.id for one in await claimed(second)] == [head.id]
    assert await claimed(first) == []


async def test_claims_of_one_that_ended_are_inherited(two: Two) -> None:
    """And not those of one that runs."""
    first, second = two
    await fired(first, "1")
    await fired(second, "2")
    assert len(await claimed(first)) == 1
    assert len(await claimed(second)) == 1
    await second.inherit("hook", 0.0)
    assert await claimed(second) == []
    await killed(first)
    await until(lambda: second.sharing.ended, "its lease is over")
    await second.inherit("hook", 0.0)
    assert len(await claimed(second)) == 1


async def test_work_that_is_left_shows_in_the_next_meeting(two: Two) -> None:
    first, second = two
    await fired(first, *map(str, range(500)))
    await until_equal(probe(lambda: second.sharing.waiting), {"hook"}, "channels with work")


async def test_turns_of_a_channel_follow_one_another(two: Two) -> None:
    waits = [await ledger.turn("hook", 10.0) for _ in range(2) for ledger in two]
    assert [round(seconds / 10) for seconds in waits] == [0, 1, 2, 3]
    assert await two[0].turn("pager", 10.0) == 0.0


async def test_refusal_is_known_to_the_others_until_it_is_over(two: Two) -> None:
    first, second = two
    await first.hold("hook", 30.0, "wrong key")
    await until(lambda: second.sharing.holds, "the other one knows")
    held = second.sharing.holds["hook"]
    assert held.why == "wrong key"
    assert 25 < held.until - second.now() <= 30
    assert not first.sharing.holds, "who was refused finds out by itself"
    await first.hold("hook", 0.0, "")
    await until(lambda: not second.sharing.holds, "it is over")


async def test_alert_is_led_by_one_and_handed_over(server: LedgerServer) -> None:
    both = ["early", "late"]
    first = await open_ledger(server)
    await first.sharing.want(both, ["hook"])
    second = await open_ledger(server)
    await second.sharing.want(both, ["hook"])
    assert (first.sharing.leads, second.sharing.leads) == ({*both}, set())
    with pytest.raises(LedgerError) as caught:
        await second.commit(commit([transition("1")]))
    assert caught.value.reason is LedgerReason.FENCED
    await until_equal(probe(lambda: first.sharing.gives), {"late"}, "what the first is to give")
    await first.sharing.hand_over(["late"])
    await until_equal(probe(lambda: second.sharing.leads), {"late"}, "what the second leads")
    assert len(await second.commit(commit([transition("1")]))) == 1
    await first.close()
    await second.close()


async def test_instances_are_listed_with_what_they_lead(two: Two, server: LedgerServer) -> None:
    for one in two:
        await one.sharing.want(["early", "late"], [])
    await until(lambda: all(len(one.sharing.leads) == 1 for one in two), "each leads one")
    found = await listed(server)
    assert [one.leads for one in found] == [frozenset(one.sharing.leads) for one in two]
    assert [one.epoch for one in found] == sorted(one.epoch for one in found)


async def test_one_that_could_not_reach_the_server_ends_no_other_at_once(two: Two, database: Database) -> None:
    """After an outage all come back; the first must not end those that are a moment slower."""
    await database.run("UPDATE tocsin.instances SET until = clock_timestamp() - interval '1 minute'")
    first, second = two
    assert isinstance(first.sharing, Membership)
    first.sharing._renewed_at -= 10  # it has not reached the server for a while
    assert not first.sharing.valid
    await first.sharing.want([], [])
    assert await database.run("SELECT count(*) FROM tocsin.instances") == [(2,)]
    await second.sharing.want([], [])
    assert len(await fired(second, "1")) == 1


async def test_alerts_that_could_not_be_handed_over_are_tried_again(server: LedgerServer) -> None:
    """Each meeting says so until they are: the transaction that hands them over may fail."""
    first = await open_ledger(server)
    await first.sharing.want(["late", "orders"], [])
    second = await open_ledger(server)
    await second.sharing.want(["late", "orders"], [])
    async with asyncio.timeout(SOON):
        for _ in range(5):
            await first.sharing.changed()
    assert len(first.sharing.gives) == 1
    await first.sharing.hand_over(first.sharing.gives)
    await until(lambda: second.sharing.leads, "its share")
    for one in (first, second):
        await one.close()


async def test_defect_of_a_meeting_is_reported_and_does_not_end_them(
    server: LedgerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without meetings a process would send nothing more, and say nothing of it."""
    ledger = await open_ledger(server)
    with monkeypatch.context() as patch:
        patch.setattr("tocsin.ledger.postgres.membership.meet", lambda *_, **__: 1 / 0)
        await until(lambda: ledger.fault, "the defect shows")
    assert "ZeroDivisionError" in str(ledger.fault)
    await until(lambda: ledger.fault is None, "it has met the others again")
    assert ledger.sharing.valid
    await ledger.close()


async def test_another_configuration_begins_beside_one_that_resigned(server: LedgerServer, database: Database) -> None:
    """Not one with other tables, or that copies them, since the other one still writes these."""
    former = await open_ledger(server, configuration=lambda: {"alerts.late": "1"})
    link = Link(server)
    try:
        [head] = await fired(former, "1")
        assert await claimed(former) == [head]
        assert isinstance(await try_to_join(link, server, {"alerts.late": "2"}), str)
        await former.sharing.resign()
        older = r"""regexp_replace(configuration, '(tables": ")\d+', '\10')"""
        [[now]] = await database.run("SELECT configuration FROM tocsin.ledger")
        await database.run(f"UPDATE tocsin.ledger SET configuration = {older}")
        assert isinstance(await try_to_join(link, server, {"alerts.late": "2"}), str)
        await database.run(f"UPDATE tocsin.ledger SET configuration = '{now}'")
        assert isinstance(await try_to_join(link, server, {"copy": "it"}), str)
        assert isinstance(await try_to_join(link, server, {"alerts.late": "2"}), Member)
        await former.settle([delivered(head)])
        assert await database.run("SELECT status FROM tocsin.notifications") == [("delivered",)]
    finally:
        await link.close()
        await former.close()


async def test_one_that_joins_has_others_read_nothing_again(two: Two) -> None:
    """They run the same configuration, so none of them holds what it makes dead letters of."""
    first, second = two
    await fired(second, "1")
    assert await second.dead_letter_unrouted(["pager"]) == 1
    assert not await first.changed_elsewhere()
    assert await claimed(second) == []
