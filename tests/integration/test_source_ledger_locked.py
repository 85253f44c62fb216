"""A ledger that cannot be written for a while: what sources hold meanwhile, and what senders get."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.events_table import INSERT, handled, made, source, taking
from support.intakes import Locked, Offered, intake_of_orders
from support.pipelines import at_work
from support.postgres import BURST, QUEUE_IS_EMPTY, Database
from support.waiting import until, until_some
from tocsin.errors import SourceError
from tocsin.exposition import State
from tocsin.ledger.sqlite import open_ledger
from tocsin.sources import http


async def test_rows_go_to_others_while_ledger_is_locked(database: Database, tmp_path: Path) -> None:
    """No transaction stays open: it would hold the rows, and the notifications of all clients of the server."""
    await made(database)
    await database.run(INSERT, 50)
    ledger, offered, go = open_ledger(tmp_path / "ledger.db"), Offered(), asyncio.Event()
    locked = Locked(ledger, 10**9)

    async def sleep(_: float) -> None:
        await go.wait()

    intake = intake_of_orders(tmp_path, source(database), locked, offered, sleep=sleep)
    async with at_work(intake):
        await until(lambda: intake.state is State.ERROR, "the ledger is locked")
        states = "SELECT state FROM pg_stat_activity WHERE application_name = 'tocsin' AND datname = current_database()"
        await until_some(lambda: _equal(database, states, [("idle",)]), "no transaction is open")
        async with taking(source(database, batch=20)) as other:
            await other.take()
        locked.times = 0
        go.set()
        await until(lambda: len(offered.notifications) == 30, "the rest")
        await until(lambda: intake.state is State.UP, "it is up again")
        await until_some(lambda: _all_taken(database), "every event is marked")
    await ledger.close()


async def test_notifications_are_read_while_ledger_is_locked(database: Database, tmp_path: Path) -> None:
    await made(database)
    await database.run(INSERT, 5)
    ledger, offered = open_ledger(tmp_path / "ledger.db"), Offered()
    locked = Locked(ledger, 10**9)

    async def sleep(_: float) -> None:
        await asyncio.sleep(0.05)

    intake = intake_of_orders(tmp_path, source(database), locked, offered, sleep=sleep)
    async with at_work(intake):
        await until(lambda: intake.state is State.ERROR, "the ledger is locked")
        await database.run(BURST, "events")
        await until_some(lambda: _equal(database, QUEUE_IS_EMPTY, [(True,)]), "all are read")
        assert intake.state is State.ERROR
        locked.times = 0
        await until(lambda: len(offered.notifications) == 5, "the events")
    await ledger.close()


async def _all_taken(database: Database) -> bool:
    return set((await handled(database)).values()) == {"taken"}


async def _equal(database: Database, statement: str, rows: list[tuple[Any]]) -> bool:
    return await database.run(statement) == rows


async def test_requests_are_refused_while_ledger_is_locked(tmp_path: Path) -> None:
    """A sender gets 503 at once, and its events are accepted once the ledger can be written."""
    posted = http.build("q", http.Config.model_validate({"token": "a-token-of-some-length"}))
    headers = {"authorization": "Bearer a-token-of-some-length", "idempotency-key": "1"}
    ledger, offered, pauses = open_ledger(tmp_path / "ledger.db"), Offered(), asyncio.Semaphore(0)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"n": 1}'

    async def sleep(_: float) -> None:
        await pauses.acquire()

    intake = intake_of_orders(tmp_path, posted, Locked(ledger, 1), offered, sleep=sleep)
    async with at_work(intake):
        await until(lambda: intake.state is State.UP, "it listens")
        for _ in range(3):  # the first one finds the ledger locked, the others come during the pause
            with pytest.raises(SourceError, match="cannot store events now"):
                await asyncio.wait_for(posted.receive("order", headers, body()), 5)
        assert intake.message == "the ledger is locked"
        pauses.release()
        await until(lambda: intake.state is State.UP, "the ledger works")
        assert await posted.receive("order", headers, body()) == http.Answer(202, {"events": 1})
    assert offered.values("n") == ["1"]
    await ledger.close()
