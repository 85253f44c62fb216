"""An event pipeline in this process: the events of one source into a ledger on disk, with a notification each."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tocsin.app import build
from tocsin.config import load
from tocsin.exposition import Metrics
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Notification
from tocsin.pipeline.events import EventOutputs, EventPipeline, EventRoute

Offered = asyncio.Queue[Sequence[Notification]]
"""The notifications of each batch, once they are committed."""


@asynccontextmanager
async def ingesting(source: Mapping[str, Any], name: str = "order", **alert: Any) -> AsyncIterator[Offered]:
    """Run the event pipeline of a source with one alert. `name`, `alert`: the alert's settings."""
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
        route = EventRoute(
            alert=config.event_alerts[name],
            router=build.router(config, config.alerts[name], metrics.alert(name)),
            metrics=metrics.alert(name),
        )
        outputs = EventOutputs(
            ledger=ledger, metrics=metrics.source("measured"), offer=offered.put_nowait, publish=lambda _: None
        )
        measured = config.sources["measured"]
        pipeline = EventPipeline(
            "measured", build.make_event_source(measured), [route], build.backoff(measured), outputs
        )
        task = asyncio.create_task(pipeline.run())
        try:
            yield offered
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await ledger.close()


async def wait_for(offered: Offered, count: int) -> None:
    """Wait for so many notifications."""
    while count > 0:
        count -= len(await offered.get())
