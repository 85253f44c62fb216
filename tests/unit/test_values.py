"""Values of columns: the text of a server into Python, JSON and the number of a gauge; JSON documents as rows."""

import json
import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import postgres

from support.materialize.protocol import column as column_of
from tocsin import values
from tocsin.model import Column
from tocsin.sources.documents import lines, parsed, row_of
from tocsin.sources.materialize import with_known_types
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
        column = Column(name="c", oid=postgres.types.get_oid(type_name))
    except KeyError:  # a type of Materialize
        [column] = with_known_types([Column(name="c", oid=column_of("c", type_name).oid)])
    return typed(column, text)


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


@pytest.mark.parametrize(
    ("type_name", "text"), [("jsonb", "[" * 500 + "]" * 500), ("jsonb", NESTED), ("text list", "{" * 5000 + "}" * 5000)]
)
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
        (Fraction(1, 2), "1/2"),
    ],
)
def test_values_of_templates_have_json(value: object, expected: object) -> None:
    assert jsonable(value) == expected


@pytest.mark.parametrize("oid", [16_460, 16_462, 16_464, 16_552])
def test_value_of_a_users_type_stays_text_whatever_its_number(oid: int) -> None:
    """In PostgreSQL, a type that a user makes has the next number, which may be that of an integer of Materialize."""
    assert typed(Column(name="code", oid=oid), "007") == "007"


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


# JSON documents as rows.


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=80), JSON, max_size=5)


def read_back(document: dict[str, object]) -> dict[str, object]:
    columns, row = row_of(document)
    return {column.name: jsonable(typed(column, text)) for column, text in zip(columns, row, strict=True)}


@given(OBJECTS.filter(lambda document: "\\ud" not in json.dumps(document)))
def test_field_reads_back_as_it_was(document: dict[str, object]) -> None:
    again = parsed(json.dumps(document))
    for name, value in read_back(again).items():
        whole = again[name]
        large = isinstance(whole, int) and not isinstance(whole, bool) and not -(2**63) <= whole < 2**63
        assert value == (str(whole) if large else whole)


def test_columns_have_types_of_values_in_document_order() -> None:
    columns, row = row_of({"a": 1, "b": "x", "c": True, "d": 1.5, "e": None, "f": [1], "g": 2**70})
    assert columns == tuple(
        Column(name=name, oid=oid) for name, oid in zip("abcdefg", (20, 25, 16, 701, 25, 3802, 1700), strict=True)
    )
    assert row == ("1", "x", "t", "1.5", None, "[1]", str(2**70))


def test_documents_with_equal_fields_share_columns() -> None:
    """Unless names are long or many, which would fill the memory."""
    first, second, other = (row_of(document)[0] for document in ({"a": 1}, {"a": 2}, {"a": "x"}))
    assert first is second
    assert first != other
    for document in ({"n" * 65: 1}, {f"n{place}": 1 for place in range(65)}):
        assert row_of(document)[0] is not row_of(document)[0]


@pytest.mark.parametrize(
    ("text", "events"), [(b'{"a": 1}', 1), (b"[]", 0), (b'[{"a": 1}, {}]', 2), (b'{"a": 1}\n{"b": 2}\n', 2)]
)
def test_text_holds_one_document_list_or_lines(text: bytes, events: int) -> None:
    assert len(lines(text)) == events


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "it is not JSON"),
        (b'{"a": secret', "it is not JSON: .* at character 6$"),
        (b"[1]", "not a JSON object but a number"),
        (b"null", "not a JSON object but null"),
        (b'{"a": NaN}', "NaN is not a JSON value$"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b'{"a": "\\ud800"}', "half of a pair of surrogates"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": {"b": 1e999}}', "a number that is too large$"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number that is too long"),
        (b'{"a": 1}\n{"secret"\n', "it is not JSON"),
    ],
)
def test_invalid_text_is_refused_without_repeating_it(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        lines(text)
    assert "secret" not in str(caught.value)
