"""The Materialize source notices when names come to refer to other objects."""

import asyncio
import time

import pytest

from support.live import ANN, BOB, COLUMNS, CYD, Server, source
from support.materialize import MaterializeDouble, Result, ServerError
from support.reading import Reading, check, error_of, reading
from support.waiting import SOON, until
from tocsin.errors import SourceReason
from tocsin.sources.base import Subject

ORDERS = Subject(relation="blue.orders")
QUERY = Subject(query="SELECT id FROM blue.orders")
LIMIT = SOON / 2
"""Seconds within which a healthy server's rename or swap has to be noticed."""


@pytest.fixture
def double(double: MaterializeDouble) -> MaterializeDouble:
    """With one view in two schemas: Ann in blue, Bob in green."""
    double.create("blue.orders", COLUMNS, retain=None, rows=[ANN])
    double.create("green.orders", COLUMNS, retain=None, rows=[BOB])
    return double


async def replaced(stream: Reading, *parts: str) -> None:
    """Read to the end, which comes soon and says that names refer to something else."""
    began = time.monotonic()
    check(await stream.error(), SourceReason.REPLACED, *parts)
    assert time.monotonic() - began < LIMIT


@pytest.mark.parametrize("subject", [ORDERS, QUERY], ids=["relation", "query"])
async def test_schema_swap_is_noticed_soon(double: MaterializeDouble, subject: Subject) -> None:
    """A blue/green deployment swaps two schemas; the old view still exists, and its stream goes on."""
    asked = source(double)
    async with reading(asked, subject) as stream:
        await stream.next()
        double.swap_schemas("blue", "green")
        await replaced(stream, "another object")
    async with reading(asked, subject) as stream:
        await stream.until_state(BOB[: len(stream.columns)])


@pytest.mark.parametrize("query", [False, True], ids=["relation", "query"])
async def test_renamed_view_is_noticed_by_its_object(server: Server, query: bool) -> None:
    """Another view has the name now. Nothing of it comes on the old stream."""
    view = await server.view("orders", COLUMNS, ANN)
    subject = Subject(query=f"SELECT id, name FROM {view.name}") if query else Subject(relation=view.name)
    asked = source(server)
    async with reading(asked, subject) as stream:
        await stream.next()
        await view.swap(BOB)
        error = await stream.error()
        # On a real server the name refers to nothing for a moment.
        assert error.reason in (SourceReason.REPLACED, SourceReason.DROPPED), str(error)
        assert error.history
        assert stream.state == {ANN: 1}
    async with reading(asked, subject) as stream:
        await stream.until_state(BOB)


async def test_old_object_in_closed_schema_still_exists(double: MaterializeDouble) -> None:
    """The role may have no USAGE on the schema that has the old view now."""
    swapped = False

    def refuse(statement: str) -> Result | None:
        if swapped and "FROM [" in statement:
            raise ServerError("42501", 'permission denied for SCHEMA "materialize.green"')
        return None

    double.answer = refuse
    async with reading(source(double), ORDERS) as stream:
        await checks(double, stream, 2)
        swapped = True
        double.swap_schemas("blue", "green")
        await replaced(stream, "another object")


@pytest.mark.parametrize("subject", [ORDERS, QUERY], ids=["relation", "query"])
async def test_stream_goes_on_when_replacement_is_applied(double: MaterializeDouble, subject: Subject) -> None:
    """The view gets another id; the stream has the difference already. A later swap is noticed."""
    view = double.relation("blue.orders")
    async with reading(source(double, identity_check="50ms"), subject) as stream:
        await checks(double, stream, 3)
        double.apply_replacement(view, [CYD])
        await stream.until_state(CYD[: len(stream.columns)])
        await checks(double, stream, 3)
        double.apply_replacement(view, [ANN, CYD])
        await checks(double, stream, 3)
        await stream.until_state(ANN[: len(stream.columns)], CYD[: len(stream.columns)])
        assert [batch.snapshot for batch in stream.batches[1:]] == [None] * (len(stream.batches) - 1)
        double.swap_schemas("blue", "green")
        await replaced(stream, "another object")


async def test_identity_check_leaves_healthy_stream_alone(double: MaterializeDouble) -> None:
    """The view is renamed and back between two checks, and other objects come and go. The catalog is never queried:
    that waits for a cluster of its own, for minutes on a busy server."""
    view = double.relation("blue.orders")
    async with reading(source(double, identity_check="20ms"), ORDERS) as stream:
        await checks(double, stream, 3)
        double.rename(view, "blue.away")
        double.rename(view, "blue.orders")
        double.drop(double.create("blue.other", COLUMNS))
        await checks(double, stream, 3)
        view.insert(BOB)
        await stream.until_state(ANN, BOB)
    assert not [text for text in double.statements if "mz_" in text]


async def test_swapped_cluster_is_noticed_soon(double: MaterializeDouble) -> None:
    """The stream would go on in the cluster that no longer has the configured name."""
    async with reading(source(double, cluster="other"), ORDERS) as stream:
        await stream.next()
        double.swap_clusters("quickstart", "other")
        await replaced(stream, "another cluster")


async def test_name_that_refers_to_nothing_ends_stream(double: MaterializeDouble) -> None:
    """A view that is renamed away and not replaced is missing, as it would be for a new subscription."""
    asked = source(double)
    async with reading(asked, ORDERS) as stream:
        await stream.next()
        double.rename(double.relation("blue.orders"), "blue.away")
        check(await stream.error(), SourceReason.DROPPED, "blue.orders", "it was dropped or renamed; create it again")
    check(await error_of(asked, ORDERS), SourceReason.MISSING, "blue.orders")


async def test_change_while_subscription_begins_is_noticed(double: MaterializeDouble) -> None:
    """What the names refer to is asked before the SUBSCRIBE, so a swap in between cannot be missed."""
    swapped = False

    def swap_before_copy(statement: str) -> Result | None:
        nonlocal swapped
        if statement.startswith("COPY") and not swapped:
            swapped = True
            double.swap_schemas("blue", "green")
        return None

    double.answer = swap_before_copy
    async with reading(source(double), ORDERS) as stream:
        await stream.until_state(BOB)
        await replaced(stream, "another object")


async def test_unknown_beginning_is_subscribed_again_once_known(double: MaterializeDouble) -> None:
    """A server that refuses the question at the start does not switch the check off for good."""
    refusing = True

    def refuse(statement: str) -> Result | None:
        if refusing and statement.startswith("EXPLAIN"):
            raise ServerError("XX000", "not today")
        return None

    double.answer = refuse
    asked = source(double, identity_check="50ms")
    problems: list[str] = []
    async with reading(asked, ORDERS, checked=problems.append) as stream:
        await stream.next()
        await stream.until(lambda: len(problems) >= 2)
        assert "not today" in problems[0]
        refusing = False
        check(await stream.error(), SourceReason.REPLACED, "not known")
    async with reading(asked, ORDERS) as stream:
        await checks(double, stream, 3)


async def test_failed_checks_are_reported_until_they_succeed(double: MaterializeDouble) -> None:
    """The check needs a connection of its own, which a limit may refuse. The stream goes on."""
    double.connection_limit = 1
    problems: list[str] = []
    async with reading(source(double, identity_check="50ms"), ORDERS, checked=problems.append) as stream:
        await stream.until(lambda: len(problems) >= 2)
        assert "max_connections" in problems[0]
        double.connection_limit = None
        await stream.until(lambda: problems[-1] == "")
        double.swap_schemas("blue", "green")
        await replaced(stream, "another object")


async def test_revoked_privilege_is_reported_while_rows_arrive(server: Server) -> None:
    """It ends no running subscription, so without a check only the next restart would show it."""
    view, role, problems = await server.view("orders", COLUMNS, ANN), await server.role(), list[str]()
    await view.permit(role)
    asked = source(server, user=role, identity_check="5ms")
    async with reading(asked, view.name, checked=problems.append) as stream:
        await stream.until(lambda: len(problems) > 3)
        await view.deny(role)
        await stream.until(lambda: "permission denied" in problems[-1])
        await view.insert(BOB)
        await stream.until_state(ANN, BOB)
        await view.permit(role)
        await stream.until(lambda: problems[-1] == "")


async def test_alerts_share_one_connection_for_checks(double: MaterializeDouble) -> None:
    """And it is closed with the last stream."""
    asked = source(double, identity_check="20ms")

    async def follow() -> None:
        async with reading(asked, ORDERS) as stream:
            await checks(double, stream, 20)

    following = [asyncio.create_task(follow()) for _ in range(10)]
    await until(lambda: len(double.relation("blue.orders").streams) == 10)
    await until(lambda: double.connections == 11)
    await asyncio.gather(*following)
    await until(lambda: not double.connections)


async def test_zero_switches_the_check_off(double: MaterializeDouble) -> None:
    """No connection and no question more than a subscription needs."""
    async with reading(source(double, identity_check="0"), ORDERS) as stream:
        await stream.next()
        double.swap_schemas("blue", "green")
        for _ in range(5):
            await stream.next()
        assert double.connections == 1
    assert not [text for text in double.statements if text.startswith("EXPLAIN")]


async def checks(double: MaterializeDouble, stream: Reading, count: int) -> None:
    """Read on until the names were asked for so many more times."""
    before = len(double.statements)
    await stream.until(lambda: sum("INSIGHTS" in text for text in double.statements[before:]) >= count)
