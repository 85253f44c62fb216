"""Digests larger than their receivers take, with a real process: everything arrives, in parts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.inbox_server import inbox_server
from support.materialize import MaterializeDouble
from support.receiver import Answer, Received, Receiver
from support.tocsin import TocsinProcess, command, running
from support.waiting import until_some

pytestmark = pytest.mark.e2e

ROWS = 400
LIMIT = 28_000
NOVU_LIMIT = 524_288
"""Bytes of a payload that a channel to Novu sends, unless its settings allow more."""
CHANNELS = ("cards", "cards_known", "people", "batch")


def received_rows(requests: list[Received], path: str) -> list[int]:
    """The rows that arrived at a path, in the order of their arrival."""
    found: list[int] = []
    for request in requests:
        if request.path == path and (len(request.body) <= LIMIT or path == "/known"):
            bodies = request.json if isinstance(request.json, list) else [request.json]
            found += [one["row"]["id"] for body in bodies for one in body.get("merged", [body])]
    return found


async def all_delivered(tocsin: TocsinProcess, *channels: str) -> None:
    async def all_are_delivered() -> bool:
        for channel in channels:
            delivered = await tocsin.metric("tocsin_channel_delivered_total", channel=channel)
            assert delivered == ROWS + 1, f"{channel}: {delivered}"
        return True

    await until_some(all_are_delivered, "all delivered", within=60)


def config(directory: Path, dsn: str, hook: str, inbox: str) -> dict[str, Any]:
    channels: dict[str, Any] = {
        "cards": {"type": "webhook", "url": f"{hook}/max", "interval": "2s"},
        "cards_known": {"type": "webhook", "url": f"{hook}/known", "interval": "2s", "max_body": LIMIT},
        "people": {"type": "novu", "api_key": "demo", "url": inbox, "workflow": "w", "recipients": ["ann"]},
        "batch": {"type": "webhook", "url": f"{hook}/batch", "batch": "array", "batch_size": 500},
    }
    channels["people"]["interval"] = "2s"
    alert = {"source": "mz", "relation": "public.queue", "key": ["id"], "labels": {"n": "id"}, "notify": [*CHANNELS]}
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(directory / "ledger.db")},
        "sources": {"mz": {"type": "materialize", "dsn": dsn}},
        "channels": channels,
        "alerts": {"queue": alert},
    }


async def test_digest_above_receiver_limit_arrives_in_parts(tmp_path: Path) -> None:
    """With a known limit the receiver gets no larger body; with an unknown one it refuses each body once."""

    def receive(request: Received) -> Answer:
        return Answer(status=413 if request.path in ("/max", "/batch") and len(request.body) > LIMIT else 200)

    async with (
        MaterializeDouble(progress_interval=0.1) as double,
        Receiver(receive) as receiver,
        inbox_server() as inbox,
    ):
        queue = double.create("public.queue", [("id", "int4"), ("note", "text")], retain=3_600_000)
        settings = config(tmp_path, double.dsn, receiver.url, inbox.url)
        async with running(tmp_path, settings) as tocsin:
            await tocsin.until_ready()
            queue.insert((0, "first"))
            await tocsin.until_metric("tocsin_channel_pending", 0, channel="people")
            queue.insert(*((number, "n" * 1500) for number in range(1, ROWS + 1)))
            await all_delivered(tocsin, *CHANNELS)
            for channel in CHANNELS:
                assert await tocsin.metric("tocsin_channel_dead_letters", channel=channel) == 0
            await tocsin.stop()
    for path in ("/max", "/known"):
        assert received_rows(receiver.requests, path) == [*range(ROWS + 1)], "in order, each once"
    assert sorted(received_rows(receiver.requests, "/batch")) == [*range(ROWS + 1)]
    bodies = Counter(request.body for request in receiver.requests)
    assert max(bodies.values()) == 1, "no body twice"
    assert max(len(request.body) for request in receiver.requests if request.path == "/known") <= LIMIT
    counters = inbox.core.engine.counters
    assert (counters.doubles, counters.messages) == (0, counters.events)
    payloads = [len(json.dumps(message.payload)) for message in inbox.messages()]
    assert NOVU_LIMIT / 2 < max(payloads) <= NOVU_LIMIT


async def test_retry_of_dead_letters_sends_no_large_digest(tmp_path: Path) -> None:
    """A single row that is too large stays a dead letter, whatever else is retried."""

    def receive(request: Received) -> Answer:
        return Answer(status=413 if len(request.body) > LIMIT else 200)

    async with MaterializeDouble(progress_interval=0.1) as double, Receiver(receive) as receiver:
        queue = double.create("public.queue", [("id", "int4"), ("note", "text")], retain=3_600_000)
        settings = config(tmp_path, double.dsn, receiver.url, receiver.url)
        settings["channels"] = {"cards": settings["channels"]["cards"]}
        settings["alerts"]["queue"]["notify"] = ["cards"]
        async with running(tmp_path, settings) as tocsin:
            await tocsin.until_ready()
            queue.insert((0, "first"))
            await tocsin.until_metric("tocsin_channel_pending", 0, channel="cards")
            queue.insert(*((number, "n" * (40_000 if number == 7 else 1500)) for number in range(1, 30)))
            await tocsin.until_metric("tocsin_channel_delivered_total", 29, channel="cards")
            await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="cards")
            before = len(receiver.requests)
            status, output, errors = await command(tmp_path, "outbox", "retry", "--all", "--channel", "cards")
            assert status == 0, output + errors
            await until_some(lambda: _arrived(receiver, before + 1), "the retry")
            await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="cards")
            await tocsin.stop()
    [again] = receiver.requests[before:]
    assert again.json["row"]["id"] == 7
    assert "merged" not in again.json
    keys = [request.headers["idempotency-key"] for request in receiver.requests]
    assert len(keys) == len(set(keys)), "no key twice after a final error"


async def _arrived(receiver: Receiver, count: int) -> bool:
    return len(receiver.requests) >= count
