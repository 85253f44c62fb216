"""From a change on the wire to the request at the receiver, through firing set, ledger (on disk) and dispatcher. The
ledger is in a file and in PostgreSQL, by turns."""

import os
import statistics
import time
from functools import partial
from pathlib import Path

from bench.harness import Figure, Machine
from bench.isolation import PER_SECOND, Round, measured
from support.postgres import shared_postgres

ROUNDS = 3
LEDGERS = ("a file", "PostgreSQL")
_MOST = {"p50": 1.5, "p99": 2.0}
"""Of PostgreSQL against the file."""
_BEYOND = {"p50": 5.0, "p99": 20.0}
"""Milliseconds beyond one fsync, of the file."""


async def measure() -> list[Figure]:
    found: dict[str, list[Round]] = {name: [] for name in LEDGERS}
    fsyncs: list[float] = []
    machine = Machine()
    for _ in range(ROUNDS):
        for name, rounds in found.items():
            with machine.round() as directory:
                fsyncs.append(_fsync(directory / "probe"))
                rounds.append(await _measured(directory, name))
    fsync = statistics.median(fsyncs)
    figures = [Figure("one fsync of 4 kB on this disk, median", f"{fsync:.2f} ms")]
    for part in ("p50", "p99"):
        values = {name: [getattr(one, part) for one in rounds] for name, rounds in found.items()}
        file, server = (statistics.median(values[name]) for name in LEDGERS)
        what = f"change -> request, durable, {PER_SECOND}/s, median of {ROUNDS} rounds, {part}"
        beyond, most = _BEYOND[part], _MOST[part]
        figures += [
            Figure(
                f"{what}, ledger in a file",
                f"{file:.2f} ms ({_range(values['a file'])}), {file - fsync:.2f} beyond one fsync",
                f"<= {beyond:g} ms beyond one fsync",
                file - fsync <= beyond,
            ),
            Figure(
                f"{what}, ledger in PostgreSQL",
                f"{server:.2f} ms ({_range(values['PostgreSQL'])}), {server / file:.2f} x the file",
                f"<= {most:g} x the file",
                server <= most * file,
            ),
        ]
    return [*figures, machine.figure()]


async def _measured(directory: Path, ledger: str) -> Round:
    one = partial(measured, directory, live=1_000, changes=1_500, concurrency=16)
    if ledger == "a file":
        return await one()
    async with shared_postgres().database() as database:
        return await one(database=database)


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _fsync(path: Path) -> float:
    """Milliseconds."""
    latencies = []
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            latencies.append(time.perf_counter() - began)
    return statistics.median(latencies) * 1000
