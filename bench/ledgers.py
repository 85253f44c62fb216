"""The ledger in PostgreSQL beside the one in a file, by turns: rows in, notifications out, and one at a time."""

import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from bench.harness import Figure
from support.ledger import IMPLEMENTATIONS, commit, delivered, firing, transition
from tocsin.ledger.base import Ledger

ROWS = 20_000
ALONE = 300
ROUNDS = 3


async def measure() -> list[Figure]:
    found: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(ROUNDS):
        for name, opener in IMPLEMENTATIONS.items():
            with tempfile.TemporaryDirectory() as directory:
                ledger = await opener(Path(directory) / "ledger")
                for what, value in {**await _bulk(ledger), **await _alone(ledger)}.items():
                    found[what][name].append(value)
                await ledger.close()
    figures = []
    for what, by_ledger in found.items():
        file, server = (statistics.median(by_ledger[name]) for name in ("sqlite", "postgres"))
        ratio, least = server / file, _LEAST.get(what)
        target = f">= {least} x" if least else ""
        measured = f"{server:,.2f} in PostgreSQL, {file:,.2f} in a file: {ratio:.2f} x"
        figures.append(Figure(what, measured, target, None if least is None else ratio >= least))
    return figures


_LEAST = {"rows/s into firing set and outbox": 0.7}


async def _bulk(ledger: Ledger) -> dict[str, float]:
    keys = [str(number) for number in range(ROWS)]
    batch = commit([transition(key) for key in keys], saved=[firing(key) for key in keys])
    began = time.perf_counter()
    await ledger.commit(batch)
    rate = ROWS / (time.perf_counter() - began)
    began = time.perf_counter()
    sent = 0
    while heads := (await ledger.claim("hook", 500)).heads:
        await ledger.bind([[head.seq] for head in heads])
        await ledger.settle([delivered(head) for head in heads])
        sent += len(heads)
    assert sent == ROWS
    return {
        "rows/s into firing set and outbox": rate,
        "notifications/s out of it": sent / (time.perf_counter() - began),
    }


async def _alone(ledger: Ledger) -> dict[str, float]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(ALONE):
        key = f"alone {number}"
        began = time.perf_counter()
        await ledger.commit(commit([transition(key)], saved=[firing(key)]))
        committed = time.perf_counter()
        heads = (await ledger.claim("hook", 10)).heads
        await ledger.bind([[head.seq] for head in heads])
        bound = time.perf_counter()
        await ledger.settle([delivered(head) for head in heads])
        times["ms for a commit of one row, p50"].append((committed - began) * 1000)
        times["ms from the change to its recorded request, p50"].append((bound - began) * 1000)
    return {what: statistics.median(some) for what, some in times.items()}
