"""An intake with a scripted source: when it keeps the subscription open, how long it waits, and when it gives up."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.clock import Clock
from support.explaining import event_alert
from support.intakes import Locked
from support.pipelines import Pauses, at_work
from support.waiting import until
from tocsin.backoff import Backoff
from tocsin.errors import DeadLetterError, RefusedReason, SourceError, SourceReason
from tocsin.exposition import Metrics, State
from tocsin.ledger.sqlite import SqliteLedger, open_ledger
from tocsin.model import Event
from tocsin.pipeline.events import HOLD_EVERY, EventOutputs, EventPipeline
from tocsin.pipeline.reporter import Stall
from tocsin.sources.base import EventBatch, EventStream, Refused

GONE = SourceError("gone", SourceReason.DISCONNECTED)
FULL = DeadLetterError("no room for dead letters", SourceReason.OTHER)
BACKOFF = Backoff(initial=1.0, maximum=16.0)


class Scripted:
    """A source that yields the queued batches and faults. `away`, `unkept`, `unacknowledged`: how often `open` fails,
    and `prepare` and `acknowledge` over a dead letter; `keeps`, `lost`: whether `hold` keeps or has lost the stream."""

    def __init__(self, away: int = 0) -> None:
        self.following: asyncio.Queue[EventBatch | SourceError] = asyncio.Queue()
        self.acknowledged: list[EventBatch] = []
        self.away, self.unkept, self.unacknowledged = away, 0, 0
        self.keeps, self.lost = True, False
        self.opened = self.held = 0

    @asynccontextmanager
    async def open(self, names: Sequence[str], *, position: Mapping[str, int]) -> AsyncIterator[EventStream]:
        if self.away:
            self.away -= 1
            raise GONE
        self.opened += 1
        yield self

    async def batches(self) -> AsyncIterator[EventBatch]:
        while True:
            following = await self.following.get()
            if isinstance(following, SourceError):
                raise following
            yield following

    async def prepare(self, batch: EventBatch) -> None:
        if self.unkept:
            self.unkept -= 1
            raise FULL

    async def hold(self) -> bool:
        self.held += 1
        if self.lost:
            raise GONE
        return self.keeps

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:
        if self.unacknowledged:
            self.unacknowledged -= 1
            raise FULL
        self.acknowledged.append(batch)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    made = open_ledger(tmp_path / "ledger.db")
    yield made
    await made.close()


def batch_of(*ids: str, **more: Any) -> EventBatch:
    events = [Event(name="order", id=id_, at=1, columns=(), row=()) for id_ in ids]
    return EventBatch(events=events, position={"p": len(ids)}, **more)


def intake_of(
    source: Scripted, ledger: Any, backoff: Backoff = BACKOFF, *, keep: bool = True, **more: Any
) -> EventPipeline:
    metrics = Metrics("0").source("posted")
    outlets = EventOutputs(ledger=ledger, metrics=metrics, offer=lambda _: None, publish=lambda _: None, keep=keep)
    return EventPipeline("posted", source, [], backoff, outlets, **more)


async def test_stream_stays_open_while_ledger_is_locked(ledger: SqliteLedger) -> None:
    """The same batch is committed once the ledger can be written, over the same subscription."""
    source, locked, go = Scripted(), Locked(ledger, 30), asyncio.Semaphore(0)

    async def sleep(_: float) -> None:
        await go.acquire()

    intake = intake_of(source, locked, sleep=sleep)
    source.following.put_nowait(batch_of("1"))
    async with at_work(intake):
        await until(lambda: intake.state is State.ERROR)
        assert intake.message == "the ledger is locked"
        for _ in range(1000):
            go.release()
        await until(lambda: source.acknowledged, "the batch is safe")
        assert (intake.state, intake.message) == (State.UP, "")
    assert (source.opened, locked.tries) == (1, 31)
    assert await ledger.position("posted") == {"p": 1}


async def test_ledger_that_failed_is_tried_again_soon(ledger: SqliteLedger) -> None:
    """Whatever the backoff of the source is: an outage of the ledger holds up everything."""
    source, pauses = Scripted(), Pauses()
    intake = intake_of(source, Locked(ledger, 5), chance=lambda: 1.0, sleep=pauses.sleep)
    source.following.put_nowait(batch_of("1"))
    async with at_work(intake):
        await until(lambda: source.acknowledged)
    assert pauses.seconds == [0.5, 1.0, 2.0, 2.0, 2.0]


async def test_pauses_grow_while_dead_letters_fail(ledger: SqliteLedger) -> None:
    """During a long pause the source is called often enough to keep its subscription alive."""
    source, pauses = Scripted(), Pauses()
    source.unkept = 5
    intake = intake_of(source, ledger, chance=lambda: 1.0, sleep=pauses.sleep)
    source.following.put_nowait(batch_of("1"))
    async with at_work(intake):
        await until(lambda: source.acknowledged)
    assert pauses.seconds == [1.0, 2.0, 4.0, HOLD_EVERY, 3.0, *[HOLD_EVERY] * 3, 1.0]
    assert source.held == len(pauses.seconds)


@pytest.mark.parametrize("step", ["unkept", "unacknowledged"])
async def test_stream_stays_open_while_dead_letters_fail(ledger: SqliteLedger, step: str) -> None:
    """The batch is committed once, and the source is down until its dead letters are kept."""
    source, locked, pauses = Scripted(), Locked(ledger, 0), Pauses()
    setattr(source, step, 30)
    states: list[tuple[State, str]] = []

    async def sleep(seconds: float) -> None:
        states.append((intake.state, intake.message))
        await pauses.sleep(seconds)

    intake = intake_of(source, locked, sleep=sleep)
    source.following.put_nowait(batch_of("1"))
    async with at_work(intake):
        await until(lambda: source.acknowledged)
        assert intake.state is State.UP
    assert set(states) == {(State.ERROR, "no room for dead letters")}
    assert (source.opened, locked.tries) == (1, 1)


async def test_lost_connection_during_hold_is_opened_again(ledger: SqliteLedger) -> None:
    """An ended subscription cannot be kept, and the batch is delivered again over the next one."""
    source, pauses = Scripted(), Pauses()
    source.lost = True
    intake = intake_of(source, Locked(ledger, 1), sleep=pauses.sleep)
    source.following.put_nowait(batch_of("1"))
    async with at_work(intake):
        await until(lambda: source.opened == 2)
        source.following.put_nowait(batch_of("1"))
        await until(lambda: source.acknowledged)


async def test_batch_given_back_waits_for_the_ledger(ledger: SqliteLedger) -> None:
    """A source that takes its batch back is asked for the next one once the ledger is writable."""
    source, locked, pauses = Scripted(), Locked(ledger, 3), Pauses()
    source.keeps = False
    intake = intake_of(source, locked, sleep=pauses.sleep)
    source.following.put_nowait(batch_of("1"))
    async with at_work(intake):
        await until(lambda: intake.state is State.UP and locked.times == 0)
        assert source.acknowledged == []
        source.following.put_nowait(batch_of("1"))
        await until(lambda: source.acknowledged)
    assert source.opened == 1


async def test_pause_before_reconnection_lasts_as_long_as_asked(ledger: SqliteLedger) -> None:
    """A source whose server counts reconnections sets a longer pause than the backoff."""
    source, pauses = Scripted(), Pauses()
    intake = intake_of(source, ledger, chance=lambda: 0.0, sleep=pauses.sleep)
    source.following.put_nowait(SourceError("gone", SourceReason.DISCONNECTED, wait=60.0))
    async with at_work(intake):
        await until(lambda: pauses.seconds)
    assert pauses.seconds == [60.0]


@pytest.mark.parametrize("held", [False, True])
async def test_next_attempt_is_known_during_a_pause(ledger: SqliteLedger, *, held: bool) -> None:
    """Of the source, and of a batch that could not be kept."""
    source, go = Scripted(), asyncio.Event()

    async def sleep(_: float) -> None:
        await go.wait()

    source.unkept = held
    intake = intake_of(source, ledger, chance=lambda: 1.0, sleep=sleep, clock=Clock(100.0))
    source.following.put_nowait(batch_of("1") if held else GONE)
    alert = event_alert()
    async with at_work(intake):
        await until(lambda: intake.state is State.ERROR)
        assert intake.status(alert).next_attempt == 100.0 + BACKOFF.initial
        source.following.put_nowait(batch_of("2"))
        go.set()
        await until(lambda: intake.state is State.UP and source.acknowledged)
        assert intake.status(alert).next_attempt is None


async def test_source_is_given_up_by_the_lasting_clock(ledger: SqliteLedger) -> None:
    """`give_up_after` counts the time in which dead letters cannot be kept, and no jump of the wall clock."""
    source, wall, lasting, pauses = Scripted(), Clock(), Clock(50.0), Pauses()
    source.unacknowledged = 1000

    async def sleep(seconds: float) -> None:
        await pauses.sleep(seconds)
        wall.advance(86_400 if len(pauses.seconds) % 2 else -3 * 86_400)
        lasting.advance(10.0)

    more: dict[str, Any] = {"clock": wall, "monotonic": lasting, "chance": lambda: 0.0, "sleep": sleep}
    intake = intake_of(source, ledger, give_up_after=60.0, **more)
    source.following.put_nowait(batch_of("1"))
    with pytest.raises(Stall, match="source posted: no room for dead letters"):
        await asyncio.wait_for(intake.run(), 20)
    assert len(pauses.seconds) == 6


async def test_pauses_grow_and_start_over_after_a_batch(
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


def refused_batch(*ids: str) -> EventBatch:
    refused = [Refused(id=id_, reason=RefusedReason.MALFORMED, detail="no JSON") for id_ in ids]
    return EventBatch(events=[], refused=refused, position={"p": 1})


async def test_source_with_only_refused_events_is_down(ledger: SqliteLedger) -> None:
    """A topic of which no record is a valid event: refusing, until one is."""
    source = Scripted()
    intake = intake_of(source, ledger)
    async with at_work(intake):
        source.following.put_nowait(refused_batch("1", "2"))
        await until(lambda: len(source.acknowledged) == 1)
        assert intake.state is State.UP
        source.following.put_nowait(refused_batch("3"))
        await until(lambda: len(source.acknowledged) == 2)
        assert intake.state.value == "refusing"
        assert intake.complaint == "the last 3 messages are not valid events, the latest: malformed: no JSON"
        source.following.put_nowait(batch_of("4"))
        await until(lambda: len(source.acknowledged) == 3)
        assert (intake.state, intake.complaint) == (State.UP, "")


async def test_dry_run_leaves_events_with_their_source(ledger: SqliteLedger) -> None:
    """Nothing is acknowledged, dead-lettered or stored as a position."""
    source = Scripted()
    source.unkept = source.unacknowledged = 1
    intake = intake_of(source, ledger, keep=False)
    source.following.put_nowait(batch_of("1"))
    async with at_work(intake):
        await until(lambda: intake.last_batch is not None)
    assert (source.unkept, source.unacknowledged, source.acknowledged) == (1, 1, [])
    assert await ledger.position("posted") == {}
