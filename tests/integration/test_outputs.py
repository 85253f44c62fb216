"""Channels and level outputs as the configuration changes, with a receiver in place of Alertmanager."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.clock import LoopClock
from support.messages import transition
from support.ports import free_port
from support.receiver import Answer, Receiver
from support.tocsin import quick_channel, write
from support.waiting import SOON
from tocsin.app.outputs import Outputs
from tocsin.config import load
from tocsin.exposition import Metrics
from tocsin.ledger.sqlite import open_ledger


class OutputsHarness:
    """Outputs of an alert `late` that fires, which notifies a channel `am`."""

    def __init__(self, folder: Path, tasks: asyncio.TaskGroup, receiver: Receiver) -> None:
        self.outputs = Outputs(tasks, Metrics("0"))
        self.receiver = receiver
        self.level = {"type": "alertmanager", "urls": [receiver.url], "timeout": "10m"}
        self.channel = quick_channel(receiver.url)
        self._folder = folder
        self._ledger = open_ledger(folder / "ledger.db")

    async def apply(self, channel: dict[str, Any]) -> None:
        """Apply a configuration to the channels, as a reload does."""
        source = {"type": "postgres", "dsn": f"postgresql://x@127.0.0.1:{free_port()}/x"}
        alert = {"source": "shop", "relation": "late", "key": ["order_id"], "labels": ["customer"], "notify": ["am"]}
        values = {"sources": {"shop": source}, "channels": {"am": channel}, "alerts": {"late": alert}}
        config = load(write(self._folder / "tocsin.yaml", values), {})
        new = await self.outputs.built(config)
        await self.outputs.stop_outdated(config, new)
        self.outputs.start(config, new, self._ledger, lambda _: {"late": [transition()]}, 0.0)

    async def close(self) -> None:
        await self.outputs.finish_levels()
        await self.outputs.drain()
        await self._ledger.close()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[OutputsHarness]:
    async with Receiver() as receiver, asyncio.TaskGroup() as tasks:
        made = OutputsHarness(tmp_path, tasks, receiver)
        yield made
        await made.close()


async def test_channel_becomes_a_level_output(harness: OutputsHarness) -> None:
    await harness.apply(harness.channel)
    assert ({*harness.outputs.levels}, {*harness.outputs.dispatchers}) == (set(), {"am"})
    await harness.apply(harness.level)
    await harness.receiver.arrived(1)
    assert ({*harness.outputs.levels}, {*harness.outputs.dispatchers}) == ({"am"}, set())


async def test_hanging_receiver_delays_a_reload_by_three_seconds(harness: OutputsHarness) -> None:
    clock = LoopClock(asyncio.get_running_loop())
    await harness.apply(harness.level)
    await harness.receiver.arrived(1)
    harness.receiver.otherwise = lambda _: Answer(hang=True)
    changing = asyncio.create_task(harness.apply(harness.channel))
    await harness.receiver.arrived(2)
    assert not changing.done()
    clock.advance(3)
    async with asyncio.timeout(SOON):
        await changing
    assert harness.outputs.levels == {}
