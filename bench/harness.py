"""What the measurements share: figures and their table, configurations, events into a ledger, and other processes."""

import asyncio
import os
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from support.tocsin import running as tests_running
from tocsin.app import build
from tocsin.config import load
from tocsin.exposition import Metrics
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Notification
from tocsin.pipeline.events import EventOutputs, EventPipeline, EventRoute
from tocsin.sources.base import EventSource

# Figures.


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. `target`: what it should be, in words; `met`: whether it is, None where there is no
    target."""

    name: str
    measured: str
    target: str = ""
    met: bool | None = None


def table(figures: list[Figure]) -> str:
    """The figures as a table in Markdown."""
    lines = ["| what | measured | target | met |", "| --- | --- | --- | --- |"]
    for figure in figures:
        met = {True: "yes", False: "NO", None: ""}[figure.met]
        lines.append(f"| {figure.name} | {figure.measured} | {figure.target} | {met} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """The least and the greatest of the rounds."""
    return f"{min(values):,.0f} to {max(values):,.0f}"


class Machine:
    """CPU time of other processes, over rounds. A round is this process and those that it starts and ends within it."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._others: list[float] = []

    @contextmanager
    def round(self) -> Iterator[Path]:
        """One round, with an empty directory."""
        with tempfile.TemporaryDirectory() as directory:
            began, busy, own = time.monotonic(), _busy(), _own()
            yield Path(directory)
            others = (_busy() - busy) - (_own() - own)
            self._others.append(max(0.0, others) / (time.monotonic() - began))

    def figure(self) -> Figure:
        others = self._others
        return Figure(
            f"others on the {os.cpu_count()} cores during these, median of {len(others)} rounds",
            f"{statistics.median(others):.2f} cores, {max(others):.2f} at most; load average before {self._load:.1f}",
        )


def _busy() -> float:
    """Processor seconds of the whole machine."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Processor seconds of this process and of those that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


# Rows of Materialize, for `tocsin run`.

running = partial(tests_running, PYTHONHASHSEED="random")
"""`support.tocsin.running`, but as people start it: because of the variable it is no fork of a process with the
imports, whose memory it would share, and whose processor time would count as that of others."""


def configuration(
    directory: Path,
    dsn: str,
    channels: Mapping[str, Mapping[str, Any]],
    notified: Mapping[str, Sequence[str]],
    **alert: Any,
) -> dict[str, Any]:
    """Channels by name, webhooks without a `type`; and for each relation the channels that its alert notifies.
    `alert`: settings of the alerts, by default for the load relations of the double, whose rows have the time of their
    change."""
    common = alert or {"key": ["id"], "labels": ["id", "region"], "value": "value"}
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(directory / "ledger.db")},
        "sources": {"mz": {"type": "materialize", "dsn": dsn}},
        "channels": {name: {"type": "webhook", **settings} for name, settings in channels.items()},
        "alerts": {
            relation: {"source": "mz", "relation": relation, **common, "notify": list(names)}
            for relation, names in notified.items()
        },
    }


class Arrived:
    """What has come to a receiver in this process. `ids`: how often each; `last`: the wall-clock time of the latest."""

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        self.last = 0.0
        self._changed = asyncio.Event()

    def add(self, id_: str) -> None:
        self.ids[id_] += 1
        self.last = time.time()
        self._changed.set()

    async def holds(self, count: int) -> None:
        """Wait until so many different ones are there."""
        async with asyncio.timeout(60):
            while len(self.ids) < count:
                self._changed.clear()
                await self._changed.wait()


# Events, in this process.


class Offered:
    """The notifications of the events that are in the ledger."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Sequence[Notification]] = asyncio.Queue()

    async def take(self, count: int = 1) -> int:
        """Wait for so many, and return how many there were."""
        found = 0
        while found < count:
            found += len(await self.batches.get())
        return found

    async def alone(self, cause: Callable[[int], Awaitable[object]], count: int) -> float:
        """Median seconds from one event, which `cause` makes of a number, to its notification."""
        waits = []
        for number in range(count):
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            await cause(number)
            await self.take()
            waits.append(time.perf_counter() - began)
        return statistics.median(waits)


@asynccontextmanager
async def ingesting(source: Mapping[str, Any], name: str = "order", **alert: Any) -> AsyncIterator[Offered]:
    """Run the event pipeline of a source with one alert, into a ledger on disk. `name`, `alert`: the alert's
    settings."""
    offered = Offered()
    with tempfile.TemporaryDirectory() as directory:
        document = {
            "sources": {"measured": dict(source)},
            "channels": {"out": {"type": "console"}},
            "alerts": {name: {"source": "measured", "notify": ["out"], **alert}},
        }
        path = Path(directory) / "tocsin.yaml"
        path.write_text(yaml.safe_dump(document))
        config = load(path, {})
        metrics, ledger = Metrics("0"), open_ledger(Path(directory) / "ledger.db")
        measured, counted = config.sources["measured"], metrics.alert(name)
        router = build.router(config, config.alerts[name], counted)
        route = EventRoute(alert=config.event_alerts[name], router=router, metrics=counted)
        outputs = EventOutputs(
            ledger=ledger, metrics=metrics.source("measured"), offer=offered.batches.put_nowait, publish=lambda _: None
        )
        source_ = build.make_source(measured)
        assert isinstance(source_, EventSource)
        task = asyncio.create_task(
            EventPipeline("measured", source_, [route], build.backoff(measured.settings), outputs).run()
        )
        try:
            yield offered
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await ledger.close()
