"""A row pipeline that is stopped or loses its source at the worst moment, and how it resumes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.clock import Clock
from support.pipelines import COLUMNS, Pauses, ScriptedSource, alert_in, at_work, row_pipeline
from support.waiting import until
from tocsin.alert import RowAlert
from tocsin.backoff import Backoff
from tocsin.errors import LedgerError, LedgerReason, SourceError, SourceReason
from tocsin.exposition import State
from tocsin.firing import Rule
from tocsin.ledger.base import Commit, Filter, Stored
from tocsin.ledger.sqlite import SqliteLedger, open_ledger
from tocsin.model import Batch, Column, Kind, Notification, Row
from tocsin.pipeline import resume
from tocsin.pipeline.indexes import firing_rule
from tocsin.pipeline.tap import SeenRows, SeenState, Tap

SNAPSHOT = Batch(updates=[], frontier=11, snapshot=10)
PROGRESS = Batch(updates=[], frontier=20)


class SlowLedger:
    """A ledger whose commits, while `released` is not set, are written but do not return."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self._ledger = ledger
        self.released = asyncio.Event()
        self.released.set()
        self.written = 0
        self._faults = 0

    def fault(self, times: int = 1) -> None:
        """The next commits fail."""
        self._faults = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def commit(self, commit: Commit) -> Sequence[Notification]:
        if self._faults:
            self._faults -= 1
            raise LedgerError("the disk is full", LedgerReason.FULL)
        notifications = await self._ledger.commit(commit)
        self.written += 1
        await self.released.wait()
        return notifications


async def test_value_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    """Also by a gauge that notifies no one."""
    source = ScriptedSource()
    source.columns = (*COLUMNS, Column(name="total", oid=25))
    rows = [(10, 1, (str(n), "AfQ=")) for n in range(3)]
    source.put(replace(SNAPSHOT, updates=rows))
    alert = alert_in(tmp_path, "labels: [id], value: total")
    with capture_logs() as logged:
        async with at_work(row_pipeline(alert, source, None)):
            await until(lambda: any("not a number" in line["event"] for line in logged))
    assert [line["column"] for line in logged if "not a number" in line["event"]] == ["total"]


@pytest.fixture
def alert(tmp_path: Path) -> RowAlert:
    return alert_in(tmp_path)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SlowLedger]:
    store = open_ledger(tmp_path / "ledger.db")
    yield SlowLedger(store)
    await store.close()


async def stored(ledger: SlowLedger) -> Stored:
    found: Stored | None = await ledger.load("late")
    assert found is not None
    return found


async def test_cancelled_commit_is_finished_and_remembered(alert: RowAlert, ledger: SlowLedger) -> None:
    """Otherwise the next run would begin before the rows it has stored, and resolve them."""
    source = ScriptedSource()
    pipeline = row_pipeline(alert, source, ledger)
    async with at_work(pipeline) as task:
        source.put(SNAPSHOT)
        await until(lambda: ledger.written == 1)
        source.put(PROGRESS)  # not written at once
        await until(lambda: pipeline.frontier == 20)
        ledger.released.clear()
        source.put(Batch(updates=[(25, 1, ("1",))], frontier=30))
        await until(lambda: ledger.written == 2)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        ledger.released.set()
        await asyncio.wait({task})
    await pipeline.finish()
    assert (ledger.written, (await stored(ledger)).frontier) == (2, 30)


async def test_progress_is_stored_at_shutdown(alert: RowAlert, ledger: SlowLedger) -> None:
    """So the next run resumes as late as it can."""
    source = ScriptedSource()
    pipeline = row_pipeline(alert, source, ledger)
    async with at_work(pipeline):
        source.put(SNAPSHOT, PROGRESS)
        await until(lambda: pipeline.frontier == 20)
    await pipeline.finish()
    assert (await stored(ledger)).frontier == 20
    async with at_work(row_pipeline(alert, source, ledger)):
        await until(lambda: source.resumes == [None, 19])


async def test_partial_batch_under_new_columns_is_discarded(
    alert: RowAlert, ledger: SlowLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set under new columns is stored completely; a partial one would hold rows that were never notified."""
    source = ScriptedSource()
    pipeline = row_pipeline(alert, source, ledger)
    async with at_work(pipeline) as task:
        source.put(SNAPSHOT, PROGRESS)
        await until(lambda: pipeline.frontier == 20)
        source.columns = (*COLUMNS, Column(name="note", oid=25))
        source.put(SourceError("gone", SourceReason.SHAPE))
        await until(lambda: pipeline.columns == source.columns)
        assert pipeline.gauges is not None
        monkeypatch.setattr(pipeline.gauges, "install", cancel_task)  # after the firing set, before the commit
        source.put(Batch(updates=[(25, 1, ("1", "new"))], frontier=30, snapshot=25))
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await pipeline.finish()
    assert list((await stored(ledger)).firings) == []


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_new_column_keeps_stored_firings(tmp_path: Path, ledger: SlowLedger, first: bool) -> None:
    """All rows are stored again, matched by name, and each episode keeps its start."""
    source, note = ScriptedSource(), Column(name="note", oid=25)

    def row(id_: str) -> Row:
        return (None, id_) if first else (id_, None)

    source.put(Batch(updates=[(10, 1, ("1",)), (10, 1, ("2",))], frontier=11, snapshot=10))
    async with at_work(row_pipeline(alert_in(tmp_path, "key: [id]"), source, ledger)):
        await until(lambda: ledger.written == 1)
        source.columns = (note, *COLUMNS) if first else (*COLUMNS, note)
        updates = [(20, 1, row(id_)) for id_ in ("1", "2", "3")]
        source.put(SourceError("gone", SourceReason.SHAPE), Batch(updates=updates, frontier=21, snapshot=20))
        await until(lambda: ledger.written == 2)
    assert (await stored(ledger)).columns == source.columns
    starts = {one.row: one.started_at for one in (await stored(ledger)).firings}
    assert starts == {row("1"): 10, row("2"): 10, row("3"): 20}
    assert [one.kind for one in await ledger.find(Filter())] == [Kind.FIRED] * 3


async def test_new_column_leaves_no_old_series(tmp_path: Path) -> None:
    """Without a key, the rows with the new column are other keys than before."""
    source = ScriptedSource()
    pipeline = row_pipeline(alert_in(tmp_path, "labels: []"), source, None)
    source.put(Batch(updates=[(10, 1, ("1",)), (10, 1, ("2",))], frontier=11, snapshot=10))
    async with at_work(pipeline):
        await until(lambda: pipeline.frontier == 11)
        status = pipeline.status()
        assert (status.firing, status.series, status.dropped, status.duplicates) == (2, 1, 0, 1)
        source.columns = (*COLUMNS, Column(name="note", oid=25))
        source.put(
            SourceError("gone", SourceReason.SHAPE),
            Batch(updates=[(20, 1, ("1", None))], frontier=21, snapshot=20),
            Batch(updates=[(30, -1, ("1", None))], frontier=31),
        )
        await until(lambda: pipeline.frontier == 31)
        assert pipeline.gauges is not None
        assert pipeline.gauges.series == 0


async def test_silent_start_still_notifies_a_later_gap(tmp_path: Path, ledger: SlowLedger) -> None:
    """`initial: silent` is for the very first snapshot only."""
    alert, source = alert_in(tmp_path, "key: [id], initial: silent"), ScriptedSource()
    source.put(Batch(updates=[(10, 1, ("1",))], frontier=11, snapshot=10))
    async with at_work(row_pipeline(alert, source, ledger)):
        await until(lambda: ledger.written == 1)
    pipeline = row_pipeline(alert, source, ledger)
    source.put(Batch(updates=[(50, 1, ("2",))], frontier=51, snapshot=50))
    async with at_work(pipeline):
        await until(lambda: ledger.written == 2)
    found = sorted((one.kind, one.row) for one in await ledger.find(Filter()))
    assert found == [(Kind.FIRED, ("2",)), (Kind.RESOLVED, ("1",))]
    assert pipeline.gaps == 1


def cancel_task(*_: object) -> Any:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    raise asyncio.CancelledError


async def test_pauses_grow_and_start_over_after_a_batch(alert: RowAlert) -> None:
    source, pauses = ScriptedSource(), Pauses()
    backoff = Backoff(initial=1.0, maximum=10.0)
    pipeline = row_pipeline(alert, source, None, backoff=backoff, chance=lambda: 0.5, sleep=pauses.sleep)
    fault = SourceError("gone", SourceReason.DISCONNECTED)
    source.put(*[fault] * 6, SNAPSHOT, *[fault] * 3)
    async with at_work(pipeline):
        await until(lambda: len(pauses.seconds) == 9)
    assert pauses.seconds == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 0.5, 1.0, 2.0]


async def test_next_attempt_is_known_during_a_pause(alert: RowAlert) -> None:
    source, clock, go = ScriptedSource(), Clock(100.0), asyncio.Event()

    async def sleep(_: float) -> None:
        await go.wait()

    backoff = Backoff(initial=12.0, maximum=30.0)
    pipeline = row_pipeline(alert, source, None, backoff=backoff, chance=lambda: 0.5, sleep=sleep, clock=clock)
    source.put(SourceError("gone", SourceReason.DISCONNECTED))
    async with at_work(pipeline):
        await until(lambda: pipeline.status().next_attempt)
        assert pipeline.status().next_attempt == 106.0
        source.put(SNAPSHOT)
        go.set()
        await until(lambda: pipeline.status().state is State.UP)
        assert pipeline.status().next_attempt is None


@pytest.mark.parametrize("reason", [SourceReason.MISSING, SourceReason.DROPPED, SourceReason.PERMISSION])
async def test_view_made_anew_is_found_within_a_second(alert: RowAlert, reason: SourceReason) -> None:
    """`dbt run` drops and makes every view. One that is away for ten minutes may be away for long."""
    source, pauses, lasting = ScriptedSource(), Pauses(), Clock(0.0)

    async def sleep(seconds: float) -> None:
        await pauses.sleep(seconds)
        lasting.advance(seconds)

    backoff = Backoff(initial=1.0, maximum=30.0)
    pipeline = row_pipeline(alert, source, None, backoff=backoff, chance=lambda: 1.0, sleep=sleep, monotonic=lasting)
    source.put(*[SourceError("gone", reason)] * 602)
    async with at_work(pipeline):
        await until(lambda: len(pauses.seconds) == 602)
    assert pauses.seconds == [1.0] * 600 + [30.0] * 2


async def test_only_silence_makes_an_alert_stale(alert: RowAlert) -> None:
    """Not a jump of the wall clock. Asking for the status changes nothing."""
    day = 86_400.0
    source, wall, lasting = ScriptedSource(), Clock(), Clock(50.0)
    pipeline = row_pipeline(alert, source, None, clock=wall, monotonic=lasting)

    def served() -> int:
        assert pipeline.gauges is not None
        blocks = pipeline.gauges.blocks()
        assert (pipeline.state is State.UP) == (pipeline.current() is not None)
        assert pipeline.status().series == len(blocks)
        return len(blocks)

    async with at_work(pipeline):
        source.put(Batch(updates=[(10, 1, ("1",))], frontier=11, snapshot=10))
        await until(lambda: pipeline.last_progress is not None)
        shown = wall.now
        for jump in (day, -2 * day, day):
            wall.advance(jump)
            assert served() == 1
            assert pipeline.last_progress == shown
        lasting.advance(300.1)
        wall.advance(-day)  # as if no time had passed
        assert served() == 0
        source.put(Batch(updates=[], frontier=12))
        await until(lambda: pipeline.frontier == 12 and not pipeline.stale)
        assert served() == 1
        assert pipeline.last_progress == shown - day


async def test_ledger_fault_restarts_from_the_ledger(alert: RowAlert, ledger: SlowLedger) -> None:
    """Memory may be ahead of the ledger: the row is notified once, by the commit that succeeds."""
    source = ScriptedSource()
    pipeline = row_pipeline(alert, source, ledger)
    async with at_work(pipeline):
        source.put(SNAPSHOT)
        await until(lambda: ledger.written == 1)
        ledger.fault()
        source.put(Batch(updates=[(25, 1, ("1",))], frontier=30))
        await until(lambda: source.resumes == [None, 10])
        assert pipeline.state is State.ERROR
        source.put(Batch(updates=[(10, 0, ("1",)), (25, 1, ("1",))], frontier=30, snapshot=10))
        await until(lambda: pipeline.state is State.UP)
    assert [one.row for one in (await stored(ledger)).firings] == [("1",)]
    assert len(await ledger.find(Filter(channel="out"))) == 1


async def test_ledger_that_failed_is_tried_again_soon(alert: RowAlert, ledger: SlowLedger) -> None:
    """Whatever the backoff of the source is: an outage of the ledger holds up everything."""
    source, pauses = ScriptedSource(), Pauses()
    source.put(*[SNAPSHOT] * 7)
    ledger.fault(6)
    slow = Backoff(initial=64.0, maximum=64.0)
    pipeline = row_pipeline(alert, source, ledger, backoff=slow, chance=lambda: 1.0, sleep=pauses.sleep)
    async with at_work(pipeline):
        await until(lambda: pipeline.state is State.UP)
    assert pauses.seconds == [0.55, 1.0, 2.0, 2.0, 2.0, 2.0]


async def test_batch_that_failed_is_recorded_once(alert: RowAlert, ledger: SlowLedger) -> None:
    """When it is committed: a replay would otherwise apply it twice."""
    source, tap = ScriptedSource(), Tap()
    first = Batch(updates=[(10, 1, ("1",))], frontier=11, snapshot=10)
    source.put(SNAPSHOT, Batch(updates=[(12, 1, ("1",))], frontier=13), first)
    stream = tap.follow([alert.name], [], 60.0)
    following = asyncio.ensure_future(anext(stream))
    async with at_work(row_pipeline(alert, source, ledger, tap=tap)):
        seen = [await following, await anext(stream)]
        assert [type(one) for one in seen] == [SeenState, SeenRows]
        ledger.fault(1)
        source.put(Batch(updates=[(14, 1, ("2",))], frontier=15))  # fails
        source.put(replace(first, updates=[(10, 1, ("3",))]))  # the snapshot of the next subscription
        rows = [one.batch.updates for _ in range(3) if isinstance(one := await anext(stream), SeenRows)]
    assert rows == [[(12, 1, ("1",))], first.updates, [(10, 1, ("3",))]]


def test_settings_of_alert_reach_firing_set(tmp_path: Path) -> None:
    alert = alert_in(
        tmp_path, "key: [id], for: 1s, keep_firing_for: 2s, repeat_interval: 3s, ignore: [note], labels: [id]"
    )
    columns = (Column(name="note", oid=25), *COLUMNS)
    assert firing_rule(alert, columns) == Rule(
        alert="late", columns=columns, key=(1,), ignored=frozenset({0}), hold=1000, keep=2000, repeat=3000, notify=True
    )


def test_columns_of_one_name_are_refused(alert: RowAlert) -> None:
    """In `row` there would be only one of them."""
    with pytest.raises(SourceError, match="there are several columns 'id'; give each its own name"):
        firing_rule(alert, (*COLUMNS, Column(name="id", oid=25)))


class TypedSource(ScriptedSource):
    """Knows the name of one type."""

    async def type_name(self, oid: int) -> str:
        if oid == 16_999:
            raise SourceError("no such function", SourceReason.OTHER)
        return "shop.urgency"


@pytest.mark.parametrize(
    ("oid", "name"),
    [
        *((25, "text"), (1007, "int4[]"), (1186, ""), (1700, "")),
        *((oid, "shop.urgency") for oid in (16_385, 16_460, 16_462, 16_464, 16_552)),
        (16_999, "number 16999"),
    ],
)
async def test_value_of_another_type_is_refused(tmp_path: Path, oid: int, name: str) -> None:
    """Where the server declares types. Also if it does not say what they are called, and if the number of a user's type
    is that of one that only Materialize has."""
    source = TypedSource()
    source.columns = (*COLUMNS, Column(name="total", oid=oid))
    source.put(replace(SNAPSHOT, updates=[(10, 1, ("1", "5"))]))
    pipeline = row_pipeline(alert_in(tmp_path, "labels: [id], value: total"), source, None)
    expected = f"total is of type {name}, which is not a number; cast it in the view" if name else ""
    async with at_work(pipeline):
        await until(lambda: pipeline.state is (State.ERROR if name else State.UP))
    assert pipeline.status().message == expected


def test_another_query_is_another_definition(alert: RowAlert) -> None:
    queries = ("SELECT 1 AS id", "SELECT 2 AS id")
    subjects = [replace(alert.subject, relation=None, query=query) for query in queries]
    one, two = (resume.definition(replace(alert, subject=subject)) for subject in subjects)
    assert one != two
    assert resume.same_key(one, two)
