"""The start of a subscription, and the meaning of its first snapshot."""

from dataclasses import replace

import pytest

from tocsin.errors import SourceError, SourceReason
from tocsin.firing import Firing, Phase, Rule
from tocsin.ledger.base import Stored
from tocsin.model import Batch, Column, Kind
from tocsin.pipeline import resume
from tocsin.pipeline.resume import Baseline, FirstStart, Redefined, Resumed

HERE = '{"key": ["id"], "query": null, "relation": "late", "source": "mz"}'
ELSEWHERE = HERE.replace("late", "early")
OTHER_KEY = HERE.replace('["id"]', '["name"]')
BOTH = (Column(name="id", oid=23), Column(name="age", oid=1186))
RULE = Rule(alert="late", columns=BOTH, key=(0,))
ROW = ("1", "00:01:00")
FIRING = Firing(fingerprint="f", phase=Phase.FIRING, started_at=5, marked_at=5, row=ROW, counts=((1, ROW),))
STORED = Stored(definition=HERE, columns=BOTH, frontier=11, firings=[FIRING])


@pytest.mark.parametrize(
    ("stored", "rows", "baseline"),
    [
        (STORED, [ROW], Resumed(11)),
        (replace(STORED, frontier=None), [ROW], Resumed(None)),
        # Another relation: its rows are compared, its frontier is of no use.
        (replace(STORED, definition=ELSEWHERE), [ROW], Redefined()),
        # Other columns: the rows by name, and the history is still that of this relation.
        (
            replace(STORED, columns=(BOTH[0], Column(name="old", oid=25))),
            [("1", None)],
            Redefined(11),
        ),
        # Another key: no row can be continued.
        (replace(STORED, definition=OTHER_KEY), [], Redefined(ended=[FIRING], columns=BOTH)),
    ],
    ids=["same", "no time", "other relation", "other columns", "other key"],
)
def test_stored_state_becomes_a_baseline(stored: Stored, rows: list[object], baseline: Baseline) -> None:
    firings, found = resume.restored(stored, HERE, RULE)
    assert [firing.row for firing in firings] == rows
    assert found == baseline
    assert type(resume.loaded(stored, HERE)) is (Resumed if stored.definition == HERE else Redefined)


OTHER, ROW_ERROR = SourceError("x", SourceReason.OTHER), SourceError("x", SourceReason.ROW_ERROR, history=False)
FUTURE = SourceError("x", SourceReason.FUTURE, history=False)
WRONG_CLOCK = SourceError("x", SourceReason.FUTURE)


@pytest.mark.parametrize(
    ("errors", "at"),
    [
        ([OTHER, OTHER], 10),
        ([ROW_ERROR], None),
        ([ROW_ERROR, OTHER], None),
        ([FUTURE], None),
        ([FUTURE, WRONG_CLOCK], 10),
    ],
    ids=["any error", "row error", "row error, then another", "resume in the future", "wrong clock"],
)
def test_resumes_from_history_unless_history_failed(errors: list[SourceError], at: int | None) -> None:
    """Without history, rows that came and went are lost."""
    baseline: Baseline = Resumed(11)
    for error in errors:
        baseline = resume.failed(baseline, error)
    assert resume.as_of(baseline) == at
    assert resume.failed(FirstStart(), errors[0]) == FirstStart()


@pytest.mark.parametrize(
    ("baseline", "as_of", "missing"),
    [
        (Resumed(11), 10, None),
        (Resumed(11), 15, 5),
        (Resumed(None), 15, None),
        (FirstStart(), 15, None),
        (Redefined(11), 15, None),
    ],
)
def test_gap_is_the_distance_to_the_frontier(baseline: Baseline, as_of: int, missing: int | None) -> None:
    batch = Batch(updates=[], frontier=as_of + 1, snapshot=as_of)
    assert resume.gap(baseline, batch) == missing
    assert resume.gap(baseline, replace(batch, polled=True)) is None
    assert resume.gap(baseline, replace(batch, snapshot=None)) is None


def test_firing_without_key_ends_at_snapshot() -> None:
    """Pending keys were never notified, so their end is not notified either."""
    ended = [replace(FIRING, phase=phase) for phase in Phase]
    endings = resume.endings(Redefined(ended=ended, columns=BOTH), "late", 15)
    assert [(one.kind, one.at, one.row, one.columns) for one in endings] == [(Kind.RESOLVED, 15, FIRING.row, BOTH)] * 2
    assert resume.endings(Resumed(11), "late", 15) == []
