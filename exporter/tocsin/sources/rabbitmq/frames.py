"""AMQP frames that the library cannot decode. It would end the connection, and receive the same frame after each
reconnection; so what it cannot decode is removed before it reads the frame.

Layout of frames: AMQP 0-9-1, sections 2.3.5 and 4.2. RabbitMQ parses each message when it is published, so a value may
be unreadable here, but its length is always right.
"""

import asyncio
import struct
from typing import NoReturn

from pamqp import constants
from pamqp.commands import Basic, Connection
from pamqp.decode import by_type
from pamqp.frame import frame_parts, unmarshal
from pamqp.header import ContentHeader

_HEAD = constants.FRAME_HEADER_SIZE
_CONTENT = struct.Struct(">HHQH")
"""A content header up to the values: class, weight, size of the body, flags of the properties."""
_FIXED = {"octet": 1, "timestamp": 8}
_DEEPEST = 100
_DELIVER = Basic.Deliver.index.to_bytes(4, "big")
_BLOCKED = Connection.Blocked.index.to_bytes(4, "big")
_UNBLOCKED = Connection.Unblocked.index.to_bytes(4, "big")


class ReadableFrames(asyncio.StreamReader):
    """The bytes of a connection as `readable` frames. The library reads them with `readexactly` only, and never beyond
    the end of a frame. Anything else raises RuntimeError: it would bypass the filter."""

    blocked = ""
    """Why the server blocks publishing on this connection; empty if it does not."""

    _frame = b""
    _at = 0

    async def readexactly(self, n: int) -> bytes:
        if self._at == len(self._frame):
            self._frame, self._at = await self._following(), 0
        part = self._frame[self._at : self._at + n]
        if len(part) != n:
            raise RuntimeError("the library aiormq reads beyond the end of a frame; install an earlier version")
        self._at += n
        return part

    async def read(self, n: int = -1) -> NoReturn:
        del n
        raise NotImplementedError("the library aiormq does not read frame by frame; install an earlier version")

    async def readline(self) -> NoReturn:
        await self.read()

    async def readuntil(self, separator: object = b"\n") -> NoReturn:
        del separator
        await self.read()

    async def _following(self) -> bytes:
        head = await super().readexactly(_HEAD)
        if head.startswith(constants.AMQP):  # not a frame: the server has another version of the protocol
            return head
        _, _, size = frame_parts(head)
        frame = head + await super().readexactly((size or 0) + 1)
        if frame.startswith((_BLOCKED, _UNBLOCKED), _HEAD):
            self.blocked = _reason(frame) if frame.startswith(_BLOCKED, _HEAD) else ""
        return readable(frame)


def _reason(frame: bytes) -> str:
    """Return the reason in a `connection.blocked`, which the library only logs."""
    at = _HEAD + len(_BLOCKED)
    return frame[at + 1 : at + 1 + frame[at]].decode(errors="replace") or "no reason given"


def readable(frame: bytes) -> bytes:
    """Return a frame that the library can decode: a content header without properties that it cannot decode (see
    `unreadable`), a delivery with a question mark for each byte that is not UTF-8."""
    if frame[0] == constants.FRAME_HEADER:
        return frame if _is_decodable(frame) else _reduced(frame)
    if frame[0] == constants.FRAME_METHOD and frame.startswith(_DELIVER, _HEAD):
        return _in_utf8(frame)
    return frame


def unreadable(header: ContentHeader) -> list[str]:
    """Return the AMQP names of the properties that were removed from a message."""
    taken = (name for name, flag in Basic.Properties.flags.items() if header.weight & flag)
    return ["type" if name == "message_type" else name for name in taken]


def _is_decodable(frame: bytes) -> bool:
    """Whether the library can decode a content header."""
    try:
        _, _, found = unmarshal(frame)
    except Exception:  # noqa: BLE001 - what a stranger wrote may make it raise anything
        return False
    assert isinstance(found, ContentHeader)
    assert found.properties is not None
    return not _deep(found.properties.headers)


def _reduced(frame: bytes) -> bytes:
    class_id, _, size, flags = _CONTENT.unpack_from(frame, _HEAD)
    at, lost, kept = _HEAD + _CONTENT.size, 0, []
    for name, flag in Basic.Properties.flags.items():
        if not flags & flag:
            continue
        kind = Basic.Properties.amqp_type(name)
        end = at + _length(kind, frame, at)
        if _decodes(frame[at:end], kind):
            kept.append(frame[at:end])
        else:
            lost |= flag
        at = end
    # A server always sends weight 0, so this mark cannot come from outside.
    payload = b"".join((_CONTENT.pack(class_id, lost, size, flags & ~lost), *kept))
    return b"".join((frame[:3], len(payload).to_bytes(4, "big"), payload, constants.FRAME_END_CHAR))


def _decodes(raw: bytes, kind: str) -> bool:
    try:
        _, value = by_type(raw, kind)
    except Exception:  # noqa: BLE001 - as above
        return False
    return not _deep(value)


def _deep(value: object, left: int = _DEEPEST) -> bool:
    """Whether tables and lists are nested so deeply that the library may fail to write them into a dead letter although
    it can read them."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not left or any(_deep(one, left - 1) for one in inner)


def _length(kind: str, frame: bytes, at: int) -> int:
    if kind == "shortstr":
        return 1 + frame[at]
    if kind == "table":
        return 4 + int.from_bytes(frame[at : at + 4], "big")
    return _FIXED[kind]


def _in_utf8(frame: bytes) -> bytes:
    at = _HEAD + len(_DELIVER)
    at += 1 + frame[at] + 9  # consumer tag, delivery tag, redelivered
    parts = [frame[:at]]
    while at < len(frame) - 1:  # exchange and routing key
        end = at + 1 + frame[at]
        text = frame[at + 1 : end].decode(errors="surrogateescape")
        parts += frame[at : at + 1], text.encode(errors="replace")
        at = end
    return b"".join((*parts, frame[at:]))
