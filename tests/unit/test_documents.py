"""JSON documents as rows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.model import Column
from tocsin.sources.documents import lines, parsed, row_of
from tocsin.values import jsonable, typed

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
    for document in ({"n" * 65: 1}, {f"n{number}": 1 for number in range(65)}):
        assert row_of(document)[0] is not row_of(document)[0]


def test_text_that_cannot_be_written_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """How deep a document may be nested differs between reading and writing."""

    def fail(_: object) -> str:
        raise RecursionError

    monkeypatch.setattr("tocsin.sources.documents._COMPACT.encode", fail)
    with pytest.raises(ValueError, match="nested too deeply"):
        parsed(b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}")


@pytest.mark.parametrize(
    ("text", "events"), [(b'{"a": 1}', 1), (b"[]", 0), (b'[{"a": 1}, {}]', 2), (b'{"a": 1}\n{"b": 2}\n', 2)]
)
def test_text_holds_one_document_list_or_lines(text: bytes, events: int) -> None:
    assert len(lines(text)) == events


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "it is not JSON"),
        (b"secret", "it is not JSON"),
        (b"[1]", "not a JSON object but a number"),
        (b"null", "not a JSON object but null"),
        (b"NaN", "NaN is not a JSON value"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b'{"a": "\\ud800"}', "half of a pair of surrogates"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": {"b": 1e999}}', "a number that is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number that is too long"),
        (b'{"a": 1}\n{"secret"\n', "it is not JSON"),
    ],
)
def test_invalid_text_is_refused_without_repeating_it(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        lines(text)
    assert "secret" not in str(caught.value)
