"""Faults of the double of Materialize that the tests of the source do not cover."""

import asyncio
from collections import Counter

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.double_process import double_process
from support.live import DoubleServer, settings
from support.materialize import MaterializeDouble, messages
from support.materialize.history import History, Row
from support.reading import reading
from tocsin.sources.materialize import Materialize

COLUMNS = [("id", "int4"), ("name", "text")]
ROWS: tuple[Row, ...] = (("a", "1"), ("a", "2"), ("b", None))


@pytest.mark.parametrize("size", [0, 1, 19, 20, 21, 60, 100, 101, 130])
async def test_connection_is_cut_after_exact_bytes(size: int) -> None:
    async with MaterializeDouble() as double:
        double.create("orders", COLUMNS, rows=[(1, "a"), (2, None)])
        double.cuts.append(size)
        reader, writer = await asyncio.open_connection("127.0.0.1", double.port)
        startup = messages.PROTOCOL_3.to_bytes(4, "big") + b"user\0materialize\0\0"
        writer.write((len(startup) + 4).to_bytes(4, "big") + startup)
        await reader.readuntil(messages.READY)
        writer.write(messages.message(b"Q", b"COPY (SUBSCRIBE orders WITH (PROGRESS)) TO STDOUT\0"))

        assert len(await reader.read(-1)) == size
        writer.close()


async def test_connection_is_limited_to_bytes_per_second() -> None:
    async with MaterializeDouble(progress_interval=0.01) as double:
        double.create("orders", COLUMNS, rows=[(at, "x" * 80) for at in range(100)])
        double.bytes_per_second = 100_000
        began = asyncio.get_running_loop().time()
        async with reading(Materialize("mz", DoubleServer(double).config()), "orders") as stream:
            assert len((await stream.next()).updates) == 100
        assert asyncio.get_running_loop().time() - began > 0.1  # 12 kB at 100 kB/s


async def test_unknown_statement_is_quoted_in_the_error() -> None:
    async with MaterializeDouble() as double:
        connection = await psycopg.AsyncConnection.connect(double.dsn, autocommit=True)
        with pytest.raises(psycopg.errors.SyntaxError, match="VACUUM everything"):
            await connection.execute("VACUUM everything")
        await connection.close()
        assert double.statements == ["VACUUM everything"]


async def test_process_serves_still_rows_and_changes_others() -> None:
    """As the benchmarks use it."""
    async with (
        double_process(5000, live=10) as double,
        reading(Materialize("mz", settings(double.dsn)), "load") as stream,
    ):
        assert len({row[0] for _, _, row in (await stream.next()).updates}) == 5010
        await double.run("load", 500)
        await stream.until(lambda: len(stream.updates) > 5100)
        assert len(stream.state) == 5010


@given(
    plan=st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(-2, 3), min_size=3, max_size=3)), max_size=12),
    start=st.integers(0, 80),
)
def test_snapshot_and_later_updates_are_the_contents(plan: list[tuple[int, list[int]]], start: int) -> None:
    """From whatever time a history is read. `plan`: for each step its milliseconds, and a diff for each of the rows."""
    history = History()
    for wait, diffs in plan:
        held = history.snapshot()
        history.append(
            history.upper + wait, [(max(diff, -held[row]), row) for diff, row in zip(diffs, ROWS, strict=True)]
        )
    state = Counter(history.snapshot(start))
    for update in history.updates(start, history.upper):
        state[update.row] += update.diff
    assert +state == history.snapshot()
    with pytest.raises(ValueError, match="write frontier"):
        history.append(history.upper - 1, [])
