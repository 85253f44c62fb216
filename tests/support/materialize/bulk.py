"""Many rows encoded once, so that a snapshot of a million of them costs the server next to nothing."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from support.materialize import protocol
from support.materialize.history import Row

_PLACEHOLDER = b"\xff" * 13
"""Stands for the timestamp. UTF-8 has no byte 255, and 13 digits last until the year 2286."""

_CHUNK = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """Rows as CopyData messages whose timestamp is still open.

    Attributes:
        count: number of rows.
        chunks: messages, some thousands to a chunk.
    """

    count: int
    chunks: tuple[bytes, ...]

    def at(self, timestamp: int) -> Iterable[bytes]:
        """The messages with their timestamp put in."""
        digits = str(timestamp).encode()
        if len(digits) != len(_PLACEHOLDER):
            raise ValueError(f"bulk rows need a timestamp of {len(_PLACEHOLDER)} digits, not {timestamp}")
        return (chunk.replace(_PLACEHOLDER, digits) for chunk in self.chunks)


def encode(rows: Iterable[Row]) -> Bulk:
    """Encode rows as the additions of a snapshot with progress."""
    chunks: list[bytes] = []
    messages: list[bytes] = []
    count = 0
    for row in rows:
        line = protocol.copy_fields(row)
        length = 4 + len(_PLACEHOLDER) + len(b"\tf\t1\t") + len(line) + 1
        messages.append(b"".join((b"d", struct.pack("!I", length), _PLACEHOLDER, b"\tf\t1\t", line, b"\n")))
        count += 1
        if len(messages) == _CHUNK:
            chunks.append(b"".join(messages))
            messages.clear()
    chunks.append(b"".join(messages))
    return Bulk(count=count, chunks=tuple(chunks))
