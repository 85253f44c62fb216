"""Errors of the Materialize source when a server, a connection or a view fails; it never yields a wrong row."""

import asyncio
import time

import pytest

from support.live import ANN, BOB, COLUMNS, Server, TextRow, source
from support.materialize import RELEASES, MaterializeDouble, ServerError, encode, errors
from support.reading import check, error_of, reading
from support.waiting import SOON, until
from tocsin.errors import SourceError, SourceReason
from tocsin.sources.base import Subject

ORDERS = "public.orders"


async def gone(double: MaterializeDouble) -> None:
    """Wait until the double has no connection any more."""
    await until(lambda: not double.connections, "the last connection closed")


# Names, rights and definitions.


async def test_missing_view_is_named(server: Server) -> None:
    error = await error_of(source(server), "public.nonesuch")
    check(error, SourceReason.MISSING, "public.nonesuch", server.config().display)


async def test_missing_privilege_names_role_and_view(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN)
    role = await server.role()
    await view.deny(role)
    error = await error_of(source(server, user=role), view.name)
    check(error, SourceReason.PERMISSION, "permission denied", role)


async def test_wrong_password_is_reported_without_it(double: MaterializeDouble) -> None:
    double.passwords["ann"] = "right"
    double.create(ORDERS, COLUMNS, rows=[ANN])
    error = await error_of(source(double, user="ann", password="SECRET-pass/word?"), ORDERS)
    check(error, SourceReason.AUTH, "invalid password", f"ann@127.0.0.1:{double.port}/materialize")
    assert "SECRET" not in str(error)
    async with reading(source(double, user="ann", password="right"), ORDERS) as stream:
        await stream.until_state(ANN)


async def test_dropped_view_ends_stream(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN)
    async with reading(source(server), view.name) as stream:
        await stream.next()
        await view.drop()
        check(await stream.error(), SourceReason.DROPPED, "was dropped")
    check(await error_of(source(server), view.name), SourceReason.MISSING)


async def test_row_error_ends_stream_and_forbids_resume(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN)
    asked = source(server)
    async with reading(asked, view.name) as stream:
        await stream.next()
        frontier = stream.frontier
        await view.poison()
        check(await stream.error(), SourceReason.ROW_ERROR, "division by zero", history=False)
    error = await error_of(asked, view.name)
    check(error, SourceReason.ROW_ERROR, "division by zero", history=False)
    await view.heal()
    await view.insert(BOB)
    # A resume whose span touches the error fails for ever, though the view is healthy (seen on a live server).
    error = await error_of(asked, view.name, as_of=frontier - 1)
    check(error, SourceReason.ROW_ERROR, history=False)
    async with reading(asked, view.name) as stream:
        await stream.until_state(ANN, BOB)


async def test_fell_behind_is_named_and_allows_resume(double: MaterializeDouble) -> None:
    """A client that does not read is cut off, and the history is still there."""
    view = double.create(ORDERS, COLUMNS, retain=None, rows=[ANN])
    async with reading(source(double), ORDERS) as stream:
        await stream.next()
        frontier = stream.frontier
        double.silence(view)
        view.insert(BOB)
        view.delete(BOB)
        double.fall_behind(view)
        check(await stream.error(), SourceReason.FELL_BEHIND, "SUBSCRIBE fell behind")
    double.resume(view)
    async with reading(source(double), ORDERS, as_of=frontier - 1) as stream:
        assert (await stream.next()).snapshot == frontier - 1
        await stream.until(lambda: any(diff < 0 for _, diff, _ in stream.updates))
        assert [(diff, row) for at, diff, row in stream.updates if at >= frontier] == [(1, BOB), (-1, BOB)]


async def test_unknown_error_of_server_allows_resume(double: MaterializeDouble) -> None:
    """Only errors that are known to make a resume fail again give the history up."""
    view = double.create(ORDERS, COLUMNS, rows=[ANN])
    async with reading(source(double), ORDERS) as stream:
        await stream.next()
        view.gone = ServerError("XX000", "something that no one has seen before")
        view.wake()
        check(await stream.error(), SourceReason.OTHER, "no one has seen")


@pytest.mark.parametrize("release", sorted(RELEASES))
async def test_dropped_objects_end_streams_as_dropped(release: str) -> None:
    """Also where the server gives the code of an object that never was there (42704)."""
    async with MaterializeDouble(progress_interval=0.1, release=release) as double:
        view = double.create(ORDERS, COLUMNS, rows=[ANN])
        async with reading(source(double), ORDERS) as stream:
            await stream.next()
            double.drop(view)
            check(await stream.error(), SourceReason.DROPPED, "was dropped", "public.orders")
        check(await error_of(source(double), ORDERS), SourceReason.MISSING)
        double.create(ORDERS, COLUMNS, rows=[ANN])
        async with reading(source(double), ORDERS) as stream:
            await stream.next()
            double.drop_cluster("quickstart")
            check(await stream.error(), SourceReason.DROPPED, "was dropped", "quickstart")
        check(await error_of(source(double), ORDERS), SourceReason.MISSING)


async def test_cluster_without_replica_is_a_stall(double: MaterializeDouble) -> None:
    double.create(ORDERS, COLUMNS, rows=[ANN])
    double.scale("quickstart", 0)
    check(await error_of(source(double), ORDERS), SourceReason.STALLED, "no replicas available", "add a replica")


# Silence.


async def test_silence_is_stall_after_progress_timeout(double: MaterializeDouble) -> None:
    double.create(ORDERS, COLUMNS, rows=[ANN])
    async with reading(source(double, progress_timeout="600ms", stale_after="1s"), ORDERS) as stream:
        await stream.next()
        double.silence()
        began = time.monotonic()
        check(await stream.error(), SourceReason.STALLED, "no progress row for 0.6 s")
        assert 0.3 < time.monotonic() - began < SOON / 2
    await gone(double)


async def test_silence_at_start_is_stall_after_snapshot_timeout(double: MaterializeDouble) -> None:
    """A lost replica still gives the first progress row: it does not count as progress."""
    double.create(ORDERS, COLUMNS, rows=[ANN])
    double.silence()
    error = await error_of(source(double, snapshot_timeout="500ms"), ORDERS)
    check(error, SourceReason.STALLED, "no complete snapshot for 0.5 s")


async def test_slow_snapshot_is_not_a_stall(double: MaterializeDouble) -> None:
    rows: list[TextRow] = [(str(number), "x" * 40) for number in range(60)]
    double.create(ORDERS, COLUMNS, rows=rows)
    slow = source(double, snapshot_timeout="1s", progress_timeout="1s", stale_after="1s")
    double.bytes_per_second = 2_500  # the snapshot takes about two seconds, and never a second between two rows
    began = time.monotonic()
    async with reading(slow, ORDERS) as stream:
        await stream.until_state(*rows)
    assert time.monotonic() - began > 1.0


async def test_first_progress_row_in_future_is_fault(double: MaterializeDouble) -> None:
    double.create(ORDERS, COLUMNS, rows=[ANN])
    double.ahead = 3_600_000
    error = await error_of(source(double), ORDERS)
    check(error, SourceReason.FUTURE, "ahead of this machine's clock")
    double.ahead = 300  # as clocks differ
    async with reading(source(double), ORDERS) as stream:
        await stream.until_state(ANN)
    # The server accepts a time that it has not reached, and would be silent until then.
    later = int((time.time() + 3600) * 1000)
    error = await error_of(source(double), ORDERS, as_of=later)
    check(error, SourceReason.FUTURE, "ahead of this machine's clock", history=False)


# Connections.


async def test_killed_server_loses_connection_and_returns(double: MaterializeDouble) -> None:
    view = double.create(ORDERS, COLUMNS, retain=None, rows=[ANN])
    asked = source(double)
    async with reading(asked, ORDERS) as stream:
        await stream.next()
        frontier = stream.frontier
        await double.kill()
        check(await stream.error(), SourceReason.DISCONNECTED, f"127.0.0.1:{double.port}", "connection lost")
    check(await error_of(asked, ORDERS), SourceReason.CONNECT, "refused")
    view.insert(BOB)
    await double.start()
    async with reading(asked, ORDERS, as_of=frontier - 1) as stream:
        assert (await stream.next()).snapshot == frontier - 1
        await stream.until_state(ANN, BOB)


async def test_server_that_never_answers_times_out(double: MaterializeDouble) -> None:
    """Or the attempt is cancelled before; no connection is left."""
    double.deaf = True
    cancelled = asyncio.create_task(error_of(source(double), ORDERS))
    await until(lambda: double.connections)
    cancelled.cancel()
    await asyncio.wait({cancelled}, timeout=SOON)
    assert cancelled.cancelled()
    began = time.monotonic()
    check(await error_of(source(double, connect_timeout="500ms"), ORDERS), SourceReason.CONNECT, "127.0.0.1")
    assert time.monotonic() - began < SOON / 2
    await gone(double)


NASTY: tuple[TextRow, ...] = (("1", "a\tb\nc\\d"), ("2", None), ("3", "üñ😀"), ("4", ""))


async def test_stream_cut_anywhere_yields_no_wrong_row(double: MaterializeDouble) -> None:
    """A partial line, or rows of an incomplete batch, would show as a wrong state."""
    double.progress_interval = 0.01
    double.create(ORDERS, COLUMNS, rows=NASTY)
    asked = source(double)
    whole = dict.fromkeys(NASTY, 1)
    outcomes = set()

    async def cut(after: int) -> None:
        double.cuts.append(after)
        async with reading(asked, ORDERS) as stream:
            error = await stream.error()
            check(error, SourceReason.DISCONNECTED, "connection lost")
            assert stream.state in ({}, whole), f"after {after} bytes"
            assert not stream.batches or stream.batches[0].snapshot is not None
            outcomes.add(bool(stream.batches))

    for after in range(0, 320, 8):
        await asyncio.gather(*(cut(after + step) for step in range(8)))
    assert outcomes == {False, True}, "the cuts did not reach from the first byte to beyond the first batch"
    await gone(double)


async def test_cancelled_stream_closes_its_connection(double: MaterializeDouble) -> None:
    view = double.create(ORDERS, COLUMNS, rows=[ANN])
    reached = asyncio.Event()

    async def consume() -> None:
        async with reading(source(double, identity_check="50ms"), ORDERS) as stream:
            await stream.next()
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(consume())
    await asyncio.wait_for(reached.wait(), SOON)
    assert len(view.streams) == 1
    task.cancel()
    await asyncio.wait({task}, timeout=SOON)
    assert task.cancelled()
    await asyncio.wait_for(double.unsubscribed(view), SOON)
    await gone(double)


async def test_view_that_only_select_accepts_is_refused_by_check(double: MaterializeDouble) -> None:
    """One with `now()`. Parse and Describe of the SUBSCRIBE succeed, too."""
    view = double.create(ORDERS, COLUMNS, rows=[ANN])
    asked = source(double)
    assert await asked.sample(Subject(relation=ORDERS)) == ANN
    view.refused = errors.no_subscription("current_timestamp")
    await asked.describe(Subject(relation=ORDERS))
    with pytest.raises(SourceError, match="cannot materialize call to current_timestamp") as refused:
        await asked.sample(Subject(relation=ORDERS))
    assert str(refused.value) == str(await error_of(asked, ORDERS))
    assert "use no other clock" in refused.value.fix
    await gone(double)


async def test_no_failure_leaves_a_connection(double: MaterializeDouble) -> None:
    view = double.create(ORDERS, COLUMNS, rows=[ANN])
    asked = source(double)
    for _ in range(2):
        await error_of(asked, "public.nonesuch")
        await asked.describe(Subject(relation=ORDERS))
        await asked.sample(Subject(relation=ORDERS))
        async with reading(asked, ORDERS) as stream:
            await stream.next()
        view.fail("division by zero")
        await error_of(asked, ORDERS)
        view.heal()
    await gone(double)


async def test_oversized_result_is_named_and_allows_resume(double: MaterializeDouble) -> None:
    """`max_result_size` bounds the snapshot of a new subscription and the batches of a running one."""
    view = double.create(ORDERS, COLUMNS, rows=[ANN])
    async with reading(source(double), ORDERS) as stream:
        await stream.next()
        view.end_streams(errors.result_too_large())
        check(await stream.error(), SourceReason.TOO_LARGE, "result exceeds max size of 1.0 MiB")


async def test_large_snapshot_yields_to_event_loop(double: MaterializeDouble) -> None:
    view = double.create(ORDERS, COLUMNS)
    view.bulk = encode((str(number), f"name {number}") for number in range(100_000))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    async with reading(source(double), ORDERS) as stream:
        batch = await stream.next()
    counting.cancel()
    assert len(batch.updates) == 100_000
    assert turns > 10
