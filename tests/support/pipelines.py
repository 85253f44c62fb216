"""A row pipeline over a scripted source; running pipelines; their pauses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tocsin.alert import RowAlert
from tocsin.backoff import Backoff
from tocsin.config import load
from tocsin.envelope import View
from tocsin.errors import SourceError
from tocsin.exposition import Metrics, Page
from tocsin.model import Batch, Column, Columns, Kind
from tocsin.pipeline.routing import Route, Router
from tocsin.pipeline.rows import RowOutputs, RowPipeline
from tocsin.pipeline.tap import Tap
from tocsin.pipeline.timing import Timing
from tocsin.sources.base import Subject

COLUMNS = (Column(name="id", oid=23),)
CONFIG = """
sources: {mz: {type: materialize, dsn: "postgresql://tocsin@127.0.0.1:1/materialize"}}
channels: {out: {type: console}}
alerts: {late: {source: mz, relation: late, labels: [id], notify: [out]}}
"""


class Runs(Protocol):
    async def run(self) -> None: ...


class Pauses:
    """The argument `sleep` of a pipeline: records how long it was to be, and takes no time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def at_work(pipeline: Runs) -> AsyncIterator["asyncio.Task[None]"]:
    """The pipeline runs during the block, and is cancelled at its end."""
    task = asyncio.create_task(pipeline.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class ScriptedSource:
    """A source of rows that yields the queued batches and raises the queued errors."""

    def __init__(self) -> None:
        self.columns: Columns = COLUMNS
        self.resumes: list[int | None] = []
        """The as-of that each subscription asked for."""
        self._script: asyncio.Queue[Batch | SourceError] = asyncio.Queue()

    def put(self, *script: Batch | SourceError) -> None:
        for one in script:
            self._script.put_nowait(one)

    @asynccontextmanager
    async def open(self, _: Subject, *, as_of: int | None, **__: object) -> AsyncIterator["ScriptedSource"]:
        self.resumes.append(as_of)
        yield self

    async def batches(self) -> AsyncIterator[Batch]:
        while True:
            following = await self._script.get()
            if isinstance(following, SourceError):
                raise following
            yield following


def alert_in(folder: Path, settings: str = "labels: [id]") -> RowAlert:
    """The alert `late` of CONFIG, with other settings than its labels."""
    file = folder / "tocsin.yaml"
    file.write_text(CONFIG.replace("labels: [id]", settings))
    return load(file, {}).row_alerts["late"]


def row_pipeline(alert: RowAlert, source: Any, ledger: Any, metrics: Metrics | None = None, **more: Any) -> RowPipeline:
    """`more`: clocks, chance and sleep; `backoff`; `tap`."""
    metrics = metrics or Metrics("0")
    outputs = RowOutputs(
        page=Page(metrics),
        metrics=metrics.alert(alert.name),
        ledger=ledger,
        router=Router([Route(channel="out", kinds=frozenset(Kind))], View(), complain=pytest.fail),
        offer=lambda _: None,
        publish=lambda _: None,
        tap=more.pop("tap", None) or Tap(),
    )
    backoff = more.pop("backoff", Backoff(initial=0.01, maximum=0.01))
    timing = Timing(backoff=backoff, progress_interval=1.0, stale_after=300.0, exit_on_stall=False)
    return RowPipeline(alert, source, timing, outputs, **more)
