"""Webhook deliveries a second of notifications that wait in a durable outbox, each in a request of its own, until the
last is settled in the ledger, and the same in batches; next to a real Alertmanager, which stores nothing, with each
alert a group of its own, and to a loop over the HTTP client alone."""

import asyncio
import json
import sqlite3
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from bench.double import double_process
from bench.harness import Figure, Machine, configuration, running, spread
from bench.receiving import Arrivals, ReceiverProcess, receiver_process
from support.alertmanager import Alertmanager, alertmanager
from support.monitoring_programs import installed
from support.waiting import until

COUNT = 5_000
ROUNDS = 5
CONCURRENCY = 16
_BODY = 450
"""Bytes of an envelope of the load."""
_AT_ONCE = 500
"""Alerts in one request to Alertmanager: larger ones are no faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One wave of deliveries. `rate`: deliveries a second from the first request at the receiver on. `whole`: seconds
    from before the wave was caused. `receiver`: the part of a core that the receiver needed."""

    rate: float
    whole: float
    receiver: float


async def measure() -> list[Figure]:
    ours: list[Wave] = []
    batched: list[Wave] = []
    theirs: list[Wave] = []
    client: list[float] = []
    machine = Machine()
    for _ in range(ROUNDS):
        with machine.round() as directory:
            ours.append(await _ours(directory))
        with machine.round() as directory:
            batched.append(await _ours(directory, batch="array"))
        with machine.round():
            client.append(await _client())
        if installed("alertmanager"):
            with machine.round() as directory:
                theirs.append(await alertmanager_wave(directory, COUNT))
    return [*_figures(ours, batched, theirs, statistics.median(client)), machine.figure()]


def _figures(ours: Sequence[Wave], batched: Sequence[Wave], theirs: Sequence[Wave], client: float) -> list[Figure]:
    what = f"{COUNT:,} webhooks, median of {ROUNDS} rounds"
    rate, together = (statistics.median(wave.rate for wave in waves) for waves in (ours, batched))
    if not theirs:
        return [Figure(f"{what}, durable", f"{_summary(ours)}; {rate / client:.2f} x the client alone")]
    peer = statistics.median(wave.rate for wave in theirs)
    return [
        Figure(f"aiohttp alone: {what}, {CONCURRENCY} at once, nothing kept", f"{client:,.0f}/s"),
        Figure(f"Alertmanager: {what}, first to last request, nothing kept", _summary(theirs)),
        Figure(
            f"{what}, durable, {CONCURRENCY} at once, first request to last one settled",
            f"{_summary(ours)}; {rate / peer:.2f} x Alertmanager, {rate / client:.2f} x the client alone",
            ">= Alertmanager",
            rate >= peer,
        ),
        Figure(
            f"{what}, durable, up to 100 in one request, first request to last one settled",
            f"{_summary(batched)}; {together / peer:.2f} x Alertmanager",
            ">= Alertmanager",
            together >= peer,
        ),
    ]


def _summary(waves: Sequence[Wave]) -> str:
    rates = [wave.rate for wave in waves]
    whole = statistics.median(wave.whole for wave in waves)
    receiver = max(wave.receiver for wave in waves)
    return (
        f"{statistics.median(rates):,.0f}/s ({spread(rates)}); {whole:.2f} s with what caused them; the receiver was"
        f" busy for {receiver:.0%} at most"
    )


async def _ours(directory: Path, **settings: Any) -> Wave:
    async with (
        double_process(1, live=COUNT) as double,
        receiver_process() as receiver,
        running(
            directory,
            configuration(
                directory,
                double.dsn,
                {"hook": {"url": f"{receiver.url}/hook", "concurrency": CONCURRENCY, **settings}},
                {"load": ["hook"]},
            ),
        ) as tocsin,
    ):
        ledger = directory / "ledger.db"
        await until(lambda: _settled(ledger) == COUNT + 1)
        await receiver.take("/hook")
        began = time.time()
        await double.change("load", COUNT)
        await until(lambda: _settled(ledger) == 2 * COUNT + 1)
        ended = time.time()
        arrivals = await receiver.take("/hook")
        assert await tocsin.stop() == 0
    ids = [one["id"] for _, body in arrivals.requests for one in (body if isinstance(body, list) else [body])]
    assert len(ids) == len({*ids}) == COUNT
    return _wave(arrivals, began, ended)


def _settled(ledger: Path) -> int:
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        found: int = db.execute("SELECT count(*) FROM notifications WHERE status = 'delivered'").fetchone()[0]
    return found


async def _client() -> float:
    """Requests a second of the HTTP client alone: what can be reached before anything is composed or kept."""
    payload = b"x" * _BODY
    async with receiver_process() as receiver, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        numbers = iter(range(COUNT))

        async def send() -> None:
            for number in numbers:
                headers = {"Idempotency-Key": str(number), "Content-Type": "text/plain"}
                async with session.post(f"{receiver.url}/hook", data=payload, headers=headers) as response:
                    assert response.status == 200

        began = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(CONCURRENCY)))
        return COUNT / (time.perf_counter() - began)


async def alertmanager_wave(directory: Path, count: int) -> Wave:
    """What a real Alertmanager delivers of so many alerts, each a group of its own."""
    file = directory / "alertmanager.yml"
    async with receiver_process() as receiver:
        file.write_text(json.dumps(_peer_config(f"{receiver.url}/hook")))  # JSON is YAML
        async with alertmanager(directory, file) as peer:
            await _fire(peer, receiver, "warm", count)
            await receiver.take("/hook")
            began = time.time()
            await _fire(peer, receiver, "measured", count)
            arrivals = await receiver.take("/hook")
    assert len(arrivals.requests) == len({body["groupKey"] for _, body in arrivals.requests}) == count
    return _wave(arrivals, began, arrivals.last, count)


async def _fire(peer: Alertmanager, receiver: ReceiverProcess, wave: str, count: int) -> None:
    now = datetime.now(UTC)
    alerts = [
        {
            "labels": {"alertname": "load", "wave": wave, "id": str(number), "region": f"region-{number % 8}"},
            "annotations": {"summary": f"{number} is late"},
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(hours=1)).isoformat(),
        }
        for number in range(count)
    ]
    for start in range(0, count, _AT_ONCE):
        async with peer.client.post(f"{peer.url}/api/v2/alerts", json=alerts[start : start + _AT_ONCE]) as response:
            assert response.status == 200, await response.text()
    await receiver.holds("/hook", count)


def _wave(arrivals: Arrivals, began: float, ended: float, count: int = COUNT) -> Wave:
    return Wave(rate=count / (ended - arrivals.first), whole=ended - began, receiver=arrivals.load)


def _peer_config(url: str) -> dict[str, Any]:
    """Each alert a group of its own, notified at once."""
    times = {"group_wait": "0s", "group_interval": "1h", "repeat_interval": "4h"}
    return {
        "route": {"receiver": "hook", "group_by": ["..."], **times},
        "receivers": [{"name": "hook", "webhook_configs": [{"url": url, "send_resolved": False}]}],
    }
