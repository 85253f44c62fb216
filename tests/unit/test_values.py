"""Values of columns: the text of a server into Python, into JSON, and into the number of a gauge."""

import json
import math
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import postgres

from support.materialize.protocol import column as column_of
from tocsin import values
from tocsin.model import Column
from tocsin.values import jsonable, number, reader, typed

RECORDING = Path(__file__).parents[1] / "recordings" / "materialize" / "types_text.jsonl"
VALUES = (Path(__file__).parent / "golden" / "values.jsonl").read_text(encoding="utf-8").splitlines()
"""Type, text, Python's value and JSON's. First the row of the recording, last `gauge`, where the value is a number."""
NESTED = "[" * 100_000 + "]" * 100_000


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


@pytest.mark.parametrize("line", VALUES)
def test_text_becomes_its_value_and_json(line: str) -> None:
    """A text that the type cannot have stays text; as a number it is NaN."""
    type_name, text, expected, in_json = json.loads(line)
    found = number(text) if type_name == "gauge" else value(type_name, text)
    assert (repr(found), jsonable(found)) == (expected, in_json)
    assert type_name == "gauge" or value(type_name, None) is None


def test_values_begin_with_the_recorded_row() -> None:
    row = recorded_row()
    assert [json.loads(line)[1] for line in VALUES[: len(row)]] == row


@pytest.mark.parametrize(("type_name", "text"), [("jsonb", NESTED), ("text list", "{" * 5000 + "}" * 5000)])
def test_deeply_nested_text_stays_text(type_name: str, text: str) -> None:
    assert value(type_name, text) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("0.0000001"), "0.0000001"),
        (Decimal("1E+3"), "1000"),
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


@given(st.lists(st.none() | st.text(min_size=1), min_size=1))
def test_quoted_list_reads_back(elements: list[str | None]) -> None:
    def quoted(text: str | None) -> str:
        return "NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = "{" + ",".join(map(quoted, elements)) + "}"
    assert value("text list", text) == elements
    assert value("text[]", text) == elements
    pairs = {f"k{index}": element for index, element in enumerate(elements)}
    assert value("text list", "{" + ",".join(f"{key}=>{quoted(item)}" for key, item in pairs.items()) + "}") == pairs
