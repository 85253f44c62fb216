"""What a test can do to the views of the double of Materialize, seen with a real client."""

from contextlib import AbstractAsyncContextManager

import psycopg
import pytest

from support.materialize import MaterializeDouble, Relation
from support.materialize.client import COLUMNS, SUBSCRIBE, Stream, connected, described, streaming


def beside(double: MaterializeDouble) -> AbstractAsyncContextManager[Stream]:
    """A stream of another view. What it is told of shows for how long nobody told the first one anything."""
    double.create("others", COLUMNS)
    return streaming(double, SUBSCRIBE.replace("orders", "others"))


async def told_more(stream: Stream) -> None:
    """Wait until a stream was told of progress for some intervals more."""
    known = len(stream.rows)
    await stream.until(lambda s: len(s.rows) >= known + 5)


async def test_silence_is_no_error_and_what_was_missed_has_its_true_time(
    double: MaterializeDouble, orders: Relation
) -> None:
    async with beside(double) as other, streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)
        double.silence(orders)
        at = orders.insert((3, "c"))
        await told_more(other)
        assert stream.frontier <= at
        assert not stream.ended

        double.resume(orders)
        await stream.until(lambda s: s.frontier > at)

    assert (at, 1, ("3", "c")) in stream.rows


async def test_a_start_on_a_silent_cluster_gets_one_progress_row(double: MaterializeDouble, orders: Relation) -> None:
    double.silence("quickstart")
    async with streaming(double) as stream:
        await stream.until(lambda s: len(s.rows) == 1)
        double.resume("quickstart")
        await stream.until(lambda s: s.frontier > s.as_of)

    assert len(stream.updates) == 2


async def test_a_fresh_start_in_a_row_error_is_told_of_progress_once(
    double: MaterializeDouble, orders: Relation
) -> None:
    orders.fail("division by zero")
    async with streaming(double) as stream:
        await stream.until(lambda s: s.ended)
    assert len(stream.rows) == 1
    assert "Evaluation error: division by zero" in str(stream.failure)

    orders.heal()
    async with streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)
    assert len(stream.updates) == 2


async def test_a_resumption_never_gets_past_a_row_error_that_is_long_over(double: MaterializeDouble) -> None:
    orders = double.create("orders", COLUMNS, retain=60_000)
    start = orders.history.since
    orders.insert((1, "a"))
    failed = orders.fail("division by zero")
    orders.heal()
    orders.insert((2, "b"))
    resumption = f"COPY (SUBSCRIBE orders WITH (PROGRESS) AS OF AT LEAST {start}) TO STDOUT"

    for _ in range(2):
        async with streaming(double, resumption) as stream:
            await stream.until(lambda s: s.ended)
        assert "Evaluation error: division by zero" in str(stream.failure)
        assert stream.updates == [(1, ("1", "a"))]
        assert stream.as_of < stream.frontier <= failed

    async with streaming(double) as fresh:
        await fresh.until(lambda s: s.frontier > s.as_of)
    assert fresh.updates == [(1, ("1", "a")), (1, ("2", "b"))]


async def test_a_renamed_relation_streams_on_under_the_old_statement(
    double: MaterializeDouble, orders: Relation
) -> None:
    async with streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)
        double.rename(orders, "archive")
        newcomer = double.create("orders", COLUMNS, rows=[(9, "z")])
        at = orders.insert((3, "c"))
        await stream.until(lambda s: s.frontier > at)

    assert (1, ("3", "c")) in stream.updates
    assert newcomer.id != orders.id


async def test_a_changed_shape_ends_streams_and_shows_in_a_new_description(
    double: MaterializeDouble, orders: Relation
) -> None:
    async with streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)
        double.alter_columns(orders, [*COLUMNS, ("value", "numeric(39,2)")])
        await stream.until(lambda s: s.ended)
    assert 'underlying relation "materialize.public.orders" was dropped' in str(stream.failure)

    async with connected(double) as connection:
        columns = await described(connection, "SUBSCRIBE orders WITH (PROGRESS)")
    assert columns[-1] == ("value", 1700, (39 << 16 | 2) + 4)


async def test_a_prepared_statement_does_not_survive_a_changed_shape(
    double: MaterializeDouble, orders: Relation
) -> None:
    async with connected(double) as connection:
        await connection.execute("SELECT * FROM orders", prepare=True)
        double.alter_columns(orders, COLUMNS[:1])
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan"):
            await connection.execute("SELECT * FROM orders", prepare=True)


async def test_a_start_in_the_future_is_told_at_once_and_then_nothing(
    double: MaterializeDouble, orders: Relation
) -> None:
    async with beside(double) as other:
        await told_more(other)
        double.future(3_600_000)
        async with streaming(double) as stream:
            await stream.until(lambda s: bool(s.rows))
            await told_more(other)
    assert stream.as_of > double.now() + 3_500_000
    assert len(stream.rows) == 1
