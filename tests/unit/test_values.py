"""Values of columns: the text of a server, as a live Materialize wrote it, into Python and on into JSON."""

import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import postgres

from support.materialize.protocol import column as column_of
from tocsin import values
from tocsin.model import Column
from tocsin.values import jsonable, number, reader, typed

RECORDING = Path(__file__).parents[1] / "recordings" / "materialize" / "types_text.jsonl"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

# The columns of the recorded view, in order: type, what Python has, what JSON has.
RECORDED: list[tuple[str, object, object]] = [
    ("int4", 1, 1),
    ("int8", 2, 2),
    ("uint4", 3, 3),
    ("float4", 1.5, 1.5),
    ("float8", math.nan, "NaN"),
    ("float8", -math.inf, "-Infinity"),
    ("numeric", Decimal("12345678901234567890.123456789"), "12345678901234567890.123456789"),
    ("bool", True, True),
    ("text", 'x\ty\\nz "q" \\\\ é', 'x\ty\\nz "q" \\\\ é'),
    ("text", "", ""),
    ("text", None, None),
    ("jsonb", {"a": [1, None], "b": "é"}, {"a": [1, None], "b": "é"}),
    ("timestamptz", MOMENT, "2026-01-02T03:04:05.678901Z"),
    ("timestamp", datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),  # noqa: DTZ001
    ("date", date(2026, 1, 2), "2026-01-02"),
    ("time", time(3, 4, 5, 500000), "03:04:05.500000"),
    ("interval", "1 month 2 days 03:04:05.5", "1 month 2 days 03:04:05.5"),
    ("uuid", UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("bytea", b"\xde\xad\xbe\xef", "\\xdeadbeef"),
    ("int4[]", [1, 2, None], [1, 2, None]),
    ("text[]", ["a", "b,c", 'd"e'], ["a", "b,c", 'd"e']),
    ("text list", ["x", "y,z", None], ["x", "y,z", None]),
    ("map[text=>int4]", {"a": "1", "b": "2"}, {"a": "1", "b": "2"}),
    ("record", "(1,z)", "(1,z)"),
    ("oid", 5, 5),
    ("mz_timestamp", 1_700_000_000_000, 1_700_000_000_000),
    ("int4range", "[1,5)", "[1,5)"),
    ("bpchar", "c  ", "c  "),
    ("varchar", "v", "v"),
]


def recorded_row() -> list[str | None]:
    """The one row of the recording, out of its COPY text."""
    bodies = [json.loads(line)["body"] for line in RECORDING.read_text().splitlines() if '"type": "d"' in line]

    def unescaped(field: str) -> str | None:
        if field == "\\N":
            return None
        parts = field.split("\\\\")
        return "\\".join(p.replace("\\t", "\t").replace("\\n", "\n") for p in parts)

    line = bodies[1].encode("latin-1").decode().removesuffix("\n")
    return [unescaped(field) for field in line.split("\t")[3:]]  # without timestamp, progressed and diff


def value(type_name: str, text: str | None) -> object:
    try:
        oid = postgres.types.get_oid(type_name)
    except KeyError:  # a type of Materialize
        oid = column_of("c", type_name).oid
    return typed(Column(name="c", oid=oid), text)


def test_every_recorded_type_reads_as_its_python_value() -> None:
    row = recorded_row()
    assert len(row) == len(RECORDED)
    for (type_name, expected, _), text in zip(RECORDED, row, strict=True):
        found = value(type_name, text)
        assert repr(found) == repr(expected), type_name
        assert type(found) is type(expected), type_name


def test_every_recorded_type_has_its_json() -> None:
    found = [jsonable(value(type_name, text)) for (type_name, *_), text in zip(RECORDED, recorded_row(), strict=True)]
    assert found == [expected for *_, expected in RECORDED]


def test_null_is_none_in_every_type() -> None:
    for type_name, *_ in RECORDED:
        assert value(type_name, None) is None
    assert value("text", "") == ""


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("int4", "twelve"),
        ("bool", "true"),
        ("numeric", "1.2.3"),
        ("float8", ""),
        ("timestamptz", "infinity"),
        ("timestamptz", "0001-01-01 00:00:00+14"),
        ("timestamptz", "0044-03-15 12:00:00+00 BC"),
        ("timestamp", "12026-01-01 00:00:00"),
        ("date", "12026-01-01"),
        ("time", "24:00:00"),
        ("uuid", "x"),
        ("jsonb", "{"),
        ("jsonb", "NaN"),
        ("jsonb", '"\\ud800"'),
        ("jsonb", "[" * 100_000 + "]" * 100_000),
        ("jsonb", "[" * 500 + "]" * 500),
        ("int4[]", "{1,x}"),
        ("int4[]", "{1,2"),
        ("int4[]", "{1}}"),
        ("int4[]", "1,2"),
        ("text list", "{a"),
        ("text list", "{a,}"),
        ("text list", "{a}b"),
        ("text list", '{a"b}'),
        ("text list", "{a=>b,c}"),
        ("text list", "{{a}=>b}"),
        ("text list", "{a=>b=>c}"),
        ("text list", "{" * 5000 + "}" * 5000),
        ("text list", "plain"),
        ("text list", "(1,z)"),
        ("text list", ""),
    ],
)
def test_unparsable_text_stays_text(type_name: str, text: str) -> None:
    assert value(type_name, text) == text


def test_times_are_converted_to_utc() -> None:
    assert value("timestamptz", "2026-01-02 08:34:05.678901+05:30") == MOMENT
    assert jsonable(value("timestamptz", "2026-01-01 19:04:05.678901-08")) == "2026-01-02T03:04:05.678901Z"


@pytest.mark.parametrize(
    ("type_name", "text", "expected"),
    [
        ("int4[]", "{}", []),
        ("int4[]", "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        ("int4[]", "[0:1]={1,2}", [1, 2]),
        ("int4[]", "[-1:0][1:2]={{1,2},{3,4}}", [[1, 2], [3, 4]]),
        ("int4[]", "{ 1 , 2 }", [1, 2]),
        ("bool[]", "{t,f,NULL}", [True, False, None]),
        ("numeric[]", "{1.50,NaN}", ["1.50", "NaN"]),
        ("text[]", '{a=>b,"NULL",null,"",b c,"\\\\","{}"}', ["a=>b", "NULL", "null", "", "b c", "\\", "{}"]),
        ("bytea[]", '{"\\\\xdead"}', ["\\xdead"]),
        ("jsonb[]", '{"{\\"a\\": 1}",NULL}', [{"a": 1}, None]),
        ("timestamptz[]", '{"2026-01-02 03:04:05+00"}', ["2026-01-02T03:04:05Z"]),
        ("timestamptz[]", '{"0001-01-01 00:00:00+14"}', ["0001-01-01T00:00:00+14:00"]),
        ("text list", "{}", []),
        ("text list", '{"","NULL",NULL,"a b"}', ["", "NULL", None, "a b"]),
        ("text list", "{{a},{b,c}}", [["a"], ["b", "c"]]),
        ("map[text=>int4]", '{"a b"=>NULL,c=>"=>"}', {"a b": None, "c": "=>"}),
        ("map[text=>int4]", "{a=>{b=>1},c=>{d=>2}}", {"a": {"b": "1"}, "c": {"d": "2"}}),
    ],
)
def test_arrays_lists_and_maps(type_name: str, text: str, expected: object) -> None:
    assert jsonable(value(type_name, text)) == expected


def test_numbers_in_json_are_exact() -> None:
    long = "0.1000000000000000055511151231257827"
    found: Any = value("jsonb", f'{{"a":0.1,"b":{long},"c":12345678901234567890,"d":1e400}}')
    assert found == {"a": 0.1, "b": Decimal(long), "c": 12345678901234567890, "d": Decimal("1e400")}
    assert jsonable(found) == {"a": 0.1, "b": long, "c": 12345678901234567890, "d": "1E+400"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("0.0000001"), "0.0000001"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0.50"), "-0.50"),
        (Decimal("1e999999"), "1E+999999"),
        (math.inf, "Infinity"),
        (timedelta(minutes=2), 120.0),
        ({1: (b"\x00", {3, 2})}, {"1": ["\\x00", [2, 3]]}),
        ({None: 1, True: 2}, {"None": 1, "True": 2}),
        (object, "<class 'object'>"),
    ],
)
def test_values_of_templates_have_json(value: object, expected: object) -> None:
    assert jsonable(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3.0),
        ("-1.5e3", -1500.0),
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        ("t", 1.0),
        ("f", 0.0),
        ("2026-01-02 03:04:05.5+00", 1_767_323_045.5),
        ("2026-01-02 03:04:05.5", 1_767_323_045.5),
        ("2026-01-02", 1_767_312_000.0),
        ("00:01:30.5", 90.5),
        ("-00:00:05", -5.0),
        ("1 day 02:00:00", 93_600.0),
        ("-1 days +02:00:00", -79_200.0),
        ("1 year 2 mons", (365.25 + 60) * 86400),
        ("1 month 2 days 03:04:05.5", 32 * 86400 + 11045.5),
    ],
)
def test_text_becomes_the_number_of_a_gauge(text: str, expected: float) -> None:
    assert number(text) == expected


@pytest.mark.parametrize("text", [None, "", "NaN", "abc", "true", "1 fortnight", "9" * 400 + " days", "infinity days"])
def test_other_text_is_nan(text: str | None) -> None:
    assert math.isnan(number(text))


def test_row_is_read_by_column_name() -> None:
    read = reader((Column(name="a", oid=23), Column(name="b", oid=16)))
    assert read(("1", "t")) == {"a": 1, "b": True}


_OIDS = st.sampled_from([*values._loaders(), 25, 1186, 2249, 16384, 20187, 99999])
_TEXTS = st.text() | st.text(alphabet='{}[],"\\=>:NUL 0123456789.-+xtf\n', max_size=40)


@given(_OIDS, _TEXTS)
def test_any_text_of_any_type_becomes_json(oid: int, text: str) -> None:
    found = typed(Column(name="c", oid=oid), text)
    assert json.dumps(jsonable(found), allow_nan=False).encode()
    assert jsonable(found) == jsonable(typed(Column(name="c", oid=oid), text))
    number(text)


_ELEMENTS = st.lists(st.none() | st.text(min_size=1), min_size=1)


@given(_ELEMENTS)
def test_quoted_list_reads_back(elements: list[str | None]) -> None:
    def quoted(text: str | None) -> str:
        return "NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = "{" + ",".join(map(quoted, elements)) + "}"
    assert value("text list", text) == elements
    assert value("text[]", text) == elements
    pairs = {f"k{index}": element for index, element in enumerate(elements)}
    assert value("text list", "{" + ",".join(f"{key}=>{quoted(item)}" for key, item in pairs.items()) + "}") == pairs
