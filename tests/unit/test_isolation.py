"""An exception that no code expected stops one source or one channel, visibly, and is retried. The process goes on."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.channels import FakeChannel
from support.config import FakeSource, load_text
from support.dispatching import DispatcherHarness
from support.intakes import Offered, intake_of_orders
from support.levels import LevelHarness
from support.pipelines import CONFIG, Pauses, alert_in, at_work, row_pipeline
from support.waiting import until
from tocsin.app import _COLLECT, _Reloading
from tocsin.app import build as units
from tocsin.app.runtime import Runtime
from tocsin.config.check import check_online
from tocsin.dispatch import ChannelStatus
from tocsin.errors import ConfigError
from tocsin.exposition import Metrics, State
from tocsin.faults import unexpected
from tocsin.ledger.base import Backlog
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Batch, Column, Columns, Event
from tocsin.sources.base import EventBatch
from tocsin.web.connections import Connections
from tocsin.web.port import Port

DEFECTS = pytest.mark.parametrize("defect", [KeyError, asyncio.CancelledError])


class Defective:
    """A source of events or rows that raises `defect` in the middle of its stream five times, then yields a batch."""

    columns: Columns = (Column(name="id", oid=23),)

    def __init__(self, defect: type[BaseException], batch: EventBatch | Batch) -> None:
        self.opened = 0
        self._defect = defect
        self._batch = batch

    @asynccontextmanager
    async def open(self, *_: object, **__: object) -> AsyncIterator[Any]:
        self.opened += 1
        yield self

    async def batches(self) -> AsyncIterator[Any]:
        if self.opened <= 5:
            raise self._defect("p4ssword")
        yield self._batch
        await asyncio.Event().wait()

    async def prepare(self, batch: EventBatch) -> None: ...

    async def hold(self) -> bool:
        return True

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None: ...


class Broken:
    """A ledger of which one method raises an exception that no code expects, a number of times."""

    def __init__(self, ledger: Any, method: str, times: int) -> None:
        self._ledger = ledger
        self._method = method
        self.times = times

    def __getattr__(self, name: str) -> Any:
        if name == self._method and self.times:
            self.times -= 1
            raise ZeroDivisionError("p4ssword")
        return getattr(self._ledger, name)


@DEFECTS
async def test_unexpected_exception_in_event_source_is_retried(tmp_path: Path, defect: type[BaseException]) -> None:
    """The source is down with the type of the exception, in one log line, until it works."""
    batch = EventBatch(events=[Event(name="order", id="1", at=1, columns=(), row=())])
    source, offered, pauses, metrics = Defective(defect, batch), Offered(), Pauses(), Metrics("0")
    seen: list[tuple[State, str]] = []

    async def sleep(seconds: float) -> None:
        seen.append((intake.state, intake.message))
        await pauses.sleep(seconds)

    ledger = open_ledger(tmp_path / "ledger.db")
    intake = intake_of_orders(tmp_path, source, ledger, offered, metrics, sleep=sleep)
    with capture_logs() as logged:
        async with at_work(intake):
            await until(lambda: offered.notifications, "it goes on")
            assert intake.state is State.UP
    await ledger.close()
    name = defect.__name__
    assert {state for state, _ in seen} == {State.ERROR}
    assert all(message.startswith(f"unexpected {name} in tocsin.pipeline.events, line ") for _, message in seen)
    errors = metrics.registry.get_sample_value(
        "tocsin_alert_source_errors_total", {"alert": "order", "reason": "internal"}
    )
    assert errors == 5
    shown = [line for line in logged if line["log_level"] != "debug"]
    assert "p4ssword" not in str(shown)
    assert [line["event"] for line in shown].count("source down") in (1, 5)  # "source up" is between them


@DEFECTS
async def test_unexpected_exception_in_row_source_is_retried(tmp_path: Path, defect: type[BaseException]) -> None:
    """The alert is in error with the type of the exception until its source works."""
    source, pauses = Defective(defect, Batch(updates=[], frontier=11, snapshot=10)), Pauses()
    ledger = open_ledger(tmp_path / "ledger.db")
    seen: list[str] = []

    async def sleep(seconds: float) -> None:
        seen.append(pipeline.status().message)
        await pauses.sleep(seconds)

    pipeline = row_pipeline(alert_in(tmp_path), source, ledger, sleep=sleep)
    async with at_work(pipeline):
        await until(lambda: pipeline.state is State.UP, "it goes on")
    await ledger.close()
    assert len(seen) == 5
    assert all(message.startswith(f"unexpected {defect.__name__} in tocsin.pipeline.rows") for message in seen)


async def test_unexpected_exception_in_dispatcher_is_retried(harness: DispatcherHarness) -> None:
    """The channel restarts from the ledger: pending notifications are delivered once."""
    channel = FakeChannel()
    dispatcher = harness.start(channel, ledger=Broken(harness.ledger, "settle", 2))
    [one] = await harness.fire("1")
    await harness.until(lambda: dispatcher.fault)
    assert dispatcher.message.startswith("unexpected ZeroDivisionError in tocsin.dispatch")
    assert (dispatcher.status, dispatcher.delivers) == (ChannelStatus.FAILING, False)
    await harness.advance(5)
    await harness.delivered(one)
    await harness.until(lambda: not dispatcher.fault)
    assert dispatcher.status is ChannelStatus.UP


async def test_unexpected_exception_in_level_output_is_retried() -> None:
    """The output shows it, and sends what fires once that can be read again."""
    levels = LevelHarness("a", "b")
    try:
        await levels.quiet()
        good, levels.firing = levels.firing, 7  # type: ignore[assignment]
        levels.loop.changed("late")
        await levels.advance(0.3)
        assert levels.loop.message.startswith("unexpected TypeError in")
        assert (levels.loop.status, levels.loop.delivers) == (ChannelStatus.FAILING, False)
        levels.firing = good
        await levels.fires("1")
        for _ in range(10):
            await levels.advance(3)
        assert levels.level.sent("a") == [["1"]]
        for _ in range(10):
            await levels.advance(10)
        assert levels.loop.status is ChannelStatus.UP
        assert not levels.task.done()
    finally:
        await levels.close()


async def test_unexpected_exception_in_housekeeping_is_retried(tmp_path: Path) -> None:
    """The ledger is shown as unusable until the look after it succeeds."""
    async with asyncio.TaskGroup() as tasks:
        runtime = Runtime(tasks, Metrics("0"))
        ledger = open_ledger(tmp_path / "ledger.db")
        runtime.ledger = Broken(ledger, "backlog", 1)
        house = tasks.create_task(runtime.run_maintenance())
        await until(lambda: runtime.ledger_fault.startswith("unexpected ZeroDivisionError in"), "the fault is shown")
        await until(lambda: not runtime.ledger_fault, "it works again")
        house.cancel()
    await ledger.close()


async def test_large_outbox_is_counted_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notifications of a dead channel must not keep the ledger busy with counting."""
    counted: list[float] = []

    async def count() -> dict[str, Backlog]:
        await asyncio.sleep(0.3)
        counted.append(time.monotonic())
        return {}

    monkeypatch.setattr("tocsin.app.runtime._MAINTENANCE_EVERY", 0.01)
    async with asyncio.TaskGroup() as tasks:
        runtime = Runtime(tasks, Metrics("0"))
        runtime.ledger = ledger = open_ledger(tmp_path / "ledger.db")
        monkeypatch.setattr(ledger, "backlog", count)
        house = tasks.create_task(runtime.run_maintenance())
        await until(lambda: len(counted) == 2, "counted twice")
        house.cancel()
    await ledger.close()
    assert counted[1] - counted[0] > 2


async def test_unexpected_exception_in_reload_changes_nothing(tmp_path: Path) -> None:
    """The answer to the reload names the type and the place; the process goes on."""

    def read() -> Any:
        raise ZeroDivisionError("p4ssword")

    async with asyncio.TaskGroup() as tasks:
        metrics = Metrics("0")
        config = load_text(tmp_path, CONFIG)
        reloading = _Reloading(tasks, Runtime(tasks, metrics), metrics, config, read, Port(config.web, Connections()))
        [problem] = await reloading()
    assert problem.startswith("unexpected ZeroDivisionError in tocsin.app, line")
    assert metrics.registry.get_sample_value("tocsin_config_last_reload_successful") == 0


def test_unusable_channel_value_becomes_problem_with_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value over which a channel or a source cannot be made refuses the configuration."""
    config = load_text(tmp_path, CONFIG)

    def build(*_: object) -> None:
        raise OverflowError("p4ssword")

    monkeypatch.setattr("tocsin.channels.console.build", build)
    with pytest.raises(ConfigError, match=r"^channels.out: cannot be used: unexpected OverflowError in tocsin"):
        units.make_channel(config.channels["out"])


async def test_unexpected_exception_in_check_hides_no_other_problem(tmp_path: Path) -> None:
    """Each channel and source that cannot be checked is a problem, and the others are still checked."""

    class Odd(FakeChannel):
        async def verify(self) -> list[str]:
            raise ZeroDivisionError("p4ssword")

    source = FakeSource(errors=[KeyError("p4ssword")])
    found = await check_online(load_text(tmp_path, CONFIG), {"mz": source}, {"out": Odd()})
    texts = [problem.message for problem in found]
    assert len(texts) == 2
    assert texts[0].startswith("cannot be checked: unexpected KeyError in tocsin.config.check")
    assert texts[1].startswith("cannot be checked: unexpected ZeroDivisionError in tocsin.config.check")


def test_text_of_an_exception_is_not_shown() -> None:
    """It may hold anything, a password too; of a group the first exception counts."""
    group = ExceptionGroup("p4ssword", [ValueError("p4ssword")])
    assert unexpected(group) == "unexpected ValueError in an unknown place"


def test_garbage_collector_stops_the_loop_briefly() -> None:
    """While very many notifications wait, too: what is new is collected in small parts."""
    pauses: list[float] = []
    began = 0.0

    def measure(phase: str, _: object) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        else:
            pauses.append(time.thread_time() - began)

    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # as the process does: what other tests have left is not its own
    gc.callbacks.append(measure)
    try:
        gc.set_threshold(*_COLLECT)
        kept = [([number], {"number": number}, (number, [str(number)])) for number in range(300_000)]
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        gc.callbacks.remove(measure)
    assert len(kept) == 300_000
    assert len(pauses) > 100
    assert max(pauses) < 0.01
