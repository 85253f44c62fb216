"""`tocsin run` as a process of its own, and a harness with a server and a receiver for it."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.forks import Started, fork
from support.materialize import MaterializeDouble, Relation
from support.receiver import Receiver
from support.waiting import SOON, until, until_equal, until_some

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""A page of metrics: name and labels -> value."""

COLUMNS = (("id", "int4"), ("name", "text"), ("amount", "numeric"))


class TocsinProcess:
    """A process that runs. `log`: its lines on standard error so far; `output`: those on standard output."""

    def __init__(self, process: Started, file: Path, session: aiohttp.ClientSession) -> None:
        self.file = file
        self.log: list[str] = []
        self.output: list[str] = []
        self.url = ""
        self._process = process
        self._session = session
        assert process.stderr is not None
        assert process.stdout is not None
        self._readers = [
            asyncio.create_task(self._read(process.stderr, self.log)),
            asyncio.create_task(self._read(process.stdout, self.output)),
        ]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    # What it reports.

    def logged(self, *parts: str) -> list[str]:
        """The lines of its log that hold all of these."""
        return [line for line in self.log if all(part in line for part in parts)]

    async def until_logged(self, *parts: str, count: int = 1) -> str:
        """Wait for so many lines with all of these, and return the last one."""
        await until(lambda: len(self.logged(*parts)) >= count, f"logged {parts}; it says {self.log[-5:]}")
        return self.logged(*parts)[-1]

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of an answer."""
        assert self.url, f"it does not listen: {self.log[-5:]}"
        async with self._session.get(self.url + path) as response:
            return response.status, await response.text()

    async def post(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        """`Content_Type="..."` becomes the header `Content-Type`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.post(self.url + path, data=BytesIO(body or b""), headers=named) as response:
            return response.status, await response.text()

    async def json(self, path: str) -> Any:
        async with self._session.get(self.url + path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def ready(self) -> str:
        """The reasons why it is not ready; empty when it is."""
        status, text = await self.get("/readyz")
        assert status in (200, 503), text
        return "" if status == 200 else text

    async def until_ready(self) -> None:
        await until_equal(self.ready, "", "what it is not ready for")

    async def until_not_ready(self, *parts: str) -> str:
        """Wait until the reasons contain all of these, and return them."""

        async def probe() -> str:
            reasons = await self.ready()
            for part in parts:
                assert part in reasons, f"{part!r} is not in {reasons!r}"
            return reasons

        return await until_some(probe, f"not ready because of {parts}")

    async def metrics(self) -> Series:
        """The whole page. A name and labels given twice fail."""
        status, text = await self.get("/metrics")
        assert status == 200, text
        return series(text)

    async def gauge(self, metric: str) -> dict[frozenset[tuple[str, str]], float]:
        """The series of one metric."""
        return {labels: value for (name, labels), value in (await self.metrics()).items() if name == metric}

    async def metric(self, name: str, /, **labels: str) -> float | None:
        """One value; None where the page does not have it."""
        return (await self.metrics()).get((name, frozenset(labels.items())))

    async def until_metric(self, name: str, value: float | None, /, **labels: str) -> None:
        """Wait until a metric has this value (None: is not there)."""
        await until_equal(lambda: self.metric(name, **labels), value, f"{name}{labels}")

    # Actions.

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Replace its configuration file atomically."""
        write(self.file.with_suffix(".new"), config).replace(self.file)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exited(self) -> int:
        """Wait for its end and for all its output, and return the exit status."""
        async with asyncio.timeout(SOON):
            return await self.ended()

    async def ended(self) -> int:
        """As `exited`, however long it takes."""
        status = await self._process.wait()
        await asyncio.gather(*self._readers)
        return status

    async def stop(self) -> int:
        """Stop it with SIGTERM, and return the exit status."""
        self.signal(signal.SIGTERM)
        return await self.exited()

    async def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.exited()

    async def listening(self) -> Self:
        """Wait until it listens, or has ended."""
        await until(lambda: self.url or not self.running, "listening")
        return self

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            text = line.decode().rstrip("\n")
            lines.append(text)
            found = re.search(r"event=(?:running|'standing by'|\"standing by\") listen=(\S+)", text)
            if found:
                self.url = found[1]


def series(page: str) -> Series:
    """A page of metrics in the text format."""
    found: Series = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"twice on the page: {key}"
            found[key] = float(sample.value)
    return found


def write(path: Path, config: Mapping[str, Any] | str) -> Path:
    """Write a configuration file."""
    text = config if isinstance(config, str) else yaml.safe_dump(dict(config), allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    return path


async def command(directory: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run a `tocsin` command to its end: exit status, standard output, standard error."""
    process = await start(directory, *arguments, **environment)
    async with asyncio.timeout(SOON):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def start(directory: Path, *arguments: str, **environment: str) -> Started:
    """Start a `tocsin` command in a directory. The caller ends it."""
    everything = {**os.environ, **environment}
    # What is called PYTHON... or LD_... counts only when a program starts. Elsewhere than on Linux, libraries do not
    # survive a fork.
    if sys.platform == "linux" and not any(name.startswith(("PYTHON", "LD_")) for name in environment):
        return await fork(directory, *arguments, environment=everything)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tocsin",
        *arguments,
        cwd=directory,
        env=everything,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )


@asynccontextmanager
async def running(
    directory: Path, config: Mapping[str, Any], *, file: str = "tocsin.yaml", **environment: str
) -> AsyncIterator[TocsinProcess]:
    """`tocsin run` with a configuration. It listens when the body begins, unless it ended; it is stopped at the end."""
    path = write(directory / file, config)
    async with running_with(directory, "--config", str(path), file=path, **environment) as tocsin:
        yield tocsin


@asynccontextmanager
async def running_with(
    directory: Path, *arguments: str, file: Path | None = None, **environment: str
) -> AsyncIterator[TocsinProcess]:
    """`tocsin run` with given arguments and environment variables. `file`: its configuration, if it has one."""
    process = await start(directory, "run", *arguments, **environment)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SOON)) as session:
        tocsin = TocsinProcess(process, file or directory / "tocsin.yaml", session)
        try:
            yield await tocsin.listening()
        finally:
            await tocsin.kill()


@dataclass(slots=True, kw_only=True)
class Harness:
    """A double of Materialize with one view `orders`, a receiver of webhooks, and the configuration that joins them.

    `config` is plain data that a test may change before it starts the process.
    """

    directory: Path
    double: MaterializeDouble
    receiver: Receiver
    orders: Relation
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def alert(self) -> Any:
        """The alert `orders` in the configuration."""
        return self.config["alerts"]["orders"]

    @property
    def source(self) -> Any:
        """The source in the configuration."""
        return self.config["sources"]["mz"]

    @property
    def ledger(self) -> Path:
        return Path(self.config["ledger"]["path"])

    def add_views(self, *names: str) -> None:
        """Create empty views like `orders`, each with an alert like that of `orders`."""
        for name in names:
            self.double.create(f"public.{name}", COLUMNS, retain=None)
            self.config["alerts"][name] = {**self.alert, "relation": f"public.{name}"}

    def replace_view(self, *rows: Sequence[str | None], columns: Sequence[tuple[str, str]] = COLUMNS) -> None:
        """Put another view of the same name into the place of `orders`, or where it was.

        As on a real server, whatever of it can be read holds these rows: there is no moment in which it is empty.
        """
        with contextlib.suppress(KeyError):
            self.double.drop(self.double.relation("public.orders"))
        self.orders = self.double.create("public.orders", columns, retain=None, rows=rows)
        self.double.compact(self.orders)

    def run(self, **environment: str) -> contextlib.AbstractAsyncContextManager[TocsinProcess]:
        """Start the process."""
        return running(self.directory, self.config, **environment)

    def notified(self) -> list[tuple[str, str]]:
        """The notifications that arrived, without repeats of one id: kind and value of the column `id`, in order."""
        first: dict[str, tuple[str, str]] = {}
        for request in self.receiver.requests:
            envelope = request.json
            first.setdefault(envelope["id"], (envelope["status"], str(envelope["row"]["id"])))
        return list(first.values())

    async def until_notified(self, *expected: tuple[str, str]) -> None:
        """Wait until exactly these notifications arrived, in any order."""

        async def found() -> list[tuple[str, str]]:
            return sorted(self.notified())

        await until_equal(found, sorted(expected), "what was notified")

    def envelopes(self) -> list[Any]:
        """The bodies that the receiver got, with repeats."""
        return [request.json for request in self.receiver.requests]

    async def until_shown(self, tocsin: TocsinProcess) -> None:
        """Wait until the gauge has the rows of the view."""

        async def difference() -> list[object]:
            return list(_texts(await tocsin.gauge("orders")) ^ _texts(self.expected()))

        await until_equal(difference, [], "the difference between gauge and view")

    def expected(self) -> dict[frozenset[tuple[str, str]], float]:
        """The series of the view's rows. Rows with the same labels show the largest value."""
        shown: dict[frozenset[tuple[str, str]], float] = {}
        for id_, name, amount in self.orders.rows():
            labels = frozenset({(label, text) for label, text in (("id", id_), ("name", name)) if text})
            value = float("nan") if amount is None else float(amount)
            shown[labels] = max(value, shown.get(labels, value))
        return shown


def _texts(gauge: Mapping[frozenset[tuple[str, str]], float]) -> set[tuple[object, str]]:
    """Series with their values as text, since NaN is not equal to itself."""
    return {(labels, f"{value:z}") for labels, value in gauge.items()}


@asynccontextmanager
async def new_harness(directory: Path) -> AsyncIterator[Harness]:
    """A harness whose servers run, with all of their history."""
    async with MaterializeDouble(progress_interval=0.1) as double, Receiver() as receiver:
        orders = double.create("public.orders", COLUMNS, retain=None)
        view = {"source": "mz", "relation": "public.orders", "key": ["id"], "labels": ["id", "name"]}
        config = {
            "web": {"listen": "127.0.0.1:0"},
            "ledger": {"path": str(directory / "ledger.db")},
            "log": {"level": "debug"},
            "sources": {"mz": quick_source(double.dsn)},
            "channels": {"hook": quick_channel(f"{receiver.url}/hook")},
            "alerts": {"orders": {**view, "value": "amount", "notify": ["hook"]}},
        }
        yield Harness(directory=directory, double=double, receiver=receiver, orders=orders, config=config)


_QUICK = {"backoff_initial": "20ms", "backoff_max": "100ms"}


def quick_source(dsn: str, **more: Any) -> dict[str, Any]:
    """A Materialize source with short timeouts and backoff, yet long enough for a busy machine."""
    times = {"connect_timeout": "2s", "snapshot_timeout": "10s", "progress_timeout": "5s"}
    return {"type": "materialize", "dsn": dsn, **times, **_QUICK, **more}


def quick_channel(url: str, **more: Any) -> dict[str, Any]:
    """A webhook channel with a short backoff."""
    return {"type": "webhook", "url": url, "timeout": "2s", **_QUICK, "max_attempts": 1000, **more}
