"""AMQP frames that the library cannot decode. It would end the connection, and receive the same frame after each
reconnection; so what it cannot decode is removed before it reads the frame.

Layout of frames: AMQP 0-9-1, sections 2.3.5 and 4.2. RabbitMQ parses each message when it is published, so a value may
be unreadable here, but its length is always right.
"""

import asyncio
import struct

from pamqp import constants
from pamqp.commands import Basic, Connection
from pamqp.frame import frame_parts, unmarshal
from pamqp.header import ContentHeader

_HEAD = constants.FRAME_HEADER_SIZE
_CONTENT = struct.Struct(">HHQH")
"""A content header up to the values: class, weight, size of the body, flags of the properties."""
_REDUCED = 1
"""The weight of a content header that was reduced: a server always sends 0."""
_DEEPEST = 100
_DELIVER = Basic.Deliver.index.to_bytes(4, "big")
_BLOCKED = Connection.Blocked.index.to_bytes(4, "big")
_UNBLOCKED = Connection.Unblocked.index.to_bytes(4, "big")


class ReadableFrames(asyncio.StreamReader):
    """The bytes of a connection as `readable` frames. The library reads them with `readexactly` only, and never beyond
    the end of a frame."""

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
    """Return a frame that the library can decode: a content header without its properties if it cannot decode them, a
    delivery with a question mark for each byte that is not UTF-8."""
    if frame[0] == constants.FRAME_HEADER and not _is_decodable(frame):
        class_id, _, size, _ = _CONTENT.unpack_from(frame, _HEAD)
        payload = _CONTENT.pack(class_id, _REDUCED, size, 0)
        return b"".join((frame[:3], len(payload).to_bytes(4, "big"), payload, constants.FRAME_END_CHAR))
    if frame[0] == constants.FRAME_METHOD and frame.startswith(_DELIVER, _HEAD):
        return _in_utf8(frame)
    return frame


def is_reduced(header: ContentHeader) -> bool:
    """Whether the properties of a message were removed."""
    return header.weight == _REDUCED


def _is_decodable(frame: bytes) -> bool:
    """Whether the library can decode a content header, and write its headers into a dead letter."""
    try:
        _, _, found = unmarshal(frame)
    except Exception:  # noqa: BLE001 - what a stranger wrote may make it raise anything
        return False
    assert isinstance(found, ContentHeader)
    assert found.properties is not None
    return not _is_deep(found.properties.headers)


def _is_deep(value: object, left: int = _DEEPEST) -> bool:
    """Whether tables and lists are nested so deeply that the library may fail to write what it can read."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not left or any(_is_deep(one, left - 1) for one in inner)


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
