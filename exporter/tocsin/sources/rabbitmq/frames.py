"""Received frames that the library cannot decode, made readable.

At such a frame the library ends the connection, and it would receive the frame again after each reconnection. Layout of
frames: AMQP 0-9-1, sections 2.3.5 and 4.2. RabbitMQ parses each message when it is published, so a value may be
unreadable here, but its length is always right.
"""

import asyncio
import struct
from collections.abc import Iterable
from typing import SupportsIndex

from pamqp import constants
from pamqp.commands import Basic, Connection
from pamqp.frame import FrameTypes, frame_parts, unmarshal
from pamqp.header import ContentHeader

_HEAD = constants.FRAME_HEADER_SIZE
_CONTENT = struct.Struct(">HHQH")
"""A content header up to the values: class, weight, size of the body, flags of the properties."""
_REDUCED = 1
"""The weight of a content header that was reduced: a server always sends 0."""
_DEEPEST = 100
_DELIVER = Basic.Deliver.index.to_bytes(4, "big")


class Frames(asyncio.StreamReader):
    """The bytes of a connection: whole frames, each `readable`; and what the library only logs."""

    blocked = ""
    """Why the server blocks publishing on this connection; empty if it does not."""
    closed = ""
    """Why the server closed the connection; empty if it did not."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._partial = bytearray()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self._partial.extend(data)
        at = 0
        while end := _end(self._partial, at):
            super().feed_data(self._read(bytes(self._partial[at:end])))
            at = end
        del self._partial[:at]

    def feed_eof(self) -> None:
        if self._partial:  # of a lost connection, or from a server of another protocol
            super().feed_data(self._partial)
            self._partial = bytearray()
        super().feed_eof()

    def _read(self, frame: bytes) -> bytes:
        made, found = readable(frame)
        match found:
            case Connection.Blocked():
                self.blocked = found.reason or "no reason given"
            case Connection.Unblocked():
                self.blocked = ""
            case Connection.Close():
                self.closed = found.reply_text or ""
        return made


def _end(data: bytearray, at: int) -> int:
    """Return where the frame ends that begins at `at`; 0 if it is not complete."""
    _, _, size = frame_parts(bytes(data[at : at + _HEAD]))
    end = at + _HEAD + (size or 0) + 1
    return end if size is not None and end <= len(data) else 0


def readable(frame: bytes) -> tuple[bytes, FrameTypes | None]:
    """Return a frame that the library can decode, and the frame decoded if it already could: a content header loses
    properties that cannot be decoded, a delivery has a question mark for each byte that is not UTF-8."""
    if frame[0] == constants.FRAME_BODY:
        return frame, None
    try:
        found = unmarshal(frame)[2]
        if not isinstance(found, ContentHeader) or not _is_deep(found.properties.headers):
            return frame, found
    except Exception:  # noqa: BLE001 - what a stranger wrote may make it raise anything
        if frame.startswith(_DELIVER, _HEAD):
            return _in_utf8(frame), None
    return (_reduced(frame) if frame[0] == constants.FRAME_HEADER else frame), None


def is_reduced(header: ContentHeader) -> bool:
    """Whether the properties of a message were removed."""
    return header.weight == _REDUCED


def _reduced(frame: bytes) -> bytes:
    class_id, _, size, _ = _CONTENT.unpack_from(frame, _HEAD)
    payload = _CONTENT.pack(class_id, _REDUCED, size, 0)
    return b"".join((frame[:3], len(payload).to_bytes(4, "big"), payload, constants.FRAME_END_CHAR))


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
