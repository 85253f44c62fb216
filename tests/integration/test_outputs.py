"""The ways out as the configuration changes, with a receiver in Alertmanager's place."""

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


class Desk:
    """Outputs whose firings a test sets, by alert; None: not known."""

    def __init__(self, folder: Path, tasks: asyncio.TaskGroup, receiver: Receiver) -> None:
        self.outputs = Outputs(tasks, Metrics("0"))
        self.receiver = receiver
        self.firing: dict[str, list[Transition] | None] = {}
        self._folder = folder
        self._ledger = open_ledger(folder / "ledger.db")

    def config(self, channel: dict[str, Any] | None = None, *, alerts: Sequence[str] = ("late",)) -> Config:
        """One channel `am`, to Alertmanager if nothing else is said, and alerts that notify it."""
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
        """What a reload does with the ways out."""
        made = await self.outputs.made(config)
        await self.outputs.stop_outdated(config, made)
        self.outputs.start_levels(config, made, lambda names: {name: self.firing.get(name) for name in names})
        self.outputs.start_channels(config, made, self._ledger, 0.0)

    def fires(self, **keys: Sequence[str]) -> None:
        """From now on these fire, by alert. Nobody is told of it."""
        self.firing = {alert: [transition(key=key, alert=alert) for key in some] for alert, some in keys.items()}

    def known(self) -> set[str]:
        """What fires, as the receiver knows it."""
        told = [alert for request in self.receiver.requests for alert in request.json]
        ends = {alert["labels"]["alertname"]: alert["endsAt"] for alert in told}
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 1))
        return {name.removeprefix("order-") for name, end in ends.items() if end > now}

    async def until_known(self, *keys: str) -> None:
        await until(lambda: self.known() == {*keys}, f"{keys} fire")

    async def close(self) -> None:
        await self.outputs.settle_levels()
        await self.outputs.drain()
        await self._ledger.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with Receiver() as receiver, asyncio.TaskGroup() as tasks:
        made = Desk(tmp_path, tasks, receiver)
        yield made
        await made.close()


async def test_what_an_alert_told_of_ends_when_the_alert_is_taken_out(desk: Desk) -> None:
    desk.fires(late=["1"], early=["2", "3"])
    await desk.apply(desk.config(alerts=["late", "early"]))
    await desk.until_known("1", "2", "3")
    await desk.apply(desk.config(alerts=["late"]))
    await desk.until_known("1")


async def test_a_row_that_goes_while_the_configuration_changes_ends(desk: Desk) -> None:
    desk.fires(late=["1", "2"])
    await desk.apply(desk.config())
    await desk.until_known("1", "2")
    desk.firing = {}  # the watch is being made anew
    await desk.apply(desk.config(alerts=["late", "early"]))
    desk.fires(late=["2"], early=["3"])
    for alert in desk.config(alerts=["late", "early"]).row_alerts.values():
        desk.outputs.changed(alert, False)
    await desk.until_known("2", "3")


async def test_what_an_output_told_of_has_ended_once_the_output_is_stopped(desk: Desk) -> None:
    desk.fires(late=["1", "2"])
    await desk.apply(desk.config())
    await desk.until_known("1", "2")
    await desk.apply(desk.config(quick_channel(desk.receiver.url)))
    assert desk.known() == set()
    assert ({*desk.outputs.levels}, {*desk.outputs.dispatchers}) == (set(), {"am"})


async def test_a_channel_that_becomes_an_output_is_no_channel_any_more(desk: Desk) -> None:
    await desk.apply(desk.config(quick_channel(desk.receiver.url)))
    desk.fires(late=["1"])
    await desk.apply(desk.config())
    await desk.until_known("1")
    assert ({*desk.outputs.levels}, {*desk.outputs.dispatchers}) == ({"am"}, set())


async def test_a_receiver_that_hangs_holds_up_a_change_of_the_configuration_for_a_moment_only(desk: Desk) -> None:
    clock = LoopClock(asyncio.get_running_loop())
    patient = {"type": "alertmanager", "urls": [desk.receiver.url], "timeout": "10m"}
    desk.fires(late=["1"])
    await desk.apply(desk.config(patient))
    await desk.receiver.arrived(1)
    desk.receiver.otherwise = lambda _: Answer(hang=True)
    changing = asyncio.create_task(desk.apply(desk.config(quick_channel(desk.receiver.url))))
    await desk.receiver.arrived(2)
    assert not changing.done()
    clock.advance(3)
    async with asyncio.timeout(SOON):
        await changing
    assert desk.outputs.levels == {}
