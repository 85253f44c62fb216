"""Handlers behind a ledger and a dispatcher, and in a whole process."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from support.channels import FakeChannel
from support.dispatching import DispatcherHarness
from support.events_table import INSERT, handled, made
from support.postgres import Database
from support.tocsin import Harness, new_harness, running
from support.waiting import until, until_some
from tocsin.channels.python import Config, build
from tocsin.errors import Reason
from tocsin.handlers import Envelope
from tocsin.ledger.base import Status

pytestmark = pytest.mark.e2e

LOCAL = """
import asyncio
import os
import time
from pathlib import Path
from tocsin.handlers import Reject

FOLDER = Path(__file__).parent

def _note(name, envelope):
    with (FOLDER / name).open("a") as file:
        file.write(f"{envelope['status']} {envelope['row']['id']}\\n")

def good(envelope):
    _note("good", envelope)
    return f"row {envelope['row']['id']}"

async def bad(envelope, log):
    _note("bad", envelope)
    if envelope["row"]["id"] == 2:
        raise Reject("unknown id 2")
    raise ValueError("out of order")

def flaky(envelope):
    _note("flaky", envelope)
    if not (FOLDER / "fixed").exists():
        raise ValueError("out of order")
    return "fixed"

def fatal(envelope):
    _note("fatal", envelope)
    if envelope["row"]["id"] == 4:
        os._exit(70)
    time.sleep(0.05)

def slow(envelope):
    _note("begun", envelope)
    while not (FOLDER / "go").exists():
        (FOLDER / "go").parent.stat()
    _note("ended", envelope)
"""


def handler(call: Callable[..., Any], **settings: Any) -> FakeChannel:
    """A channel that calls this handler."""
    module = ModuleType("handlers_of_a_test")
    module.handler = call  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    config = Config.model_validate({"type": "python", "handler": f"{module.__name__}:handler", **settings})
    return cast("FakeChannel", build("hook", config, {}))


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[DispatcherHarness]:
    made = DispatcherHarness(tmp_path / "ledger.db")
    yield made
    await made.close()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        (tmp_path / "own_handlers.py").write_text(LOCAL)
        made.orders.insert(("1", "Ann", "10"))
        yield made


def local(harness: Harness, name: str, **more: Any) -> dict[str, Any]:
    """A channel for a handler of the local module."""
    timing = {"backoff_initial": "10ms", "backoff_max": "20ms", "max_attempts": 3}
    return {"type": "python", "handler": f"own_handlers:{name}", "path": str(harness.directory), **timing, **more}


async def test_failing_handler_is_retried_until_dead_letter(outbox: DispatcherHarness) -> None:
    outcomes: list[Any] = [False, ValueError("no room"), None]

    async def flaky(envelope: Envelope) -> object:
        if envelope["row"]["order_id"] == 2:
            raise KeyError("stock")
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    outbox.start(handler(flaky), max_attempts=3)
    [good, poison] = await outbox.fire("1", "2")
    for _ in range(4):
        await outbox.advance(10)
    await outbox.delivered(good)
    record = await outbox.record(poison)
    assert (record.status, record.reason, record.attempts) == (Status.DEAD, Reason.EXHAUSTED, 3)
    assert record.detail == "3 attempts; the last: internal: KeyError: 'stock'"
    assert (await outbox.record(good)).attempts == 3


async def test_failing_handler_does_not_stop_another(harness: Harness) -> None:
    harness.config["channels"] = {"good": local(harness, "good"), "bad": local(harness, "bad")}
    harness.alert["notify"] = ["good", "bad"]
    async with harness.run() as tocsin:
        harness.orders.insert(("2", "Bob", "20"))

        async def settled() -> list[dict[str, Any]]:
            listed = (await tocsin.json("/api/v1/notifications"))["notifications"]
            assert [one["status"] for one in listed if one["status"] == "pending"] == []
            assert len(listed) == 4
            return cast("list[dict[str, Any]]", listed)

        recorded = {
            (one["channel"], one["row"]["id"]): (one["status"], one["reason"], one["detail"])
            for one in await until_some(settled)
        }
        assert recorded == {
            ("good", 1): ("delivered", "", "row 1"),
            ("good", 2): ("delivered", "", "row 2"),
            ("bad", 1): ("dead", "exhausted", "3 attempts; the last: internal: ValueError: out of order"),
            ("bad", 2): ("dead", "rejected", "unknown id 2"),
        }
        assert sorted((harness.directory / "bad").read_text().splitlines()) == ["fired 1"] * 3 + ["fired 2"]
        assert len(tocsin.logged("the handler raised", "level=debug")) == 3


async def test_event_retries_only_its_failing_handler(database: Database, tmp_path: Path) -> None:
    (tmp_path / "own_handlers.py").write_text(LOCAL)
    await made(database)
    timing = {"backoff_initial": "10ms", "backoff_max": "20ms", "max_attempts": 100_000}
    config = {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(tmp_path / "ledger.db")},
        "sources": {"shop": {"type": "postgres_events", "dsn": database.dsn}},
        "channels": {
            name: {"type": "python", "handler": f"own_handlers:{name}", "path": str(tmp_path), **timing}
            for name in ("flaky", "good")
        },
        "alerts": {"order": {"source": "shop", "notify": ["flaky", "good"]}},
    }

    def calls(name: str) -> list[str]:
        file = tmp_path / name
        return file.read_text().splitlines() if file.exists() else []

    async with running(tmp_path, config) as tocsin:

        async def recorded() -> dict[str, tuple[str, str]]:
            listed = (await tocsin.json("/api/v1/notifications"))["notifications"]
            return {one["channel"]: (one["status"], one["detail"]) for one in listed}

        async def settled() -> bool:
            assert await recorded() == {"flaky": ("delivered", "fixed"), "good": ("delivered", "row 1")}
            return True

        await tocsin.until_ready()
        await database.run(INSERT, 1)
        await until(lambda: calls("good") and len(calls("flaky")) >= 3, "one has succeeded, the other is retried")
        # The event is committed, although one of the two still fails.
        await until_some(lambda: _taken(database))
        assert (await recorded())["flaky"][0] == "pending"
        (tmp_path / "fixed").touch()
        await until_some(settled)
    assert calls("good") == ["event 1"]
    assert set(calls("flaky")) == {"event 1"}


async def _taken(database: Database) -> bool:
    return await handled(database) == {1: "taken"}


async def test_shutdown_waits_for_a_running_call(harness: Harness) -> None:
    harness.config["channels"] = {"slow": local(harness, "slow")}
    harness.alert["notify"] = ["slow"]
    async with harness.run() as tocsin:
        await until((harness.directory / "begun").exists)
        ending = asyncio.create_task(tocsin.stop())
        await tocsin.until_logged("event=stopping")
        (harness.directory / "go").touch()
        assert await ending == 0
    assert (harness.directory / "ended").read_text() == "fired 1\n"


async def test_hanging_call_does_not_block_shutdown(harness: Harness) -> None:
    harness.config["channels"] = {"slow": local(harness, "slow", timeout="100ms", max_attempts=100)}
    harness.alert["notify"] = ["slow"]
    async with harness.run() as tocsin:
        await tocsin.until_logged("a handler hangs")
        assert await tocsin.stop() == 0
        assert tocsin.logged("handlers still run and are abandoned", "calls=1")
    (harness.directory / "go").touch()


async def test_notification_that_ends_its_process_is_given_up_on(harness: Harness) -> None:
    """Others that were under way at the same time are delivered, each alone."""
    for number in range(2, 9):
        harness.orders.insert((str(number), "Bob", "20"))
    harness.config["channels"] = {"fatal": local(harness, "fatal", max_attempts=None, concurrency=8)}
    harness.alert["notify"] = ["fatal"]
    for _ in range(3):
        async with harness.run() as tocsin:
            assert await tocsin.exited() == 70
    async with harness.run() as tocsin:

        async def settled() -> bool:
            listed = (await tocsin.json("/api/v1/notifications"))["notifications"]
            recorded = {one["row"]["id"]: (one["status"], one["reason"]) for one in listed}
            assert recorded == dict.fromkeys(range(1, 9), ("delivered", "")) | {4: ("dead", "crashed")}
            return True

        await until_some(settled)
        [dead] = (await tocsin.json("/api/v1/dead-letters"))["notifications"]
        assert dead["detail"].startswith("the process ended during 3 attempts")
    calls = (harness.directory / "fatal").read_text().splitlines()
    assert calls.count("fired 4") == 3
    assert max(calls.count(f"fired {number}") for number in range(1, 9)) == 3
