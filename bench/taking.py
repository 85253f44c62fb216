"""An intake in this process: the events of one source into a ledger on disk, with a notification each."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tocsin.app import build as units
from tocsin.config import load
from tocsin.exposition import Metrics
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Notification
from tocsin.pipeline.events import EventOutputs, EventPipeline, EventRoute

Offered = asyncio.Queue[Sequence[Notification]]
"""What is handed on: the notifications of each batch, once they are safe."""


@asynccontextmanager
async def taken_in(source: Mapping[str, Any], name: str = "order", **alert: Any) -> AsyncIterator[Offered]:
    """Run the intake of a source for one alert, for the length of the block. `name`, `alert`: the alert's settings."""
    offered: Offered = asyncio.Queue()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tocsin.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "sources": {"measured": dict(source)},
                    "channels": {"out": {"type": "console"}},
                    "alerts": {name: {"source": "measured", "notify": ["out"], **alert}},
                }
            )
        )
        config = load(path, {})
        metrics, ledger = Metrics("0"), open_ledger(Path(directory) / "ledger.db")
        taker = EventRoute(
            alert=config.event_alerts[name],
            router=units.router(config, config.alerts[name], metrics.alert(name)),
            metrics=metrics.alert(name),
        )
        outlets = EventOutputs(
            ledger=ledger, metrics=metrics.source("measured"), offer=offered.put_nowait, publish=lambda _: None
        )
        measured = config.sources["measured"]
        intake = EventPipeline("measured", units.make_event_source(measured), [taker], units.backoff(measured), outlets)
        task = asyncio.create_task(intake.run())
        try:
            yield offered
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await ledger.close()


async def take(offered: Offered, count: int) -> None:
    """Wait for so many notifications."""
    while count > 0:
        count -= len(await offered.get())
