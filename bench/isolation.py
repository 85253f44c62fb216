"""From a change on the wire to the request at the receiver, for one channel alone; and for the same channel while ten
others are busy and two are dead: one refuses connections, one never answers. One process with its ledger in a file, and
two processes that share one in PostgreSQL."""

import asyncio
import socket
import statistics
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.double import double_process
from bench.harness import Figure, Machine, configuration, running
from bench.receiving import receiver_process
from support.postgres import Database, shared_postgres
from support.waiting import until_equal

CHANGES = 1_000
PER_SECOND = 100
BUSY = 10
BUSY_PER_SECOND = 100
"""Changes a second that each busy channel gets."""
ROUNDS = 5
LEDGERS = ("a file", "PostgreSQL and two processes")
LIVE = 100
_SETTLING = 100
"""Changes that may still wait behind the first burst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Milliseconds from the change to the receiver. `others`: requests a second that the busy channels sent."""

    p50: float
    p99: float
    others: float


async def measure() -> list[Figure]:
    found: dict[tuple[str, int], list[Round]] = {(ledger, busy): [] for ledger in LEDGERS for busy in (0, BUSY)}
    machine = Machine()
    for _ in range(ROUNDS):
        for (ledger, busy), rounds in found.items():
            with machine.round() as directory:
                rounds.append(await _measured(directory, ledger, busy))
    figures = [figure for ledger in LEDGERS for figure in _figures(ledger, found[ledger, 0], found[ledger, BUSY])]
    return [*figures, machine.figure()]


def _figures(ledger: str, alone: list[Round], among: list[Round]) -> list[Figure]:
    what = f"change -> request, {PER_SECOND}/s, {ledger}, median of {ROUNDS} rounds"
    before, after = (statistics.median(one.p99 for one in rounds) for rounds in (alone, among))
    others = statistics.median(one.others for one in among)
    return [
        Figure(f"{what}, one channel alone", _summary(alone)),
        Figure(
            f"{what}, among {BUSY} busy channels ({others:,.0f} requests/s together) and 2 dead ones",
            f"{_summary(among)}; p99 {after / before:.1f} x alone",
            "p99 <= 2 x alone",
            after <= 2 * before,
        ),
    ]


async def _measured(directory: Path, ledger: str, busy: int) -> Round:
    if ledger == "a file":
        return await measured(directory, busy=busy)
    async with shared_postgres().database() as database:
        return await measured(directory, busy=busy, database=database, processes=2)


def _summary(rounds: list[Round]) -> str:
    p50, p99 = (statistics.median(values) for values in ([one.p50 for one in rounds], [one.p99 for one in rounds]))
    least, most = min(one.p99 for one in rounds), max(one.p99 for one in rounds)
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms ({least:.2f} to {most:.2f})"


async def measured(
    directory: Path,
    *,
    busy: int = 0,
    live: int = LIVE,
    changes: int = CHANGES,
    concurrency: int = 4,
    database: Database | None = None,
    processes: int = 1,
) -> Round:
    """One round. `busy`: how many channels there are beside the one that is measured; without any, there are no dead
    ones. `live`: rows that fire. `database`: for the ledger, by default a file. `processes`: how many share it."""
    async with double_process(1, live=live) as double, receiver_process() as receiver, AsyncExitStack() as stack:
        await double.load("busy", 1, live=live)
        with _dead() as dead:
            addresses = {"hook": f"{receiver.url}/hook"}
            addresses |= {f"busy{number}": f"{receiver.url}/busy{number}" for number in range(busy)}
            addresses |= {f"dead{number}": address for number, address in enumerate(dead if busy else ())}
            channels = {name: {"url": address, "concurrency": concurrency} for name, address in addresses.items()}
            notified = {"load": [name for name in channels if not name.startswith("busy")]}
            if busy:
                notified["busy"] = [name for name in channels if name != "hook"]
            document = configuration(directory, double.dsn, channels, notified)
            if database is not None:
                document["ledger"] = {"url": database.dsn}
            running_now = [await stack.enter_async_context(running(directory, document)) for _ in range(processes)]
            paths = [f"/{channel}" for channel in channels if not channel.startswith("dead")]
            for tocsin in running_now:
                await tocsin.until_ready()
            if database is not None:
                await until_equal(lambda: _leading(database), min(processes, len(notified)), "processes that lead")
            for path in paths:
                await receiver.holds(path, live + 1)
                await receiver.take(path)
            if busy:
                await double.run("busy", BUSY_PER_SECOND)
            await double.run("load", PER_SECOND)
            async with asyncio.timeout(changes / PER_SECOND * 4 + 30):
                await receiver.holds("/hook", _SETTLING + changes)
            for relation in ("load", "busy"):
                await double.run(relation, 0)
            arrivals = await receiver.take("/hook")
            others = sum([len((await receiver.take(path)).requests) for path in paths if path != "/hook"])
            assert [await tocsin.stop() for tocsin in running_now] == [0] * processes
    settled = arrivals.requests[_SETTLING : _SETTLING + changes]
    latencies = sorted(at - envelope["row"]["changed_at"] for at, envelope in settled)
    p50, p99 = (latencies[int(len(latencies) * part)] * 1000 for part in (0.5, 0.99))
    return Round(p50=p50, p99=p99, others=others / (arrivals.last - arrivals.first))


async def _leading(database: Database) -> int:
    [(count,)] = await database.run("SELECT count(DISTINCT epoch) FROM tocsin.leaders")
    return int(count)


@contextmanager
def _dead() -> Iterator[tuple[str, str]]:
    """The addresses of a receiver that refuses connections, and of one that accepts them and never answers."""
    with socket.socket() as refusing, socket.socket() as silent:
        refusing.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield tuple(f"http://127.0.0.1:{one.getsockname()[1]}/" for one in (refusing, silent))  # type: ignore[misc]
