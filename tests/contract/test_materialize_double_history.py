"""The double's history is the same thing at whatever time it is read from."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.materialize.history import History, Row, UnreadableError

ROWS: tuple[Row, ...] = (("a", "1"), ("a", "2"), ("b", None))

Step = tuple[int, list[int]]
"""Milliseconds after the step before, and a diff for each of the rows."""

steps = st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(-2, 3), min_size=3, max_size=3)), max_size=12)


def written(plan: Sequence[Step]) -> History:
    """A history that follows a plan; where more copies would go than there are, all of them go."""
    history = History(since=0)
    for wait, diffs in plan:
        held = history.contents()
        changes = [(max(diff, -held[row]), row) for diff, row in zip(diffs, ROWS, strict=True)]
        history.append(history.upper + wait, changes)
    history.advance(history.upper + 1)
    return history


def followed(history: History, start: int) -> Counter[Row]:
    """The contents that a reader arrives at who takes the snapshot at a time and then every update."""
    held = history.snapshot(start)
    for update in history.updates(start, history.upper):
        held[update.row] += update.diff
    return +held


@given(plan=steps, start=st.integers(0, 80))
def test_a_snapshot_and_the_updates_after_it_are_the_contents_later(plan: list[Step], start: int) -> None:
    history = written(plan)

    assert followed(history, min(start, history.upper - 1)) == history.contents()


@given(plan=steps, since=st.integers(0, 80), later=st.integers(0, 80))
def test_every_retained_time_gives_the_same_result_after_compaction(plan: list[Step], since: int, later: int) -> None:
    history = written(plan)
    expected = {time: history.snapshot(time) for time in range(history.upper)}

    history.compact(since)

    start = min(max(later, history.since), history.upper - 1)
    assert history.snapshot(start) == expected[start]
    assert followed(history, start) == history.contents()


@given(plan=steps, held=st.integers(0, 80))
def test_a_reader_keeps_what_it_has_not_read_yet(plan: list[Step], held: int) -> None:
    history = written(plan)
    start = min(held, history.upper - 1)
    reader = object()
    history.hold(reader, start)

    history.compact(history.upper)

    assert followed(history, start) == history.contents()
    history.release(reader)
    assert history.since == history.upper - 1
    assert followed(history, history.since) == history.contents()


@given(plan=steps)
def test_no_row_both_comes_and_goes_at_one_timestamp(plan: list[Step]) -> None:
    history = written(plan)

    seen = Counter((update.timestamp, update.row) for update in history.updates(0, history.upper))

    assert set(seen.values()) <= {1}


def test_a_time_before_since_cannot_be_read() -> None:
    history = written([(5, [1, 0, 0]), (5, [1, 0, 0])])
    history.compact(8)

    with pytest.raises(UnreadableError):
        history.snapshot(7)


def test_a_closed_time_takes_no_more_changes() -> None:
    history = written([(5, [1, 0, 0])])

    with pytest.raises(ValueError, match="before the write frontier"):
        history.append(5, [(1, ROWS[0])])


def test_copies_that_are_not_there_cannot_go() -> None:
    history = written([(5, [1, 0, 0])])

    with pytest.raises(ValueError, match="cannot go"):
        history.append(20, [(-2, ROWS[0])])
    assert history.contents() == Counter({ROWS[0]: 1})


def test_the_coming_and_the_going_of_an_error_both_stand_in_the_way() -> None:
    history = written([(5, [1, 0, 0])])
    history.fail(20, "division by zero")
    history.heal(30)
    history.advance(40)

    assert [history.error_at(at) for at in (19, 20, 29, 30)] == [None, "division by zero", "division by zero", None]
    assert (event := history.first_error(10, 40)) is not None
    assert event.timestamp == 20
    assert (event := history.first_error(25, 40)) is not None
    assert event.timestamp == 30
    assert history.first_error(30, 40) is None
