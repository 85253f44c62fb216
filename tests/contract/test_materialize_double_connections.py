"""What a test can do to the connections of the double of Materialize, seen with a real client."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from support.materialize import MaterializeDouble, Relation, protocol
from support.materialize.client import COLUMNS, SUBSCRIBE, connected, fetched, streaming
from support.materialize.recordings import load
from support.waiting import until

RECORDING = Path(__file__).parents[1] / "recordings" / "materialize-26.39" / "too_many_connections.jsonl"


@pytest.mark.parametrize("size", [0, 1, 19, 20, 21, 60, 100, 101, 130])
async def test_a_cut_falls_after_exactly_so_many_bytes(double: MaterializeDouble, orders: Relation, size: int) -> None:
    double.cut(after_bytes=size)
    reader, writer = await asyncio.open_connection("127.0.0.1", double.port)
    startup = protocol.PROTOCOL_3.to_bytes(4, "big") + b"user\0materialize\0\0"
    writer.write((len(startup) + 4).to_bytes(4, "big") + startup)
    await reader.readuntil(protocol.ready("I"))

    writer.write(protocol.message(b"Q", SUBSCRIBE.encode() + b"\0"))

    assert len(await reader.read(-1)) == size
    writer.close()
    await double.unsubscribed(orders)


async def test_a_cut_is_about_one_stream_only(double: MaterializeDouble, orders: Relation) -> None:
    double.cut(after_bytes=30)
    async with streaming(double) as stream:
        await stream.until(lambda s: s.ended)
        assert isinstance(stream.failure, psycopg.OperationalError)
    async with streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)


async def test_a_killed_server_comes_back_on_its_port_with_its_history(double: MaterializeDouble) -> None:
    orders = double.create("orders", COLUMNS, retain=60_000)
    port = double.port
    async with streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)
        await double.kill()
        await stream.until(lambda s: s.ended)
    assert isinstance(stream.failure, psycopg.OperationalError)
    with pytest.raises(psycopg.OperationalError):
        await psycopg.AsyncConnection.connect(double.dsn)
    came = orders.insert((1, "a"))
    went = orders.delete((1, "a"))

    assert await double.start() == port

    seen = stream.frontier - 1
    async with streaming(double, f"COPY (SUBSCRIBE orders WITH (PROGRESS) AS OF AT LEAST {seen}) TO STDOUT") as again:
        await again.until(lambda s: s.frontier > went)
    assert again.as_of == seen
    assert [row for row in again.rows if row[1] is not None] == [(came, 1, ("1", "a")), (went, -1, ("1", "a"))]


async def test_a_server_can_come_back_without_its_history(double: MaterializeDouble) -> None:
    orders = double.create("orders", COLUMNS, retain=60_000)
    seen = orders.history.since
    await double.kill()
    at = orders.insert((1, "a"))

    await double.start(lose_history=True)

    async with streaming(double, f"COPY (SUBSCRIBE orders WITH (PROGRESS) AS OF AT LEAST {seen}) TO STDOUT") as stream:
        await stream.until(lambda s: s.frontier > s.as_of)
    assert stream.as_of >= at
    assert stream.updates == [(1, ("1", "a"))]


async def test_refused_connections_leave_open_ones_alone(double: MaterializeDouble, orders: Relation) -> None:
    async with streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)
        await double.refuse()
        with pytest.raises(psycopg.OperationalError):
            await psycopg.AsyncConnection.connect(double.dsn)
        at = orders.insert((3, "c"))
        await stream.until(lambda s: s.frontier > at)
        await double.admit()
    async with connected(double) as connection:
        assert await fetched(connection, "SELECT 1") == [(1,)]


async def test_a_deaf_server_accepts_and_says_nothing(double: MaterializeDouble) -> None:
    double.deaf()
    reader, writer = await asyncio.open_connection("127.0.0.1", double.port)
    writer.write(b"\0\0\0\x08\x04\xd2\x16\x2f")
    answer = asyncio.create_task(reader.read(1))
    await until(lambda: double.connections == 1, "the connection")

    double.deaf(on=False)
    async with connected(double) as connection:
        assert await fetched(connection, "SELECT 1") == [(1,)]
    assert not answer.done()
    writer.close()
    await answer


async def test_a_slow_connection_still_brings_everything(double: MaterializeDouble, orders: Relation) -> None:
    orders.insert(*[(at, "x" * 80) for at in range(100)])
    double.slow(100_000)
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)

    assert len(stream.updates) == 102
    assert loop.time() - start > 0.1  # 12 kB at 100 kB/s


async def test_a_client_that_does_not_read_misses_nothing(double: MaterializeDouble, orders: Relation) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", double.port, limit=1024)
    startup = protocol.PROTOCOL_3.to_bytes(4, "big") + b"user\0materialize\0\0"
    writer.write((len(startup) + 4).to_bytes(4, "big") + startup)
    await reader.readuntil(protocol.ready("I"))
    writer.write(protocol.message(b"Q", SUBSCRIBE.encode() + b"\0"))
    await double.subscribed(orders)

    for at in range(200):
        orders.insert(*[(at * 100 + n, "x" * 400) for n in range(100)])
        double.compact(orders)
        await asyncio.sleep(0)

    seen = 0
    async with asyncio.timeout(10):
        while seen < 20_000:
            seen += (await reader.readuntil(b"\n")).count(b"x" * 400)
    writer.close()


async def test_one_connection_too_many_is_refused(double: MaterializeDouble) -> None:
    """In the words that a server with six connections, two of them reserved, was recorded with."""
    double.connection_limit, double.reserved, double.taken = 6, 2, 4
    with pytest.raises(psycopg.OperationalError) as refused:
        await psycopg.AsyncConnection.connect(double.dsn)
    recorded = load(RECORDING)[-2]
    message, hint = (recorded.body.decode().split("\0")[at][1:] for at in (2, 3))
    assert message in str(refused.value)
    assert hint in str(refused.value)
    double.taken = 3
    async with connected(double) as connection:
        assert await fetched(connection, "SELECT 1") == [(1,)]
