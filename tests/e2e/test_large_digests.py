"""Digests larger than their receivers take, with a real process: everything arrives, in parts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.inbox_server import inbox_server
from support.materialize import MaterializeDouble
from support.receiver import Answer, Received, Receiver
from support.tocsin import running
from support.waiting import until_some

pytestmark = pytest.mark.e2e

ROWS = 400
LIMIT = 28_000
NOVU_LIMIT = 524_288
"""Bytes of a payload that a channel to Novu sends, unless its settings allow more."""


def receive(request: Received) -> Answer:
    return Answer(status=413 if len(request.body) > LIMIT else 200)


def accepted_rows(requests: list[Received], path: str) -> list[int]:
    """The rows that were accepted at a path, in the order of their arrival."""
    found: list[int] = []
    for request in requests:
        if request.path == path and len(request.body) <= LIMIT:
            bodies = request.json if isinstance(request.json, list) else [request.json]
            found += [one["row"]["id"] for body in bodies for one in body.get("merged", [body])]
    return found


async def test_digest_above_receiver_limit_arrives_in_parts(tmp_path: Path) -> None:
    """With a known limit the receiver gets no larger body; with an unknown one it refuses each body once."""
    async with (
        MaterializeDouble(progress_interval=0.1) as double,
        Receiver(receive) as receiver,
        inbox_server() as inbox,
    ):
        queue = double.create("public.queue", [("id", "int4"), ("note", "text")], retain=3_600_000)
        novu = {"type": "novu", "api_key": "demo", "url": inbox.url, "workflow": "w", "recipients": ["ann"]}
        channels: dict[str, Any] = {
            "cards": {"type": "webhook", "url": f"{receiver.url}/max", "interval": "2s"},
            "cards_known": {
                "type": "webhook",
                "url": f"{receiver.url}/known",
                "interval": "2s",
                "max_body": LIMIT,
            },
            "people": {**novu, "interval": "2s"},
            "batch": {"type": "webhook", "url": f"{receiver.url}/batch", "batch": "array", "batch_size": 500},
        }
        settings = {
            "web": {"listen": "127.0.0.1:0"},
            "ledger": {"path": str(tmp_path / "ledger.db")},
            "sources": {"mz": {"type": "materialize", "dsn": double.dsn}},
            "channels": channels,
            "alerts": {
                "queue": {"source": "mz", "relation": "public.queue", "key": ["id"], "notify": [*channels]},
            },
        }
        async with running(tmp_path, settings) as tocsin:

            async def all_delivered() -> bool:
                for name in channels:
                    delivered = await tocsin.metric("tocsin_channel_delivered_total", channel=name)
                    assert delivered == ROWS + 1, f"{name}: {delivered}"
                    assert await tocsin.metric("tocsin_channel_dead_letters", channel=name) == 0
                return True

            await tocsin.until_ready()
            queue.insert((0, "first"))
            await tocsin.until_metric("tocsin_channel_pending", 0, channel="people")
            queue.insert(*((number, "n" * 1500) for number in range(1, ROWS + 1)))
            await until_some(all_delivered, "all delivered", within=60)
            await tocsin.stop()
    for path in ("/max", "/known"):
        assert accepted_rows(receiver.requests, path) == [*range(ROWS + 1)], "in order, each once"
    assert sorted(accepted_rows(receiver.requests, "/batch")) == [*range(ROWS + 1)]
    bodies = Counter(request.body for request in receiver.requests)
    assert max(bodies.values()) == 1, "no body twice"
    assert max(len(request.body) for request in receiver.requests if request.path == "/known") <= LIMIT
    counters = inbox.core.engine.counters
    assert (counters.doubles, counters.messages) == (0, counters.events)
    payloads = [len(json.dumps(message.payload)) for message in inbox.messages()]
    assert NOVU_LIMIT / 2 < max(payloads) <= NOVU_LIMIT
