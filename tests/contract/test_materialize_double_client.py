"""The double of Materialize as an ordinary client sees it, in this process and in one of its own."""

import asyncio
import json
from typing import Any

import psycopg
import pytest

from support.clock import Clock
from support.materialize import MaterializeDouble, Relation
from support.materialize.client import COLUMNS, SUBSCRIBE, Stream, connected, described, fetched, streaming
from support.materialize.process import RefusedError, double_process
from tocsin.sources.identity import object_ids


async def test_a_client_reads_the_snapshot_and_then_each_change(double: MaterializeDouble, orders: Relation) -> None:
    async with streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)
        at = orders.update((1, "a"), (1, "b\tc\\"))
        await stream.until(lambda s: s.frontier > at)

    assert stream.updates == [(1, ("1", "a")), (1, ("2", None)), (-1, ("1", "a")), (1, ("1", "b\tc\\"))]
    assert [row_at for row_at, diff, _ in stream.rows if diff is not None] == [stream.as_of] * 2 + [at] * 2


async def test_a_cancelled_stream_leaves_the_connection_usable(double: MaterializeDouble, orders: Relation) -> None:
    async with connected(double) as connection:
        stream = Stream()
        task = asyncio.create_task(stream.read(connection, SUBSCRIBE))
        await double.subscribed(orders)
        await connection.cancel_safe()
        await task

        assert isinstance(stream.failure, psycopg.errors.QueryCanceled)
        assert await fetched(connection, "SELECT 1") == [(1,)]
        assert double.subscribers(orders) == 0


async def test_preparing_a_subscribe_tells_its_columns(double: MaterializeDouble, orders: Relation) -> None:
    async with connected(double) as connection:
        columns = await described(connection, "SUBSCRIBE public.orders WITH (PROGRESS)")

    assert columns == [
        ("mz_timestamp", 1700, 2555908),
        ("mz_progressed", 16, -1),
        ("mz_diff", 20, -1),
        ("id", 23, -1),
        ("name", 25, -1),
    ]


async def test_the_object_id_behind_a_name_changes_with_a_replacement(
    double: MaterializeDouble, orders: Relation
) -> None:
    literal = "SELECT id FROM mz_catalog.mz_objects WHERE oid = 'materialize.public.orders'::regclass::oid"
    parameter = "SELECT id FROM mz_catalog.mz_objects WHERE oid = %s::regclass::oid"
    async with connected(double) as connection:
        before = await fetched(connection, literal)
        assert await fetched(connection, parameter, '"orders"') == before == [(orders.id,)]

        renewed = double.replace(orders)
        assert await fetched(connection, literal) == [(renewed.id,)] != before

        double.rename(renewed, "away")
        with pytest.raises(psycopg.Error, match="does not exist"):
            await fetched(connection, parameter, "orders")


async def test_a_select_reads_what_is_there_now(double: MaterializeDouble, orders: Relation) -> None:
    async with connected(double) as connection:
        orders.delete((1, "a"))
        assert await fetched(connection, "SELECT name, id FROM orders") == [(None, 2)]
        assert await fetched(connection, "SELECT mz_version()") == [("v26.8.0-dev.0 (398408c42)",)]
        await connection.execute("SET cluster = quickstart")
        assert await fetched(connection, "SHOW cluster") == [("quickstart",)]


async def test_a_query_is_subscribed_to_with_its_own_columns(double: MaterializeDouble, orders: Relation) -> None:
    orders.insert((3, "a"))
    async with streaming(double, "COPY (SUBSCRIBE (SELECT name FROM orders) WITH (PROGRESS)) TO STDOUT") as stream:
        await stream.until(lambda s: s.frontier > s.as_of)

    assert stream.updates == [(2, ("a",)), (1, (None,))]


async def test_a_statement_that_is_not_modelled_is_quoted(double: MaterializeDouble) -> None:
    async with connected(double) as connection:
        with pytest.raises(psycopg.errors.SyntaxError, match="VACUUM everything"):
            await connection.execute("VACUUM everything")

    assert double.statements == ["VACUUM everything"]


async def test_a_wrong_password_is_refused() -> None:
    async with MaterializeDouble(passwords={"materialize": "right"}) as double:
        async with connected(double, password="right") as connection:
            assert await fetched(connection, "SELECT 1") == [(1,)]
        with pytest.raises(psycopg.OperationalError, match="invalid password"):
            await psycopg.AsyncConnection.connect(double.dsn, password="wrong")


async def test_an_up_to_ends_the_stream(clock: Clock) -> None:
    async with MaterializeDouble(clock=lambda: round(clock() * 1000)) as double:
        orders = double.create("orders", COLUMNS, rows=[(1, "a"), (2, None)])
        sql = f"COPY (SUBSCRIBE orders WITH (PROGRESS) UP TO {orders.history.upper + 5}) TO STDOUT"
        async with streaming(double, sql) as stream:
            await double.subscribed(orders)
            assert not stream.ended
            clock.advance(0.01)
            double.tick()
            await stream.until(lambda s: s.ended)

    assert stream.failure is None
    assert stream.updates == [(1, ("1", "a")), (1, ("2", None))]


# --- a process of its own


async def test_the_double_can_be_steered_in_another_process() -> None:
    async with double_process("--progress-interval", "0.01") as double:
        await double.do("create", "orders", COLUMNS, retain=60_000, rows=[[1, "a"]])
        async with await psycopg.AsyncConnection.connect(double.dsn, autocommit=True) as connection:
            stream = Stream()
            task = asyncio.create_task(stream.read(connection, SUBSCRIBE))
            await double.do("subscribed", relation="orders")
            at = await double.do("insert", [2, "b"], relation="orders")
            await stream.until(lambda s: s.frontier > at)
            await double.do("kill")
            await task
            assert isinstance(stream.failure, psycopg.OperationalError)

        assert await double.do("start") == double.port
        assert await double.do("rows", relation="orders") == [["1", "a"], ["2", "b"]]
        with pytest.raises(RefusedError, match="no command 'explode'"):
            await double.do("explode")


async def test_a_load_serves_still_rows_and_changes_others() -> None:
    async with (
        double_process("--progress-interval", "0.01", "--load", "5000", "--live", "10", "--rate", "500") as double,
        await psycopg.AsyncConnection.connect(double.dsn, autocommit=True) as connection,
    ):
        stream = Stream()
        task = asyncio.create_task(stream.read(connection, "COPY (SUBSCRIBE load WITH (PROGRESS)) TO STDOUT"))
        await stream.until(lambda s: len(s.updates) > 5100)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    snapshot = [row for at, diff, row in stream.rows if diff is not None and at == stream.as_of]
    assert len(snapshot) == 5010
    assert len({row[0] for row in snapshot}) == 5010


async def test_plan_names_the_object_behind_a_name(double: MaterializeDouble, orders: Relation) -> None:
    """Without a privilege. A replacement keeps the oid, and its old id is gone; a swap leaves both objects."""
    double.deny("materialize", orders)
    other = double.create("green.orders", COLUMNS)
    async with connected(double) as connection:
        assert await planned(connection, "orders") == orders.id
        assert await planned(connection, "(SELECT name FROM orders)") == orders.id

        before = orders.id
        double.apply_replacement(orders, [(7, "g")])
        assert await planned(connection, "orders") == orders.id != before
        with pytest.raises(psycopg.errors.InternalError, match=f"invalid id {before}"):
            await planned(connection, f"[{before} AS any.name]")

        double.swap_schemas("public", "green")
        assert await planned(connection, "orders") == other.id
        assert await planned(connection, f"[{orders.id} AS any.name]") == orders.id


async def test_insights_name_the_cluster(double: MaterializeDouble) -> None:
    double.create_cluster("other")
    async with connected(double) as connection:
        before = await cluster(connection)
        assert before["name"] == "quickstart"
        double.swap_clusters("quickstart", "other")
        assert (await cluster(connection))["id"] != before["id"]
        await connection.execute("SET cluster = nonesuch")
        with pytest.raises(psycopg.errors.InternalError, match="unknown cluster 'nonesuch'"):
            await cluster(connection)


async def planned(connection: psycopg.AsyncConnection[Any], target: str) -> str:
    """The id of the object that a SELECT from the target reads."""
    [(plan,)] = await fetched(connection, f"EXPLAIN RAW PLAN AS JSON FOR SELECT * FROM {target}")
    [found] = object_ids(json.loads(str(plan)))
    return found


async def cluster(connection: psycopg.AsyncConnection[Any]) -> dict[str, object]:
    [(plan,)] = await fetched(connection, "EXPLAIN PLAN INSIGHTS AS JSON FOR SELECT 1 + 1")
    found: dict[str, object] = json.loads(str(plan))["cluster"]
    return found
