"""The expressions that guard casts, against real decoders."""

import json
import re
from typing import Any

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from support.setup_server import shipped


def pattern(view: str) -> re.Pattern[str]:
    (item,) = [item for item in shipped() if item.action == "CREATE VIEW" and item.name == view]
    (found,) = re.findall("~ '([^']+)'", item.text)
    return re.compile(found.removesuffix("$") + r"\Z")


UTF8 = pattern("events_text")
FLAT = pattern("events_json")


def decodes(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def test_utf8_guard_agrees_with_decoder_at_edges() -> None:
    edges = (0x00, 0x01, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xDF, 0xFF)
    leads = (*range(0xE0, 0xF6), 0xFF)
    samples = [bytes((first, second)) for first in range(256) for second in range(256)]
    samples += [bytes((lead, a, b)) for lead in leads for a in edges for b in edges]
    samples += [bytes((lead, a, b, c)) for lead in leads for a in edges for b in edges for c in edges]
    assert [data for data in samples if bool(UTF8.match(data.hex())) is not decodes(data)] == []


FRAGMENTS = st.sampled_from(
    [
        *'{}":,[] -0179\t\n\u00a0\u2028\x0b\x1f\x7fé\\\U0001f355',
        *('"a"', "\\u", "0000", "d83d", "\\ud83d\\udf55", ".5", "e9", "E-7", "1e99", "9" * 18, "true", "null"),
    ]
)
OBJECTS = st.dictionaries(
    st.text(max_size=4), st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6), max_size=4
)


@st.composite
def nearly_json(draw: st.DrawFn) -> str:
    text = json.dumps(draw(OBJECTS), ensure_ascii=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 2)))
        text = text[:start] + draw(FRAGMENTS) + text[end:]
    return text


@settings(max_examples=100, deadline=None)
@given(st.lists(nearly_json(), min_size=5, max_size=20))
def test_text_that_passes_json_guard_can_be_cast(connection: psycopg.Connection[Any], texts: list[str]) -> None:
    texts = [text for text in texts if "\0" not in text and not re.search("[\ud800-\udfff]", text)]
    passed = [text for text in texts if FLAT.match(text)]
    found: Any = connection.execute("SELECT one::jsonb FROM unnest(%s::text[]) AS one", (passed,)).fetchall()
    assert all(not isinstance(value, dict | list) for (row,) in found for value in row.values())
    # And PostgreSQL reads the expression as Python does.
    shipped = FLAT.pattern.removesuffix(r"\Z") + "$"
    rows = connection.execute("SELECT one ~ %s FROM unnest(%s::text[]) AS one", (shipped, texts)).fetchall()
    assert [row[0] for row in rows] == [text in passed for text in texts]
