"""Values of rows as PostgreSQL takes them: text with a NUL, and many rows as one argument."""

import json
from collections.abc import Iterable, Sequence

from psycopg.types.string import TextLoader

from tocsin.ledger.rows import encode

_MARK = "\x01"
"""What a text with a NUL begins with, which PostgreSQL cannot store."""


def storable(text: str) -> str:
    """A text that PostgreSQL stores, and `Text` reads unchanged."""
    return _MARK + json.dumps(text) if "\0" in text or text.startswith(_MARK) else text


def rows_text(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as JSON for `json_to_recordset`: one argument, whose cost does not grow with their number."""
    return encode([dict(zip(names, row, strict=True)) for row in rows])


def names_text(names: Iterable[str]) -> str:
    """Hexadecimal names as an array of PostgreSQL. Joined by hand: psycopg takes ten times as long."""
    return f"{{{','.join(names)}}}"


class Text(TextLoader):
    """Reads text as it was before `storable`."""

    def load(self, data: bytes | bytearray | memoryview) -> str:
        text = super().load(data)
        assert isinstance(text, str)
        return str(json.loads(text[1:])) if text.startswith(_MARK) else text
