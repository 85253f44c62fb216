"""Requests of several notifications whose outcome is unknown, with real processes: each id is accepted once."""

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.materialize import MaterializeDouble, Relation
from support.receiver import Answer, Received, Receiver, of_json
from support.tocsin import TocsinProcess, running
from support.waiting import until, until_some

pytestmark = pytest.mark.e2e

ROWS = 300


CHANNELS: Mapping[str, Mapping[str, Any]] = {
    "novu": {"type": "novu", "api_key": "demo", "workflow": "w", "recipients": ["ann"], "unknown_outcome_wait": "1s"},
    "webhook": {"type": "webhook", "batch": "array"},
}


class InboxProcess:
    """A running `tocsin-inbox`. `url`: its address."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self._process = process

    def freeze(self) -> None:
        """Stop the process: connections stay open, nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process go on."""
        self._process.send_signal(signal.SIGCONT)

    async def counters(self) -> dict[str, int]:
        """Its counters: `events` accepted, `doubles` delivered twice, `replays` answered from memory, ..."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/control/state") as response:
            counters: dict[str, int] = (await response.json())["counters"]
            return counters


@contextlib.asynccontextmanager
async def inbox_process() -> AsyncIterator[InboxProcess]:
    """Start one on a free port."""
    command = (sys.executable, "-m", "tocsin_demo.inbox", "--port", "0")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield InboxProcess(process, line.removeprefix("inbox: ").strip().rstrip("/"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def orders() -> AsyncIterator[tuple[MaterializeDouble, Relation]]:
    async with MaterializeDouble(progress_interval=0.1) as double:
        yield double, double.create("public.orders", [("id", "int4")], retain=3_600_000)


def config(directory: Path, dsn: str, kind: str, **channel: Any) -> dict[str, Any]:
    waits = {"timeout": "1s", "backoff_initial": "100ms", "backoff_max": "1s"}
    alert = {"source": "mz", "relation": "public.orders", "key": ["id"], "labels": ["id"], "notify": ["people"]}
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(directory / "ledger.db")},
        "sources": {"mz": {"type": "materialize", "dsn": dsn}},
        "channels": {"people": {**waits, **CHANNELS[kind], **channel}},
        "alerts": {"orders": alert},
    }


async def nothing_pending(tocsin: TocsinProcess) -> None:
    """Wait until every notification is delivered."""

    async def settled() -> bool:
        assert await tocsin.metric("tocsin_channel_pending", channel="people") == 0
        assert await tocsin.metric("tocsin_channel_dead_letters", channel="people") == 0
        return True

    await until_some(settled, "no pending notification", within=40)


async def timed_out(tocsin: TocsinProcess, count: int) -> None:
    """Wait until a number of notifications got no answer."""

    async def failed() -> bool:
        found = await tocsin.metric("tocsin_channel_failures_total", channel="people", reason="timeout")
        return (found or 0) >= count

    await until_some(failed, f"{count} timeouts", within=40)


async def test_novu_that_hangs_accepts_each_id_once(tmp_path: Path) -> None:
    """Frozen for longer than the timeout, it then finds the first requests and their repeats in its sockets."""
    async with orders() as (double, relation), inbox_process() as inbox:
        async with running(tmp_path, config(tmp_path, double.dsn, "novu", url=inbox.url)) as tocsin:
            await tocsin.until_ready()
            inbox.freeze()
            relation.insert(*((number,) for number in range(ROWS)))
            await timed_out(tocsin, 2 * ROWS)
            inbox.thaw()
            await nothing_pending(tocsin)
            await tocsin.stop()
        counters = await inbox.counters()
    assert (counters["events"], counters["doubles"], counters["messages"]) == (ROWS, 0, ROWS)
    assert counters["replays"] > 0


class Forgetful:
    """A receiver that accepts everything immediately, does not answer while `silent`, and stores the requests of each
    key."""

    def __init__(self) -> None:
        self.silent = True
        self.bodies: dict[str, list[bytes]] = {}

    def __call__(self, request: Received) -> Answer:
        self.bodies.setdefault(request.headers["idempotency-key"], []).append(request.body)
        return Answer(hang=True) if self.silent else self.accepts(len(_entries(request.body)))

    def accepts(self, count: int) -> Answer:
        entry = {"acknowledged": True, "status": "processed", "transactionId": "x"}
        return of_json(201, {"data": [entry] * count if count > 1 else entry})

    def accepted(self) -> Counter[int]:
        """How often each order was accepted: a repeat under a known key is none."""
        found: Counter[int] = Counter()
        for bodies in self.bodies.values():
            found.update(entry.get("payload", entry)["row"]["id"] for entry in _entries(bodies[0]))
        return found


def _entries(body: bytes) -> list[Any]:
    value = json.loads(body)
    entries: list[Any] = value.get("events", [value]) if isinstance(value, dict) else value
    return entries


@pytest.mark.parametrize("kind", CHANNELS)
async def test_killed_before_the_answer_repeats_the_same_requests(tmp_path: Path, kind: str) -> None:
    """The process after the kill repeats the requests of the previous one byte by byte, though more notifications are
    pending by then and would fit in."""
    receive = Forgetful()
    async with orders() as (double, relation), Receiver(receive) as receiver:
        settings = config(tmp_path, double.dsn, kind, url=receiver.url, timeout="30s", concurrency=2)
        async with running(tmp_path, settings) as tocsin:
            await tocsin.until_ready()
            relation.insert(*((number,) for number in range(30)))
            await until(lambda: len(receive.bodies) == 1, "a small request")
            relation.insert(*((number,) for number in range(30, ROWS)))
            await until(lambda: len(receive.bodies) == 2, "a large request")
            await tocsin.kill()
        before = {key: bodies[0] for key, bodies in receive.bodies.items()}
        receive.silent = False
        async with running(tmp_path, settings) as tocsin:
            await until(lambda: len(receive.accepted()) == ROWS, "every row")
            await nothing_pending(tocsin)
            await tocsin.stop()
    assert all(receive.bodies[key] == [body, body] for key, body in before.items())
    assert receive.accepted() == dict.fromkeys(range(ROWS), 1)
