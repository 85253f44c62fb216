"""The Materialize source: snapshots, changes, resumes, and rows as exact text."""

import random
import time
from collections import Counter
from collections.abc import Iterable

import pytest

from support.live import ANN, BOB, COLUMNS, CYD, Server, source
from support.materialize import MaterializeDouble, ServerError
from support.reading import check, error_of, reading
from support.waiting import SOON
from tocsin.errors import SourceReason
from tocsin.firing.canonical import respelling
from tocsin.model import Batch, Row
from tocsin.postgres import name_parts, relation
from tocsin.sources.base import Subject
from tocsin.sources.materialize import Assembler
from tocsin.sources.wire import fields
from tocsin.values import typed


async def test_snapshot_comes_first_and_changes_follow(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN, BOB)
    async with reading(source(server), view.name) as stream:
        first = await stream.next()
        assert first.snapshot is not None
        assert {(diff, row) for _, diff, row in first.updates} == {(1, ANN), (1, BOB)}
        assert {at for at, _, _ in first.updates} == {first.snapshot}
        await view.insert(CYD)
        await stream.until_state(ANN, BOB, CYD)
        await view.delete(ANN)
        await stream.until_state(BOB, CYD)
        assert all(batch.snapshot is None for batch in stream.batches[1:])


async def test_update_is_two_changes_at_one_timestamp(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN)
    async with reading(source(server), view.name) as stream:
        await stream.next()
        await view.update(ANN, ("1", "Anna"))
        await stream.until_state(("1", "Anna"))
        changes = [update for batch in stream.batches[1:] for update in batch.updates]
        assert sorted((diff, row) for _, diff, row in changes) == [(-1, ANN), (1, ("1", "Anna"))]
        assert len({at for at, _, _ in changes}) == 1


async def test_batch_holds_several_timestamps_in_order(double: MaterializeDouble) -> None:
    view = double.create("public.orders", COLUMNS, rows=[ANN])
    async with reading(source(double), "public.orders") as stream:
        await stream.next()
        # Nothing is sent until this function waits, so the three of them share a batch.
        times = [view.insert(BOB), view.delete(BOB), view.insert(CYD)]
        await stream.until_state(ANN, CYD)
        assert list(stream.last.updates) == [(times[0], 1, BOB), (times[1], -1, BOB), (times[2], 1, CYD)]


@pytest.mark.parametrize("cut", range(1, 8))
def test_progress_at_as_of_closes_nothing(cut: int) -> None:
    """The first progress row comes before the snapshot, and may be repeated among its rows."""
    progress = b"%d\tt\t\\N\t\\N\n"
    lines = [progress % 5, b"5\tf\t1\ta\n", progress % 5, b"5\tf\t2\tb\n", progress % 6, progress % 7, b"8\tf\t-1\ta\n"]
    lines.append(progress % 9)
    assembler = Assembler()
    batches = [*assembler.add(lines[:cut]), *assembler.add(lines[cut:])]
    first, *later = batches
    assert (first.snapshot, first.frontier) == (5, 6)
    assert list(first.updates) == [(5, 1, ("a",)), (5, 2, ("b",))]
    assert [update for batch in later for update in batch.updates] == [(8, -1, ("a",))]
    assert batches[-1].frontier == 9


def test_updates_out_of_order_are_sorted_by_time() -> None:
    """The firing set applies one timestamp after another."""
    assembler = Assembler()
    assembler.add([b"5\tt\t\\N\t\\N\n", b"6\tt\t\\N\t\\N\n"])
    rows = [b"8\tf\t-1\ta\n", b"7\tf\t1\ta\n", b"8\tf\t1\tb\n", b"9\tt\t\\N\t\\N\n"]
    [batch] = assembler.add(rows)
    assert list(batch.updates) == [(7, 1, ("a",)), (8, -1, ("a",)), (8, 1, ("b",))]


def test_progress_alone_closes_snapshot_and_moves_frontier() -> None:
    """An empty view has an empty snapshot, and a quiet one a frontier that moves."""
    assembler = Assembler()
    chunks = [[b"%d\tt\t\\N\n" % at for at in chunk] for chunk in ((5, 6), (7, 8))]
    batches = [batch for chunk in chunks for batch in assembler.add(chunk)]
    assert batches == [Batch(updates=[], frontier=6, snapshot=5), Batch(updates=[], frontier=8)]


async def test_constant_view_ends_with_all_rows(server: Server) -> None:
    view = await server.view("always", COLUMNS, ANN, BOB, constant=True)
    async with reading(source(server), view.name) as stream:
        await stream.until_state(ANN, BOB)
        assert stream.last.frontier is None
        assert stream.last.snapshot is not None
        assert abs(stream.last.snapshot / 1000 - time.time()) < SOON
        with pytest.raises(StopAsyncIteration):
            await stream.next()


def test_constant_materialized_view_ends_at_its_time() -> None:
    """As in v26.39: the snapshot has a real timestamp, and no progress row follows."""
    assembler = Assembler()
    assert assembler.add([b"5\tt\t\\N\t\\N\n", b"5\tf\t1\ta\n"]) == []
    assert assembler.end(now=9.0) == Batch(updates=[(5, 1, ("a",))], frontier=6, snapshot=5)


# Resuming.


async def test_resume_within_history_misses_nothing(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN)
    async with reading(source(server), view.name) as stream:
        await stream.next()
        frontier = stream.frontier
    await view.insert(BOB)  # comes and goes in between
    await view.delete(BOB)
    await view.insert(CYD)
    async with reading(source(server), view.name, as_of=frontier - 1) as stream:
        first = await stream.next()
        assert first.snapshot == frontier - 1
        assert [(diff, row) for at, diff, row in first.updates if at == first.snapshot] == [(1, ANN)]
        await stream.until_state(ANN, CYD)
        later = [(diff, row) for at, diff, row in stream.updates if at > frontier - 1]
        assert later == [(1, BOB), (-1, BOB), (1, CYD)]


async def test_resume_beyond_history_has_later_as_of(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN, retain=False)
    async with reading(source(server), view.name) as stream:
        await stream.next()
        frontier = stream.frontier
    await view.delete(ANN)
    await view.insert(BOB)
    await view.forget(frontier)
    async with reading(source(server), view.name, as_of=frontier - 1) as stream:
        first = await stream.next()
        assert first.snapshot is not None
        assert first.snapshot > frontier - 1
        await stream.until_state(BOB)


# Rows as text.


async def test_null_is_not_empty_text(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ("1", None), ("2", ""), ("3", "\\N"), ("4", "NULL"))
    async with reading(source(server), view.name) as stream:
        await stream.until_state(("1", None), ("2", ""), ("3", "\\N"), ("4", "NULL"))


async def test_every_character_arrives_unchanged(server: Server) -> None:
    chance = random.Random(20)
    planes = [
        range(1, 0x80),
        range(0x80, 0x800),
        range(0x800, 0xD800),
        range(0xE000, 0x10000),
        range(0x10000, 0x110000),
    ]
    mixed = ["".join(chr(chance.choice(chance.choice(planes))) for _ in range(20)) for _ in range(200)]
    control = [f"<{chr(code)}>" for code in range(1, 33)]
    nasty = ["\t", "\n", "\r\n", "\\", "\\\\", "\\t", "\\n", "\\.", "a\\", "\\x41", "\\101", "\u2028", "'", '"', "\x7f"]
    rows = [(str(number), text) for number, text in enumerate([*nasty, *control, *mixed])]
    view = await server.view("orders", COLUMNS, *rows)
    async with reading(source(server), view.name) as stream:
        await stream.until_state(*rows)


def test_invalid_utf8_becomes_distinct_text() -> None:
    lines = [b"1\t<\xff\xfe>\n", b"2\t<\xffA>\n", "3\tü\\t\\\\\n".encode(), b"\\N\t\n"]
    assert fields(lines) == [("1", "<\\xff\\xfe>"), ("2", "<\\xffA>"), ("3", "ü\t\\"), (None, "")]


TYPES = (
    ("int2", "1"),
    ("int4", "2"),
    ("int8", "3"),
    ("float4", "1.5"),
    ("float8", "NaN"),
    ("float8", "-Infinity"),
    ("numeric", "12345678901234567890.123456789"),
    ("bool", "t"),
    ("jsonb", '{"a":[1,null],"b":"é"}'),
    ("timestamptz", "2026-01-02 03:04:05.678901+00"),
    ("timestamp", "2026-01-02 03:04:05"),
    ("date", "2026-01-02"),
    ("time", "03:04:05.5"),
    ("interval", "1 month 2 days 03:04:05.5"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("bytea", "\\xdeadbeef"),
    ("int4[]", "{1,2,NULL}"),
    ("text[]", '{a,"b,c","d\\"e"}'),
    ("text list", '{x,"y,z",NULL}'),
    ("map[text=>int4]", "{a=>1,b=>2}"),
    ("uint8", str(2**64 - 1)),
    ("mz_timestamp", "1700000000000"),
    ("int4range", "[1,5)"),
)
"""Types and the text in which a live server sent them (recordings/materialize/types_text.jsonl)."""


async def test_every_type_arrives_as_server_text(server: Server) -> None:
    columns = [(f"c{number}", kind) for number, (kind, _) in enumerate(TYPES)]
    row = tuple(text for _, text in TYPES)
    nulls = (None,) * len(row)
    view = await server.view("types", columns, row, nulls)
    async with reading(source(server), view.name) as stream:

        def alike(rows: Iterable[Row]) -> Counter[Row]:
            """Versions differ in the text of intervals."""
            respelled = respelling(stream.columns)
            assert respelled is not None
            return Counter(map(respelled, rows))

        await stream.until(lambda: bool(stream.batches) and alike(stream.state.elements()) == alike((row, nulls)))
        assert [column.name for column in stream.columns] == [name for name, _ in columns]
        # Its own integers have numbers that are those of other types on other servers.
        known = {"int4": 23, "numeric": 1700, "jsonb": 3802, "timestamptz": 1184, "uint8": 20, "mz_timestamp": 20}
        kinds = [kind for kind, _ in TYPES]
        assert {kind: stream.columns[kinds.index(kind)].oid for kind in known} == known
        assert typed(stream.columns[kinds.index("uint8")], row[kinds.index("uint8")]) == 2**64 - 1
        assert stream.columns[kinds.index("text list")].oid >= 16384


# Names and queries.


@pytest.mark.parametrize(
    "name", ['"Late Orders"', '"a""b"', '"x;DROP TABLE y;--"', '"ünïcode"', "lower_case1", '"%s {}"']
)
async def test_any_quoted_name_can_be_watched(server: Server, name: str) -> None:
    view = await server.view(name, (("Id", "int4"), ('od"d; name', "text")), ANN)
    async with reading(source(server), view.name) as stream:
        await stream.until_state(ANN)
        assert [column.name for column in stream.columns] == ["Id", 'od"d; name']


async def test_query_can_be_watched(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN, BOB)
    async with reading(source(server), Subject(query=f"SELECT name FROM {view.name} ;\n")) as stream:
        await stream.until_state(("Ann",), ("Bob",))
        assert [column.name for column in stream.columns] == ["name"]
        await view.insert(CYD)
        await stream.until_state(("Ann",), ("Bob",), ("Cyd",))


def test_unquoted_parts_of_a_name_are_folded() -> None:
    assert name_parts('Shop."Late ""Orders"""') == ("shop", 'Late "Orders"')


@pytest.mark.parametrize(
    "name", ["", "a.b.c.d", 'a"b', '"', '""', "a;b", "1a", "a b", "a.", ".a", 'a."b', "a--", "a(1)"]
)
def test_invalid_relation_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a relation name"):
        relation(name)


async def test_columns_and_sample_without_subscription(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN)
    asked = source(server)
    columns = await asked.describe(Subject(relation=view.name))
    assert [(column.name, column.oid) for column in columns] == [("id", 23), ("name", 25)]
    assert await asked.sample(Subject(relation=view.name)) == ANN
    await view.delete(ANN)
    assert await asked.sample(Subject(relation=view.name)) is None


@pytest.mark.parametrize("refused", [False, True])
async def test_other_time_zone_of_session_is_set_back(
    double: MaterializeDouble, monkeypatch: pytest.MonkeyPatch, *, refused: bool
) -> None:
    """Where the server refuses that, the view is read nevertheless."""

    def refuse(text: str) -> None:
        if refused and text.startswith("SET"):
            raise ServerError(code="55P02", message="parameter cannot be set")

    double.create("public.orders", COLUMNS, rows=[ANN])
    double.answer = refuse
    monkeypatch.setenv("PGTZ", "+02")
    async with reading(source(double), "public.orders") as stream:
        await stream.until_state(ANN)
    assert refused or """SET "TimeZone" = 'UTC'""" in double.statements


async def test_settings_reach_the_session(double: MaterializeDouble) -> None:
    double.create("public.orders", COLUMNS, rows=[ANN])
    double.create_cluster("side line")
    given = {"cluster": "side line", "isolation": "serializable", "options": {"search_path": "a b"}}
    async with reading(source(double, **given), "public.orders") as stream:
        await stream.until_state(ANN)
    error = await error_of(source(double, cluster="nonesuch"), "public.orders")
    check(error, SourceReason.MISSING, "unknown cluster 'nonesuch'")
