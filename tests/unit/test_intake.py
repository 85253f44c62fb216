"""An intake with a scripted source: how long it waits before it tries again, and when it gives up."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.clock import Clock
from support.following import Pauses, at_work
from support.waiting import until
from tocsin.app.intake import EventOutlets, Intake
from tocsin.app.watch import Stall
from tocsin.backoff import Backoff
from tocsin.errors import SourceError, SourceReason
from tocsin.exposition import Metrics
from tocsin.ledger.sqlite import SqliteLedger, open_ledger
from tocsin.model import Event
from tocsin.sources import EventBatch, EventStream

GONE = SourceError("gone", SourceReason.DISCONNECTED)


class Scripted:
    """A source that cannot be opened as often as `away` says, and then gives batches and faults as they are put in."""

    def __init__(self, away: int = 0) -> None:
        self.following: asyncio.Queue[EventBatch | SourceError] = asyncio.Queue()
        self.acknowledged: list[EventBatch] = []
        self.away = away

    @asynccontextmanager
    async def open(self, names: Sequence[str], *, position: Mapping[str, int]) -> AsyncIterator[EventStream]:
        if self.away:
            self.away -= 1
            raise GONE
        yield self

    async def batches(self) -> AsyncIterator[EventBatch]:
        while True:
            following = await self.following.get()
            if isinstance(following, SourceError):
                raise following
            yield following

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:
        self.acknowledged.append(batch)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    made = open_ledger(tmp_path / "ledger.db")
    yield made
    await made.close()


def intake_of(source: Scripted, ledger: SqliteLedger, backoff: Backoff, **more: Any) -> Intake:
    metrics = Metrics("0").source("posted")
    outlets = EventOutlets(ledger=ledger, metrics=metrics, offer=lambda _: None, publish=lambda _: None)
    return Intake("posted", source, [], backoff, outlets, **more)


async def test_the_pauses_before_a_source_is_tried_again_grow_and_begin_small_after_a_success(
    ledger: SqliteLedger,
) -> None:
    source, pauses = Scripted(away=6), Pauses()
    backoff = Backoff(initial=1.0, maximum=10.0)
    intake = intake_of(source, ledger, backoff, chance=lambda: 0.5, sleep=pauses.sleep)
    for following in (EventBatch(events=[]), GONE, GONE, GONE):
        source.following.put_nowait(following)
    async with at_work(intake):
        await until(lambda: len(pauses.seconds) == 9, "each fault is followed by a pause")
    assert pauses.seconds == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 0.5, 1.0, 2.0]
    assert len(source.acknowledged) == 1


async def test_a_source_is_given_up_for_the_time_that_passed_and_not_for_a_jump_of_the_wall_clock(
    ledger: SqliteLedger,
) -> None:
    source, wall, lasting, go = Scripted(), Clock(), Clock(50.0), asyncio.Semaphore(0)
    pauses = 0

    async def sleep(_: float) -> None:
        nonlocal pauses
        pauses += 1
        await go.acquire()

    backoff = Backoff(initial=1.0, maximum=1.0)
    intake = intake_of(source, ledger, backoff, clock=wall, monotonic=lasting, sleep=sleep, give_up_after=60.0)
    running = asyncio.create_task(intake.run())
    source.following.put_nowait(EventBatch(events=[]))
    await until(lambda: intake.last_batch == wall.now, "the first batch is taken in")
    source.away = 100
    source.following.put_nowait(GONE)
    for count, jump in enumerate((86_400, 86_400, -3 * 86_400, 0), 1):
        await until(lambda count=count: pauses == count or running.done(), "a fault and a pause")  # type: ignore[misc]
        assert not running.done()
        wall.advance(jump)
        lasting.advance(14.9)
        go.release()
    await until(lambda: pauses == 5, "still not given up")
    lasting.advance(0.5)
    go.release()
    with pytest.raises(Stall, match="source posted: gone"):
        await asyncio.wait_for(running, 20)
