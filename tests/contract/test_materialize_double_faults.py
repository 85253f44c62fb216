"""What a test can do to the double of Materialize, seen with a real client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg import generators

from support.materialize import MaterializeDouble, Relation, protocol
from support.materialize.history import Row
from support.materialize.process import RefusedError, double_process

SUBSCRIBE = "COPY (SUBSCRIBE orders WITH (PROGRESS)) TO STDOUT"
QUICK = 0.01
COLUMNS = [("id", "int4"), ("name", "text")]


@dataclass(slots=True)
class Stream:
    """A COPY stream as a client reads it: updates and progress rows, in order."""

    rows: list[tuple[int, int | None, Row]] = field(default_factory=list)
    failure: psycopg.Error | None = None
    ended: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, connection: psycopg.AsyncConnection, sql: str) -> None:
        try:
            async with connection.cursor().copy(sql.encode()) as copy:
                async for line in copy:
                    at, progressed, diff, *row = protocol.copy_split(bytes(line))
                    self.rows.append((int(at or 0), None if progressed == "t" else int(diff or 0), tuple(row)))
                    self.news.set()
        except psycopg.Error as failure:
            self.failure = failure
        self.ended = True
        self.news.set()

    async def until(self, condition: Callable[["Stream"], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition(self):
                self.news.clear()
                await self.news.wait()

    @property
    def updates(self) -> list[tuple[int, Row]]:
        return [(diff, row) for _, diff, row in self.rows if diff is not None]

    @property
    def as_of(self) -> int:
        return self.rows[0][0] if self.rows else 2**64

    @property
    def frontier(self) -> int:
        return max((at for at, diff, _ in self.rows if diff is None), default=-1)


@pytest.fixture
async def double() -> AsyncIterator[MaterializeDouble]:
    async with MaterializeDouble(progress_interval=QUICK) as running:
        yield running


@pytest.fixture
def orders(double: MaterializeDouble) -> Relation:
    return double.create("orders", COLUMNS, rows=[(1, "a"), (2, None)])


@asynccontextmanager
async def connected(double: MaterializeDouble, password: str | None = None) -> AsyncIterator[psycopg.AsyncConnection]:
    connection = await psycopg.AsyncConnection.connect(double.dsn, autocommit=True, password=password)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def streaming(double: MaterializeDouble, sql: str = SUBSCRIBE) -> AsyncIterator[Stream]:
    async with connected(double) as connection:
        stream = Stream()
        task = asyncio.create_task(stream.read(connection, sql))
        try:
            yield stream
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def fetched(connection: psycopg.AsyncConnection, sql: str, *parameters: str) -> list[tuple[object, ...]]:
    cursor = await connection.execute(sql.encode(), parameters or None)
    return await cursor.fetchall()


async def described(connection: psycopg.AsyncConnection, sql: str) -> list[tuple[str, int, int]]:
    """Names, OIDs and modifiers of a statement's columns, by Parse and Describe."""
    connection.pgconn.send_prepare(b"", sql.encode())
    await connection.wait(generators.execute(connection.pgconn))
    connection.pgconn.send_describe_prepared(b"")
    (result,) = await connection.wait(generators.execute(connection.pgconn))
    names = [result.fname(at) or b"" for at in range(result.nfields)]
    return [(name.decode(), result.ftype(at), result.fmod(at)) for at, name in enumerate(names)]


# --- an ordinary client


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


async def test_an_up_to_ends_the_stream(double: MaterializeDouble, orders: Relation) -> None:
    sql = f"COPY (SUBSCRIBE orders WITH (PROGRESS) UP TO {orders.history.upper + 5}) TO STDOUT"
    async with streaming(double, sql) as stream:
        await stream.until(lambda s: s.ended)

    assert stream.failure is None
    assert stream.updates == [(1, ("1", "a")), (1, ("2", None))]


# --- connections that break


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

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.05)
    writer.close()

    double.deaf(on=False)
    async with connected(double) as connection:
        assert await fetched(connection, "SELECT 1") == [(1,)]


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


# --- views that break


async def test_silence_is_no_error_and_what_was_missed_has_its_true_time(
    double: MaterializeDouble, orders: Relation
) -> None:
    async with streaming(double) as stream:
        await stream.until(lambda s: s.frontier > s.as_of)
        double.silence(orders)
        length = len(stream.rows)
        at = orders.insert((3, "c"))
        await asyncio.sleep(5 * QUICK)  # nothing is to happen, for some intervals
        assert len(stream.rows) == length
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
    double.future(3_600_000)
    async with streaming(double) as stream:
        await stream.until(lambda s: bool(s.rows))
        await asyncio.sleep(3 * QUICK)  # nothing is to follow
    assert stream.as_of > double.now() + 3_500_000
    assert len(stream.rows) == 1


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
