"""A watch with a scripted source and a ledger that can be held: what happens when it is cut off at the worst moment."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.clock import Clock
from support.following import Pauses, at_work
from support.waiting import until
from tocsin.alert import RowAlert
from tocsin.backoff import Backoff
from tocsin.config import load
from tocsin.envelope import View
from tocsin.errors import SourceError, SourceReason
from tocsin.exposition import Metrics, Page
from tocsin.ledger.base import Commit
from tocsin.ledger.sqlite import SqliteLedger, open_ledger
from tocsin.model import Batch, Column, Columns, Kind, Notification
from tocsin.pipeline.routing import Route, Router
from tocsin.pipeline.rows import Outlets, Timing, Watch
from tocsin.pipeline.status import State
from tocsin.sources.base import Subject

COLUMNS = (Column(name="id", oid=23),)
CONFIG = """
sources: {mz: {type: materialize, dsn: "postgresql://tocsin@127.0.0.1:1/materialize"}}
channels: {out: {type: console}}
alerts: {late: {source: mz, relation: late, labels: [id], notify: [out]}}
"""


class Scripted:
    """A source that gives batches as they are put in."""

    def __init__(self) -> None:
        self.columns: Columns = COLUMNS
        self.batches: asyncio.Queue[Batch | SourceError] = asyncio.Queue()
        self.resumes: list[int | None] = []

    @asynccontextmanager
    async def open(self, subject: Subject, *, resume: int | None) -> AsyncIterator[Any]:
        self.resumes.append(resume)
        yield _Stream(self.columns, self.batches)

    async def describe(self, subject: Subject) -> Columns:
        return COLUMNS

    async def sample(self, subject: Subject) -> None:
        return None


class _Stream:
    def __init__(self, columns: Columns, batches: "asyncio.Queue[Batch | SourceError]") -> None:
        self.columns = columns
        self._queue = batches

    async def batches(self) -> AsyncIterator[Batch]:
        while True:
            following = await self._queue.get()
            if isinstance(following, SourceError):
                raise following
            yield following


class Held:
    """A ledger whose commits, when asked to, are written but do not come back."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self._ledger = ledger
        self.holding = False
        self.written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def commit(self, commit: Commit) -> Sequence[Notification]:
        notifications = await self._ledger.commit(commit)
        self.written += 1
        if self.holding:
            await asyncio.Event().wait()
        return notifications


def watch_of(alert: RowAlert, source: Scripted, ledger: Held | None, **more: Any) -> Watch:
    """`more`: clocks, chance and sleep; `backoff`."""
    metrics = Metrics("0")
    outlets = Outlets(
        page=Page(metrics),
        metrics=metrics.alert(alert.name),
        ledger=ledger,  # type: ignore[arg-type]
        router=Router([Route(channel="out", kinds=frozenset(Kind))], View(), complain=pytest.fail),
        offer=lambda _: None,
        publish=lambda _: None,
    )
    backoff = more.pop("backoff", Backoff(initial=0.01, maximum=0.01))
    timing = Timing(backoff=backoff, stale_after=300.0, exit_on_stall=False)
    return Watch(alert, source, timing, outlets, **more)


async def test_a_watch_that_is_cut_off_in_a_commit_does_not_turn_the_kept_frontier_back(tmp_path: Path) -> None:
    """Otherwise the next run would take a snapshot older than the rows it has kept, and tell that they had gone."""
    file = tmp_path / "tocsin.yaml"
    file.write_text(CONFIG)
    alert = load(file, {}).row_alerts["late"]
    store = open_ledger(tmp_path / "ledger.db")
    source, ledger = Scripted(), Held(store)
    watch = watch_of(alert, source, ledger)
    task = asyncio.create_task(watch.run())
    source.batches.put_nowait(Batch(updates=[], frontier=11, snapshot=10))
    await until(lambda: ledger.written == 1, "the snapshot is kept")
    source.batches.put_nowait(Batch(updates=[], frontier=20))  # mere progress, which is not written at once
    await until(lambda: watch.frontier == 20, "the progress is taken in")
    ledger.holding = True
    source.batches.put_nowait(Batch(updates=[(25, 1, ("1",))], frontier=30))
    await until(lambda: ledger.written == 2, "the row is kept")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    ledger.holding = False
    await watch.finish()
    stored = await store.load("late")
    assert stored is not None
    assert stored.frontier == 30
    await store.close()


async def test_mere_progress_is_kept_at_the_end_so_that_the_next_run_starts_there(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.yaml"
    file.write_text(CONFIG)
    alert = load(file, {}).row_alerts["late"]
    store = open_ledger(tmp_path / "ledger.db")
    source, ledger = Scripted(), Held(store)
    watch = watch_of(alert, source, ledger)
    task = asyncio.create_task(watch.run())
    source.batches.put_nowait(Batch(updates=[], frontier=11, snapshot=10))
    source.batches.put_nowait(Batch(updates=[], frontier=20))
    await until(lambda: watch.frontier == 20, "the progress is taken in")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await watch.finish()
    stored = await store.load("late")
    assert stored is not None
    assert stored.frontier == 20

    again = watch_of(alert, source, ledger)
    task = asyncio.create_task(again.run())
    await until(lambda: source.resumes == [None, 19], "the next run asks for the history since then")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await store.close()


async def test_a_watch_that_is_cut_off_under_new_columns_keeps_no_row_that_nobody_was_told_of(tmp_path: Path) -> None:
    """A set under new columns is written whole; written at the end of a run it would hold the half-taken batch."""
    file = tmp_path / "tocsin.yaml"
    file.write_text(CONFIG)
    alert = load(file, {}).row_alerts["late"]
    store = open_ledger(tmp_path / "ledger.db")
    source, ledger = Scripted(), Held(store)
    watch = watch_of(alert, source, ledger)
    task = asyncio.create_task(watch.run())
    source.batches.put_nowait(Batch(updates=[], frontier=11, snapshot=10))
    source.batches.put_nowait(Batch(updates=[], frontier=20))
    await until(lambda: watch.frontier == 20, "the progress is taken in")
    source.columns = (*COLUMNS, Column(name="note", oid=25))
    source.batches.put_nowait(SourceError("gone", SourceReason.SHAPE))
    await until(lambda: watch.columns == source.columns, "it reads the new columns")
    assert watch.gauges is not None
    watch.gauges.render = cut_off  # type: ignore[method-assign]  # after the firing set, before the commit
    source.batches.put_nowait(Batch(updates=[(25, 1, ("1", "new"))], frontier=30, snapshot=25))
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await watch.finish()
    stored = await store.load("late")
    assert stored is not None
    assert list(stored.firings) == []
    await store.close()


def cut_off(*_: object, **__: object) -> Any:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    raise asyncio.CancelledError


@pytest.fixture
def alert(tmp_path: Path) -> RowAlert:
    file = tmp_path / "tocsin.yaml"
    file.write_text(CONFIG)
    return load(file, {}).row_alerts["late"]


async def test_the_pauses_before_a_source_is_tried_again_grow_and_begin_small_after_a_success(alert: RowAlert) -> None:
    source, pauses = Scripted(), Pauses()
    backoff = Backoff(initial=1.0, maximum=10.0)
    watch = watch_of(alert, source, None, backoff=backoff, chance=lambda: 0.5, sleep=pauses.sleep)
    fault = SourceError("gone", SourceReason.DISCONNECTED)
    script: list[Batch | SourceError] = [*[fault] * 6, Batch(updates=[], frontier=11, snapshot=10), *[fault] * 3]
    for following in script:
        source.batches.put_nowait(following)
    async with at_work(watch):
        await until(lambda: len(pauses.seconds) == 9, "each fault is followed by a pause")
    assert pauses.seconds == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 0.5, 1.0, 2.0]


async def test_only_silence_makes_an_alert_stale_and_no_jump_of_the_wall_clock(alert: RowAlert) -> None:
    day = 86_400.0
    source, wall, lasting = Scripted(), Clock(), Clock(50.0)
    watch = watch_of(alert, source, None, clock=wall, monotonic=lasting)

    def withheld() -> bool:
        state = watch.measure()
        assert watch.gauges is not None
        assert watch.gauges.withdrawn == watch.stale == (watch.state is State.STALE) == (not state.up)
        assert (watch.current() is None) == watch.stale
        return watch.stale

    async with at_work(watch):
        source.batches.put_nowait(Batch(updates=[], frontier=11, snapshot=10))
        await until(lambda: watch.last_progress is not None, "the first batch is taken in")
        shown = wall.now
        for jump in (day, -2 * day, day):
            wall.advance(jump)
            assert not withheld()
            assert watch.last_progress == shown, "what is shown is the wall clock's time of the progress"
        # Dead, and the wall clock is turned back so that it seems to be the same moment.
        lasting.advance(300.1)
        wall.advance(-day)
        assert withheld()
        source.batches.put_nowait(Batch(updates=[], frontier=12))
        await until(lambda: watch.frontier == 12 and not watch.stale, "it speaks again")
        assert not withheld()
        assert watch.last_progress == shown - day


def failed(reason: SourceReason, *, resume: bool = True) -> SourceError:
    return SourceError(f"mz: {reason}", reason, resume=resume)


@pytest.mark.parametrize(
    ("errors", "resumes"),
    [
        ([failed(SourceReason.OTHER)] * 3, [10, 10, 10]),
        ([failed(SourceReason.FELL_BEHIND), failed(SourceReason.TOO_LARGE)], [10, 10]),
        ([failed(SourceReason.ROW_ERROR, resume=False), failed(SourceReason.CONNECT)], [None, None]),
        # The resume is in the future, but so is the server's own time: a clock was wrong for a while.
        ([failed(SourceReason.FUTURE, resume=False), failed(SourceReason.FUTURE)], [None, 10]),
    ],
    ids=["unknown errors", "known errors", "row error", "wrong clock"],
)
async def test_history_is_asked_for_unless_it_is_at_fault(
    tmp_path: Path, errors: list[SourceError], resumes: list[int | None]
) -> None:
    """After each error, the as-of that the next subscription asks for."""
    file = tmp_path / "tocsin.yaml"
    file.write_text(CONFIG)
    alert = load(file, {}).row_alerts["late"]
    store = open_ledger(tmp_path / "ledger.db")
    source = Scripted()
    watch = watch_of(alert, source, Held(store))
    source.batches.put_nowait(Batch(updates=[], frontier=11, snapshot=10))
    for error in errors:
        source.batches.put_nowait(error)
    task = asyncio.create_task(watch.run())
    await until(lambda: len(source.resumes) == len(errors) + 1, "one subscription after each error")
    assert source.resumes == [None, *resumes]
    assert watch.state is State.ERROR
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await store.close()
