"""Messages of PostgreSQL's wire protocol, version 3, in text format. Pure: bytes in, bytes out."""

import struct
from collections.abc import Iterable, Sequence

from support.materialize.columns import Column
from support.materialize.errors import ServerError
from support.materialize.history import Row

PROTOCOL_3 = 196608
CANCEL_REQUEST = 80877102
ENCRYPTION_REQUESTS = frozenset({80877103, 80877104})
"""For TLS and for GSSAPI."""

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"})
_SPECIAL = frozenset("\\\t\n\r\b\f\v")


def startup_parameters(body: bytes) -> dict[str, str]:
    """The parameters of a startup packet after its version."""
    words = [word.decode() for word in body.removesuffix(b"\0").split(b"\0")]
    return dict(zip(words[::2], words[1::2], strict=False))


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
    return message(b"E", _fields(failure.severity, failure.code, failure.message, failure.detail, failure.hint))


def notice(code: str, text: str, hint: str | None = None) -> bytes:
    return message(b"N", _fields("NOTICE", code, text, None, hint))


def _fields(severity: str, code: str, text: str, detail: str | None, hint: str | None) -> bytes:
    fields = {"S": severity, "C": code, "M": text, "D": detail, "H": hint}
    return "".join(f"{letter}{value}\0" for letter, value in fields.items() if value is not None).encode() + b"\0"


def command_complete(tag: str) -> bytes:
    return message(b"C", tag.encode() + b"\0")


def row_description(columns: Sequence[Column]) -> bytes:
    body = [struct.pack("!H", len(columns))]
    for column in columns:
        body.append(column.name.encode() + b"\0")
        body.append(struct.pack("!IHIhih", 0, 0, column.oid, column.length, column.modifier, 0))
    return message(b"T", b"".join(body))


def data_row(fields: Iterable[str | None]) -> bytes:
    encoded = [None if field is None else field.encode() for field in fields]
    parts = [b"\xff\xff\xff\xff" if field is None else struct.pack("!I", len(field)) + field for field in encoded]
    return message(b"D", struct.pack("!H", len(parts)) + b"".join(parts))


def copy_out(columns: int) -> bytes:
    """CopyOutResponse: text format overall and in every column."""
    return message(b"H", struct.pack(f"!BH{columns}H", 0, columns, *([0] * columns)))


def copy_data(*fields: str | None) -> bytes:
    """A line of COPY text."""
    line = "\t".join(
        "\\N" if f is None else (f if _SPECIAL.isdisjoint(f) else f.translate(_ESCAPES)) for f in fields
    ).encode()
    return message(b"d", line + b"\n")


def copy_update(timestamp: int, diff: int, row: Row) -> bytes:
    """A change of a row in a SUBSCRIBE with progress."""
    return copy_data(str(timestamp), "f", str(diff), *row)


READY = message(b"Z", b"I")
PARSE_COMPLETE = message(b"1")
NO_PARAMETERS = message(b"t", b"\0\0")
NO_DATA = message(b"n")
COPY_DONE = message(b"c")
