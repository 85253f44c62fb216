"""Messages of PostgreSQL's wire protocol, version 3, in text format, and types of columns. Pure.

The double needs the standard library only, since it also runs in a container of `make rehearse`.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from support.materialize.errors import ServerError

Row = tuple[str | None, ...]
"""The text of each field, None for NULL."""

ENCRYPTION_REQUESTS = frozenset({80877103, 80877104})
"""The codes of first packets that ask for TLS and for GSSAPI."""

_TYPES = """
bool 16, bytea 17, int8 20, int2 21, int4 23, text 25, oid 26, float4 700, float8 701, varchar 1043, date 1082,
time 1083, timestamp 1114, timestamptz 1184, interval 1186, numeric 1700, uuid 2950, jsonb 3802, int4range 3904,
int4[] 1007, text[] 1009, interval[] 1187, uint4 16462, uint8 16464, mz_timestamp 16552, text list 20187,
map[text=>int4] 20188
"""
"""Types and their numbers. Those from 16384 on are Materialize's; lists and maps made by users have one that no client
knows."""
_OIDS = {name: int(oid) for name, oid in (pair.strip().rsplit(" ", 1) for pair in _TYPES.split(","))}

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"})
_SPECIAL = frozenset("\\\t\n\r\b\f\v")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a row description."""

    name: str
    oid: int


def column(name: str, kind: str) -> Column:
    """A column of a type by its name. Raises KeyError for a type that is not in the table."""
    return Column(name, _OIDS[kind])


PREFIX = (column("mz_timestamp", "numeric"), column("mz_progressed", "bool"), column("mz_diff", "int8"))
"""The first columns of a SUBSCRIBE with progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer to a statement."""

    tag: str
    columns: Sequence[Column] = ()
    rows: Sequence[Row] = ()

    def messages(self) -> bytes:
        head = row_description(self.columns) if self.columns else b""
        return head + b"".join(map(_data_row, self.rows)) + command_complete(self.tag)


def strings(body: bytes) -> list[str]:
    """Texts that each end with a zero byte."""
    return [text.decode() for text in body.split(b"\0")[:-1]]


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def authentication(code: int) -> bytes:
    """0: the client is in. 3: it has to send a password."""
    return message(b"R", struct.pack("!I", code))


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", f"{name}\0{value}\0".encode())


def error(failure: ServerError) -> bytes:
    fields = {"S": failure.severity, "C": failure.code, "M": failure.message, "D": failure.detail, "H": failure.hint}
    text = "".join(f"{letter}{value}\0" for letter, value in fields.items() if value is not None)
    return message(b"E", text.encode() + b"\0")


def command_complete(tag: str) -> bytes:
    return message(b"C", tag.encode() + b"\0")


def row_description(columns: Sequence[Column]) -> bytes:
    parts = [one.name.encode() + b"\0" + struct.pack("!IHIhih", 0, 0, one.oid, -1, -1, 0) for one in columns]
    return message(b"T", struct.pack("!H", len(columns)) + b"".join(parts))


def _data_row(fields: Row) -> bytes:
    encoded = [None if field is None else field.encode() for field in fields]
    parts = [b"\xff\xff\xff\xff" if field is None else struct.pack("!I", len(field)) + field for field in encoded]
    return message(b"D", struct.pack("!H", len(parts)) + b"".join(parts))


def copy_out(columns: int) -> bytes:
    """CopyOutResponse: text format overall and in every column."""
    return message(b"H", struct.pack(f"!BH{columns}H", 0, columns, *([0] * columns)))


def copy_line(fields: Iterable[str | None]) -> bytes:
    """A line of COPY text."""
    texts = ("\\N" if f is None else f if _SPECIAL.isdisjoint(f) else f.translate(_ESCAPES) for f in fields)
    return message(b"d", "\t".join(texts).encode() + b"\n")


READY = message(b"Z", b"I")
PARSE_COMPLETE = message(b"1")
NO_PARAMETERS = message(b"t", b"\0\0")
NO_DATA = message(b"n")
COPY_DONE = message(b"c")
