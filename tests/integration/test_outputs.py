"""Channels and level outputs as the configuration changes, with a receiver in place of Alertmanager."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.clock import LoopClock
from support.messages import transition
from support.prometheus import free_port
from support.receiver import Answer, Receiver
from support.tocsin import quick_channel, write
from support.waiting import SOON, until
from tocsin.app.outputs import Outputs
from tocsin.config import Config, load
from tocsin.exposition import Metrics
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Transition


class OutputsHarness:
    """Outputs whose firings a test sets, by alert; None: not known."""

    def __init__(self, folder: Path, tasks: asyncio.TaskGroup, receiver: Receiver) -> None:
        self.outputs = Outputs(tasks, Metrics("0"))
        self.receiver = receiver
        self.firing: dict[str, list[Transition] | None] = {}
        self._folder = folder
        self._ledger = open_ledger(folder / "ledger.db")

    def config(self, channel: dict[str, Any] | None = None, *, alerts: Sequence[str] = ("late",)) -> Config:
        """One channel `am`, by default an output to Alertmanager, and alerts that notify it."""
        output = {"type": "alertmanager", "urls": [self.receiver.url], "alertname": "order-{{ row.order_id }}"}
        source = {"type": "postgres", "dsn": f"postgresql://x@127.0.0.1:{free_port()}/x"}
        alert = {"source": "shop", "relation": "late", "key": ["order_id"], "labels": ["customer"], "notify": ["am"]}
        config = {
            "sources": {"shop": source},
            "channels": {"am": output if channel is None else channel},
            "alerts": dict.fromkeys(alerts, alert),
        }
        return load(write(self._folder / "tocsin.yaml", config), {})

    async def apply(self, config: Config) -> None:
        """Do what a reload does with channels."""
        new = await self.outputs.built(config)
        await self.outputs.stop_outdated(config, new)
        self.outputs.start_levels(config, new, lambda names: {name: self.firing.get(name) for name in names})
        self.outputs.start_channels(config, new, self._ledger, 0.0)

    def fires(self, **keys: Sequence[str]) -> None:
        """From now on these fire, by alert."""
        self.firing = {alert: [transition(key=key, alert=alert) for key in some] for alert, some in keys.items()}

    def known(self) -> set[str]:
        """What fires, as the receiver knows it."""
        alerts = [alert for request in self.receiver.requests for alert in request.json]
        ends = {alert["labels"]["alertname"]: alert["endsAt"] for alert in alerts}
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 1))
        return {name.removeprefix("order-") for name, end in ends.items() if end > now}

    async def until_known(self, *keys: str) -> None:
        await until(lambda: self.known() == {*keys}, f"{keys} fire")

    async def close(self) -> None:
        await self.outputs.settle_levels()
        await self.outputs.drain()
        await self._ledger.close()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[OutputsHarness]:
    async with Receiver() as receiver, asyncio.TaskGroup() as tasks:
        made = OutputsHarness(tmp_path, tasks, receiver)
        yield made
        await made.close()


async def test_row_that_ends_during_a_reload_is_resolved(harness: OutputsHarness) -> None:
    harness.fires(late=["1", "2"])
    await harness.apply(harness.config())
    await harness.until_known("1", "2")
    harness.firing = {}  # the watch is being recreated
    await harness.apply(harness.config(alerts=["late", "early"]))
    harness.fires(late=["2"], early=["3"])
    for alert in harness.config(alerts=["late", "early"]).row_alerts.values():
        harness.outputs.changed(alert, False)
    await harness.until_known("2", "3")


async def test_channel_becomes_a_level_output(harness: OutputsHarness) -> None:
    await harness.apply(harness.config(quick_channel(harness.receiver.url)))
    harness.fires(late=["1"])
    await harness.apply(harness.config())
    await harness.until_known("1")
    assert ({*harness.outputs.levels}, {*harness.outputs.dispatchers}) == ({"am"}, set())


async def test_hanging_receiver_delays_a_reload_by_three_seconds(harness: OutputsHarness) -> None:
    clock = LoopClock(asyncio.get_running_loop())
    patient = {"type": "alertmanager", "urls": [harness.receiver.url], "timeout": "10m"}
    harness.fires(late=["1"])
    await harness.apply(harness.config(patient))
    await harness.receiver.arrived(1)
    harness.receiver.otherwise = lambda _: Answer(hang=True)
    changing = asyncio.create_task(harness.apply(harness.config(quick_channel(harness.receiver.url))))
    await harness.receiver.arrived(2)
    assert not changing.done()
    clock.advance(3)
    async with asyncio.timeout(SOON):
        await changing
    assert harness.outputs.levels == {}
