"""Recordings: the file, its cut-off ends, hidden columns, and where the batches come from."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.alert import RowAlert
from tocsin.cli import record
from tocsin.cli.arguments import arguments_parser
from tocsin.config.loading import load_text
from tocsin.errors import TocsinError
from tocsin.firing import Firing, FiringSet, Phase, Rule
from tocsin.model import Batch, Column, Event, Kind, Row, Update, fingerprint
from tocsin.pipeline.tap import SeenEvents, SeenRows, SeenState, Tap
from tocsin.recording.files import NotARecordingError, Recording, Writer
from tocsin.recording.lines import Events, Json, Rows, State, item_of, line_of
from tocsin.recording.redaction import Redaction
from tocsin.replay.dry import dry
from tocsin.replay.sending import send
from tocsin.simulation.receivers import Attempt
from tocsin.sources.base import EventBatch

COLUMNS = (Column(name="id", oid=23), Column(name="customer", oid=25), Column(name="minutes", oid=23, typmod=4))
ANN: Row = ("1", "Ann", "15")
BOB: Row = ("2", "Bob", None)
NOW = 1_767_323_045.0


CONFIG = """
sources: {shop: {type: postgres, host: h, user: u}}
channels: {out: {type: console}}
alerts: {late: {source: shop, relation: late, key: [id, customer], value: minutes, notify: [out]}}
"""
CONFIGURED = load_text(CONFIG, "tocsin.yaml", {})
LATE = CONFIGURED.row_alerts["late"]


@pytest.fixture
def alert() -> RowAlert:
    return LATE


def state(alert: RowAlert, *rows: Row) -> Json:
    firings = [
        Firing(
            fingerprint=fingerprint("late", row[:2]),
            phase=Phase.FIRING,
            started_at=5,
            marked_at=6,
            row=row,
            counts=((1, row),),
        )
        for row in rows
    ]
    seen = SeenState(alert=alert, columns=COLUMNS, frontier=10, firings=firings)
    return plain(line_of(seen, NOW))


def plain(line: Json) -> Json:
    """A line as it comes over the wire."""
    loaded: Json = json.loads(json.dumps(line))
    return loaded


def rows(batch: Batch, at: float = NOW) -> Json:
    return plain(line_of(SeenRows(alert="late", batch=batch), at))


def reading(at: int, *content: Row) -> Batch:
    return Batch(updates=[(at, 1, row) for row in content], frontier=at + 1, snapshot=at, polled=True)


def written(path: Path, lines: Sequence[Json]) -> bytes:
    file = BytesIO()
    writer = Writer(file, {"tocsin": "1.0.0", "at": NOW})
    for line in lines:
        writer.add(line)
    writer.close()
    path.write_bytes(file.getvalue())
    return file.getvalue()


def normal(batch: Batch) -> Batch:
    """A batch with equal updates added up, since their order within a timestamp means nothing."""
    net: Counter[tuple[int, Row]] = Counter()
    for at, diff, row in batch.updates:
        net[at, row] += diff
    updates = sorted(((at, diff, row) for (at, row), diff in net.items() if diff), key=repr)
    return Batch(updates=updates, frontier=batch.frontier, snapshot=batch.snapshot, polled=batch.polled)


ROW = st.tuples(st.sampled_from(["1", "2", "3"]), st.sampled_from(["Ann", "Bob", None]), st.just("1"))


@st.composite
def batches(draw: st.DrawFn) -> list[Batch]:
    """Snapshots and changes, as sources deliver them."""
    made, at = [], 10
    for is_snapshot in draw(st.lists(st.booleans(), max_size=8)):
        at += 1
        updates: list[Update] = []
        if is_snapshot:
            updates += [(at, 1, row) for row in draw(st.lists(ROW, max_size=4))]
        updates += [(at + 1, diff, row) for diff, row in draw(st.lists(st.tuples(st.sampled_from([1, -1]), ROW)))]
        made.append(Batch(updates=updates, frontier=at + 2, snapshot=at if is_snapshot else None, polled=is_snapshot))
        at += 2
    return made


@given(recorded=batches(), first=st.lists(ROW, max_size=3, unique=True))
def test_batches_are_read_as_they_were_recorded(
    tmp_path_factory: pytest.TempPathFactory, recorded: list[Batch], first: list[Row]
) -> None:
    """Also readings, of which only the difference to the one before is written."""
    folder = tmp_path_factory.mktemp("recording")
    before = state(LATE, *first)
    written(folder / "r.gz", [before, *(rows(batch, NOW + 10 * n) for n, batch in enumerate(recorded))])
    read, *items = Recording(folder / "r.gz").items()
    assert isinstance(read, State)
    assert (read.columns, [one.row for one in read.firings]) == (COLUMNS, first)
    assert [normal(one.batch) for one in items if isinstance(one, Rows)] == [normal(batch) for batch in recorded]


def test_file_that_was_cut_off_is_read_to_its_last_line(alert: RowAlert, tmp_path: Path) -> None:
    lines = [state(alert, ANN), *(rows(reading(20 + n, ANN, BOB, ("é", "x", "1"))) for n in range(3))]
    lines += [rows(Batch(updates=[(40, -1, BOB)], frontier=41))]
    whole = written(tmp_path / "whole.gz", lines)
    everything = [repr(item) for item in Recording(tmp_path / "whole.gz").items()]
    assert not Recording(tmp_path / "whole.gz").cut_off
    lengths = set()
    for size in range(len(whole)):
        (tmp_path / "cut.gz").write_bytes(whole[:size])
        try:
            recording = Recording(tmp_path / "cut.gz")
        except NotARecordingError:
            lengths.add(0)
            continue
        assert recording.cut_off
        found = [repr(item) for item in recording.items()]
        assert found == everything[: len(found)]
        lengths.add(len(found))
    assert lengths == {*range(len(everything) + 1)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a recording of `tocsin record`"),
        (b"alerts: {}\n", "not a recording, or a damaged one"),
        (b"\x1f\x8bnot gzip at all", "not a recording, or a damaged one"),
        (
            b'{"format": "tocsin recording", "version": 2, "tocsin": "9.0"}\n',
            "written by a newer version of Tocsin (9.0)",
        ),
        (b'{"format": "tocsin recording", "version": 1}\n', "nothing was recorded"),
        (b'{"format": "tocsin recording", "version": 1}\n{"rows": "late", "at": 1}\n', "line 2 is damaged"),
        (b'{"format": "tocsin recording"}\n', "not a recording of `tocsin record`"),
        (b'{"format": "tocsin recording", "version": "1"}\n', "not a recording of `tocsin record`"),
        (b'{"format": "tocsin recording", "version": 2}\n', "written by a newer version of Tocsin;"),
        (b'{"format": "tocsin recording", "version": 1}\n[1]\n', "line 2 is damaged"),
        (b'{"format": "tocsin recording", "version": 1}\n{"rows": "\\ud800"}\n', "not a recording, or a damaged one"),
        (b"[" * 100_000 + b"\n", "not a recording, or a damaged one"),
    ],
)
def test_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "r.gz").write_bytes(content)
    with pytest.raises(NotARecordingError) as caught:
        list(Recording(tmp_path / "r.gz").items())
    assert words in str(caught.value)
    assert "r.gz" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (2, {"at": None}),
        (2, {"at": float("nan")}),
        (2, {"columns": [[1, "x", None]]}),
        (2, {"frontier": "x"}),
        (2, {"firings": [["f", "firing", 1, 2, ["1"], [[1, ["1"]]]]]}),
        (3, {"frontier": 10**30}),
        (3, {"updates": [[20, 1, ["1"]]]}),
        (3, {"updates": [[20, 1, "abc"]]}),
        (3, {"rows": "another"}),
        (3, {"rows": None, "events": "shop", "columns": [[]], "list": [{"columns": 5}]}),
    ],
)
def test_line_with_wrong_values_is_named(alert: RowAlert, tmp_path: Path, line: int, change: Json) -> None:
    """A recording is text once it is unpacked, and may have been changed by hand."""
    lines = [{"format": "tocsin recording", "version": 1}, state(alert, ANN), rows(Batch(updates=[], frontier=41))]
    changed = {**lines[line - 1], **change}
    lines[line - 1] = {name: value for name, value in changed.items() if name != "rows" or value is not None}
    (tmp_path / "r").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    with pytest.raises(NotARecordingError, match=f"line {line} is damaged"):
        list(Recording(tmp_path / "r").items())


def test_batches_without_changes_are_thinned(alert: RowAlert, tmp_path: Path) -> None:
    """One each five seconds is kept, for the timers of alerts."""
    quiet = [rows(Batch(updates=[], frontier=100 + n), NOW + n) for n in range(12)]
    same = [rows(reading(200 + n, ANN), NOW + 12 + n) for n in range(12)]
    written(tmp_path / "r.gz", [state(alert), *quiet, *same])
    items = [one for one in Recording(tmp_path / "r.gz").items() if isinstance(one, Rows)]
    assert [one.at - NOW for one in items] == [0, 5, 10, 12, 17, 22]
    assert items[-1].batch == reading(210, ANN)


def test_full_disk_ends_the_recording_with_its_reason(
    alert: RowAlert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(*_: object) -> Iterator[Json]:
        yield {"tocsin": "1.0.0", "at": NOW, "alerts": ["late"]}
        yield state(alert, ANN)

    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(record, "_connected", lines)
    monkeypatch.setattr(record, "_for_the_owner", lambda *_: os.open("/dev/full", os.O_WRONLY))
    chosen = arguments_parser().parse_args(["record", "--url", "http://127.0.0.1:9", "-o", str(tmp_path / "r.gz")])
    with pytest.raises(TocsinError, match=r"r\.gz: cannot be written: No space left on device; what it has"):
        record.command(chosen)


# Time.

DECADES = 1e9
DAY = 86_400.0


def test_clock_set_by_decades_is_not_waited_for(alert: RowAlert, tmp_path: Path) -> None:
    """As on a machine whose clock is right only some seconds after its start. What happens has the recorded times."""
    before, after = Batch(updates=[(20, 1, ANN)], frontier=21), Batch(updates=[(40, -1, ANN)], frontier=41)
    lines = [state(alert), rows(before, NOW + 1), rows(after, NOW + DECADES), rows(Batch(updates=[], frontier=50), 5.0)]
    written(tmp_path / "r.gz", lines)
    recording = Recording(tmp_path / "r.gz")
    assert recording.overview.end == NOW + DECADES  # the last line has an earlier time
    passed: list[float] = []

    def pace(seconds: float) -> None:
        assert seconds <= DAY
        passed.append(seconds)

    shown: list[Attempt] = []
    dry(CONFIGURED, tmp_path, recording, show=shown.append, pace=pace)
    assert [(one.kind, round(one.at)) for one in shown] == [(Kind.FIRED, 1), (Kind.RESOLVED, DECADES)]
    assert sum(passed) == pytest.approx(DAY, abs=10)


async def test_clock_set_by_decades_is_not_waited_for_when_sending(alert: RowAlert, tmp_path: Path) -> None:
    before, after = Batch(updates=[(20, 1, ANN)], frontier=21), Batch(updates=[(40, -1, ANN)], frontier=41)
    written(tmp_path / "r.gz", [state(alert), rows(before, NOW + 1), rows(after, NOW + DECADES)])
    async with asyncio.timeout(20):
        records = await send(CONFIGURED, tmp_path, Recording(tmp_path / "r.gz"), 100 * DAY)
    assert [one.kind for one in records] == [Kind.FIRED, Kind.RESOLVED]


# Hidden columns.


def test_hidden_values_stay_equal_and_are_gone(alert: RowAlert) -> None:
    hidden = Redaction(["customer"], key=b"k")
    shown = hidden.hide(state(alert, ANN, BOB, ("3", "Ann", "1")))
    batch = hidden.hide(rows(Batch(updates=[(1, 1, ("4", "Ann", "2")), (1, 1, ("5", None, "2"))], frontier=2)))
    events = hidden.hide(events_line())
    text = json.dumps([shown, batch, events])
    assert "Ann" not in text
    assert "Bob" not in text
    assert not any(fingerprint("late", row[:2]) in text for row in (ANN, BOB))
    read = item_of(shown)
    assert isinstance(read, State)
    assert read.columns[1] == Column(name="customer", oid=25)
    ann, bob, ann_again = (one.row[1] for one in read.firings)
    assert ann == ann_again != bob
    assert [one.fingerprint for one in read.firings] == [fingerprint("late", one.row[:2]) for one in read.firings]
    changes = item_of(batch)
    assert isinstance(changes, Rows)
    assert [row[1] for _, _, row in changes.batch.updates] == [ann, None]
    taken = item_of(events)
    assert isinstance(taken, Events)
    assert [(one.id, one.row) for one in taken.events] == [("7", ("7", ann)), (ann, ("8", ann))]
    assert hidden.unseen == set()


def events_line() -> Json:
    columns = (Column(name="id", oid=25), Column(name="customer", oid=25))
    made = [Event(name="late", id=id_, at=1, columns=columns, row=row) for id_, row in EVENT_ROWS]
    return plain(line_of(SeenEvents(source="queue", batch=EventBatch(events=made, position={"0": 9})), NOW))


EVENT_ROWS: list[tuple[str, Row]] = [("7", ("7", "Ann")), ("Ann", ("8", "Ann"))]


def test_fingerprints_stay_where_no_key_is_hidden(alert: RowAlert, tmp_path: Path) -> None:
    read = item_of(Redaction(["note"]).hide(state(alert, ANN)))
    assert isinstance(read, State)
    assert read.firings[0].fingerprint == fingerprint("late", ANN[:2])


def test_column_that_is_a_value_is_not_hidden(alert: RowAlert) -> None:
    with pytest.raises(TocsinError, match="minutes is the value of alert late"):
        Redaction(["minutes"]).hide(state(alert, ANN))


def test_names_that_no_row_has_are_known() -> None:
    hidden = Redaction(["customer", "custmer"])
    hidden.hide(events_line())
    assert hidden.unseen == {"custmer"}


# Where the batches come from.


async def test_state_comes_before_the_first_batch(alert: RowAlert) -> None:
    """And again when the columns change. What could not be committed is not there."""
    tap, firing = Tap(), FiringSet(Rule(alert="late", columns=COLUMNS, key=(0,)))
    assert tap.before(alert, firing, None) is None  # no one follows
    stream = tap.follow(["late"], ["queue"], 0.001)
    assert await anext(stream) is None
    before = tap.before(alert, firing, None)
    first = Batch(updates=[(1, 1, ANN)], frontier=2)
    firing.apply(first)
    tap.rows("late", None, first)  # of a batch that began before anyone followed
    tap.events("other", EventBatch(events=()))
    tap.events("queue", EventBatch(events=()))
    assert isinstance(await anext(stream), SeenEvents)
    tap.rows("late", before, first)
    seen = await anext(stream)
    assert isinstance(seen, SeenState)
    assert (seen.frontier, seen.firings) == (None, [])
    assert await anext(stream) == SeenRows(alert="late", batch=first)
    assert tap.before(alert, firing, 2) is None  # it is known
    fewer = FiringSet(Rule(alert="late", columns=COLUMNS[:2], key=(0,)))
    tap.rows("late", tap.before(alert, fewer, 3), Batch(updates=[], frontier=4))
    assert isinstance(await anext(stream), SeenState)
    tap.close()
    assert isinstance(await anext(stream), SeenRows)
    assert await anext(stream, None) is None


async def test_slow_reader_is_closed(alert: RowAlert) -> None:
    tap = Tap()
    stream = tap.follow(["late"], [], 0.001)
    assert await anext(stream) is None  # nothing for a while
    firing = FiringSet(Rule(alert="late", columns=COLUMNS, key=(0,)))
    large = Batch(updates=[(1, 1, ANN)] * 200_000, frontier=2)
    for _ in range(10):
        tap.rows("late", tap.before(alert, firing, None), large)
    kinds = [type(one) async for one in stream]
    assert kinds == [SeenState, SeenRows, SeenRows, SeenRows]
