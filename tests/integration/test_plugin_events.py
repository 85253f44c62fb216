"""A source of events as short as a package can write it, in a running Tocsin."""

from pathlib import Path
from typing import Any

from support.packages import Packages, packages
from support.waiting import seen
from tocsin import Tocsin

__all__ = ["packages"]

SOURCE = '''
import asyncio, time
from contextlib import asynccontextmanager
from tocsin.plugin import Event, EventBatch, EventSourceSettings, EventStream, row_of

class Config(EventSourceSettings):
    """Two events."""

class Ticks(EventStream):
    def __init__(self, acknowledged): self.acknowledged = acknowledged
    async def batches(self):
        for number in (1, 2):
            columns, row = row_of({"number": number, "more": {"deep": True}})
            event = Event(name="ticks", id=str(number), at=time.time_ns() // 1_000_000, columns=columns, row=row)
            yield EventBatch(events=[event], receipt=number)
        await asyncio.Event().wait()
    async def acknowledge(self, batch, unmatched):
        self.acknowledged.append((batch.receipt, len(unmatched)))

class Source:
    acknowledged = []
    @asynccontextmanager
    async def open(self, names, *, position):
        yield Ticks(self.acknowledged)

def build(name, config): return Source()
'''
HANDLED: list[Any] = []


def handled(envelope: Any) -> None:
    HANDLED.append((envelope["row"]["number"], envelope["labels"]))


def test_events_of_a_package_are_sent_and_acknowledged(packages: Packages, tmp_path: Path) -> None:
    packages.add("clock", SOURCE, sources="ticker")
    config = {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(tmp_path / "tocsin.db")},
        "sources": {"clock": {"type": "ticker"}},
        "channels": {"here": {"type": "python", "handler": f"{__name__}:handled"}},
        "alerts": {"ticks": {"source": "clock", "labels": {"deep": "more.deep"}, "notify": ["here"]}},
    }
    import clock_ticker  # type: ignore[import-not-found]  # made above

    with Tocsin(config):
        seen(lambda: len(clock_ticker.Source.acknowledged) == 2, "both events in the ledger")
        seen(lambda: len(HANDLED) == 2, "both events handled")
    assert clock_ticker.Source.acknowledged == [(1, 0), (2, 0)]
    assert sorted(HANDLED) == [(1, {"deep": "t"}), (2, {"deep": "t"})]
