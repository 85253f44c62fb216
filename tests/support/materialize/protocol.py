"""PostgreSQL's wire protocol, version 3: bytes to messages and messages to bytes. Pure: no I/O.

Only what a client of Materialize meets, and text format only. Message layouts follow the PostgreSQL manual, chapter
"Frontend/Backend Protocol"; which fields the server fills in is taken from the recordings.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from support.materialize.columns import Column
from support.materialize.errors import ServerError
from support.materialize.history import Row

PROTOCOL_3 = 196608
CANCEL_REQUEST = 80877102
SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104

NULL_FIELD = b"\xff\xff\xff\xff"

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"})
_SPECIAL = frozenset("\\\t\n\r\b\f\v")


class ProtocolError(Exception):
    """The client sent something that is not in the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup:
    """The first packet of a connection: its code and what follows.

    Attributes:
        code: protocol version, or one of the request codes above.
        parameters: of a protocol 3 startup.
        key: process id and secret of a cancel request.
    """

    code: int
    parameters: dict[str, str]
    key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parse:
    name: str
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    portal: str
    statement: str
    parameters: tuple[str | None, ...]
    result_formats: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What Describe and Close are about: ``S`` a prepared statement, ``P`` a portal."""

    kind: str
    name: str


def startup(body: bytes) -> Startup:
    """Decode a startup packet without its length."""
    (code,) = struct.unpack_from("!I", body)
    if code == CANCEL_REQUEST:
        return Startup(code=code, parameters={}, key=body[4:])
    if code >> 16 != PROTOCOL_3 >> 16:
        return Startup(code=code, parameters={})
    words = [word.decode() for word in body[4:].rstrip(b"\0").split(b"\0")]
    if len(words) % 2:
        words.append("")
    return Startup(code=PROTOCOL_3, parameters=dict(zip(words[::2], words[1::2], strict=True)))


def query(body: bytes) -> str:
    return body.rstrip(b"\0").decode()


def parse(body: bytes) -> Parse:
    name, sql, _ = body.split(b"\0", 2)
    return Parse(name=name.decode(), sql=sql.decode())


def bind(body: bytes) -> Bind:
    """Decode a Bind whose parameters are in text format.

    Raises:
        ProtocolError: a parameter is in binary.
    """
    portal, statement, rest = body.split(b"\0", 2)
    formats, at = _shorts(rest, 0)
    if any(formats):
        raise ProtocolError("binary parameters are not modelled")
    (count,) = struct.unpack_from("!H", rest, at)
    at += 2
    parameters: list[str | None] = []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", rest, at)
        at += 4
        if length < 0:
            parameters.append(None)
        else:
            parameters.append(rest[at : at + length].decode())
            at += length
    results, _ = _shorts(rest, at)
    return Bind(
        portal=portal.decode(), statement=statement.decode(), parameters=tuple(parameters), result_formats=results
    )


def target(body: bytes) -> Target:
    return Target(kind=chr(body[0]), name=body[1:].rstrip(b"\0").decode())


def execute(body: bytes) -> tuple[str, int]:
    """Decode an Execute: the portal and the most rows wanted, 0 for all."""
    portal, rest = body.split(b"\0", 1)
    return portal.decode(), struct.unpack("!I", rest)[0]


def _shorts(body: bytes, at: int) -> tuple[tuple[int, ...], int]:
    (count,) = struct.unpack_from("!H", body, at)
    return struct.unpack_from(f"!{count}H", body, at + 2), at + 2 + 2 * count


# --- from the server


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def authentication_ok() -> bytes:
    return message(b"R", struct.pack("!I", 0))


def authentication_cleartext() -> bytes:
    return message(b"R", struct.pack("!I", 3))


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", name.encode() + b"\0" + value.encode() + b"\0")


def backend_key(key: bytes) -> bytes:
    return message(b"K", key)


def ready(status: str) -> bytes:
    return message(b"Z", status.encode())


def error(failure: ServerError) -> bytes:
    return message(b"E", _fields(failure.severity, failure.code, failure.message, failure.detail, failure.hint))


def notice(code: str, text: str, hint: str | None = None) -> bytes:
    return message(b"N", _fields("NOTICE", code, text, None, hint))


def _fields(severity: str, code: str, text: str, detail: str | None, hint: str | None) -> bytes:
    parts = [f"S{severity}", f"C{code}", f"M{text}"]
    if detail is not None:
        parts.append(f"D{detail}")
    if hint is not None:
        parts.append(f"H{hint}")
    return b"".join(part.encode() + b"\0" for part in parts) + b"\0"


def command_complete(tag: str) -> bytes:
    return message(b"C", tag.encode() + b"\0")


def row_description(columns: Sequence[Column]) -> bytes:
    body = [struct.pack("!H", len(columns))]
    for column in columns:
        body.append(column.name.encode() + b"\0")
        body.append(struct.pack("!IHIhih", 0, 0, column.oid, column.length, column.modifier, 0))
    return message(b"T", b"".join(body))


def parameter_description(oids: Sequence[int]) -> bytes:
    return message(b"t", struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def data_row(fields: Iterable[str | None]) -> bytes:
    parts = []
    for field in fields:
        if field is None:
            parts.append(NULL_FIELD)
        else:
            data = field.encode()
            parts.append(struct.pack("!I", len(data)) + data)
    return message(b"D", struct.pack("!H", len(parts)) + b"".join(parts))


def copy_out(columns: int) -> bytes:
    """CopyOutResponse: text format overall and in every column."""
    return message(b"H", struct.pack(f"!BH{columns}H", 0, columns, *([0] * columns)))


def copy_data(body: bytes) -> bytes:
    return message(b"d", body)


def copy_done() -> bytes:
    return message(b"c")


def copy_fields(fields: Row) -> bytes:
    """The fields of a line of COPY text, without the line's end."""
    return "\t".join(
        "\\N" if f is None else (f if _SPECIAL.isdisjoint(f) else f.translate(_ESCAPES)) for f in fields
    ).encode()


def copy_split(line: bytes) -> Row:
    """The fields of a line of COPY text, with or without the line's end: the inverse of `copy_fields`."""
    return tuple(_unescape(field) for field in line.decode().removesuffix("\n").split("\t"))


_UNESCAPES = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}


def _unescape(field: str) -> str | None:
    if field == "\\N":
        return None
    if "\\" not in field:
        return field
    out = []
    letters = iter(field)
    for letter in letters:
        if letter == "\\":
            following = next(letters, "\\")
            out.append(_UNESCAPES.get(following, following))
        else:
            out.append(letter)
    return "".join(out)


PARSE_COMPLETE = message(b"1")
BIND_COMPLETE = message(b"2")
CLOSE_COMPLETE = message(b"3")
NO_DATA = message(b"n")
PORTAL_SUSPENDED = message(b"s")
EMPTY_QUERY = message(b"I")
