"""The ledger's database fails over to a standby, with and without synchronous replication."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from support.postgres import Postgres, postgres, standby
from support.receiver import Answer, Received
from support.tocsin import Harness, new_harness
from support.waiting import seen, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("failing ledger")]

BACK = 5.0
"""Seconds after the promotion in which work goes on."""


class Pair(NamedTuple):
    """A server and its standby."""

    primary: Postgres
    replica: Postgres

    @property
    def dsn(self) -> str:
        """For the one of them that accepts writes."""
        return make_conninfo(self.primary.dsn(), host=f"{self.primary.data},{self.replica.data}")

    def ask(self, statement: str) -> object:
        """Ask the primary."""
        with psycopg.connect(self.primary.dsn(), autocommit=True) as admin:
            [answer] = admin.execute(statement.encode()).fetchone() or [None]
            return answer

    def until_replicated(self) -> None:
        """Wait until the standby has everything."""
        behind = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_flush_lsn()"
        seen(lambda: self.ask(behind), "the standby has everything")

    async def promote(self) -> float:
        """Make the standby the primary. Returns when it was."""
        async with await psycopg.AsyncConnection.connect(self.replica.dsn(), autocommit=True) as admin:
            await admin.execute("SELECT pg_promote()")
        return time.monotonic()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with postgres() as primary, standby(primary) as replica:
        yield Pair(primary, replica)
        primary.start()  # or it could not be stopped


@pytest.fixture
async def harness(tmp_path: Path, pair: Pair) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        made.config["ledger"] = {"url": pair.dsn}
        yield made


async def test_synchronous_standby_takes_over_with_everything(harness: Harness, pair: Pair) -> None:
    """Nothing is repeated, and the process goes on."""
    with psycopg.connect(pair.primary.dsn(), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        admin.execute("SELECT pg_reload_conf()")
    seen(lambda: pair.ask("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"), "it is synchronous")
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        harness.orders.insert(("1", "Ann", "10"))
        await harness.until_notified(("fired", "1"))
        await asyncio.to_thread(pair.primary.crash)
        harness.orders.insert(("2", "Bob", "20"))
        await tocsin.until_not_ready("ledger: ", "no server of the URL accepts writes")
        began = await pair.promote()
        await harness.until_notified(("fired", "1"), ("fired", "2"))
        assert time.monotonic() - began < BACK
        await tocsin.until_ready()
    assert len(harness.receiver.requests) == 2


async def test_commits_that_a_standby_lacks_are_made_again(harness: Harness, pair: Pair) -> None:
    """With asynchronous replication. The process would go on with what it has in memory, and never try again what was
    pending in the lost commits."""
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        harness.orders.insert(("1", "Ann", "10"))
        await harness.until_notified(("fired", "1"))
        pair.until_replicated()
        await asyncio.to_thread(pair.replica.stop)

        def without_third(request: Received) -> Answer:
            return Answer(status=503 if request.json["row"]["id"] == 3 else 200)

        harness.receiver.otherwise = without_third
        harness.orders.insert(("2", "Bob", "20"))
        harness.orders.insert(("3", "Cid", "30"))
        await harness.until_notified(("fired", "1"), ("fired", "2"), ("fired", "3"))
        await asyncio.to_thread(pair.primary.crash)
        await asyncio.to_thread(pair.replica.start)
        began = await pair.promote()
        assert await tocsin.exited() == 124
        assert time.monotonic() - began < BACK
        assert tocsin.logged("the database has lost what was committed last")
    before = len(harness.receiver.requests)
    harness.receiver.otherwise = lambda _: Answer(status=200)
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await until(lambda: len(harness.receiver.requests) == before + 2, "what was lost is notified again")
        await tocsin.until_metric("tocsin_channel_pending", 0, channel="hook")
        # The same ids, or these would be five.
        assert sorted(harness.notified()) == [("fired", "1"), ("fired", "2"), ("fired", "3")]
    assert sorted(one["row"]["id"] for one in harness.envelopes()[before:]) == [2, 3]
