"""Compressed bodies of messages. Pure: no connection, no clock."""

import zlib

from tocsin.errors import RefusedReason
from tocsin.sources.documents import Unreadable

_GZIP, _ZLIB, _RAW = 31, 15, -15
"""Formats, as zlib's `wbits`. Some senders call the last one `deflate`, too."""


def known(encoding: str) -> bool:
    """Whether `inflated` knows a content encoding."""
    return encoding.lower() in {"gzip", "x-gzip", "deflate"}


def inflated(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body without its content encoding, a known one. Raises Unreadable, also for more than `limit` bytes."""
    with_header = body[:1] and body[0] & 0x0F == zlib.DEFLATED
    unzip = zlib.decompressobj(_GZIP if "gzip" in encoding.lower() else _ZLIB if with_header else _RAW)
    try:
        whole = unzip.decompress(body, limit + 1)
    except zlib.error:
        raise Unreadable(
            RefusedReason.MALFORMED, f"it is not {encoding}, though its content encoding says so"
        ) from None
    if len(whole) > limit:
        raise Unreadable(RefusedReason.TOO_LARGE, f"it has more than {limit} bytes, decompressed")
    if not unzip.eof or unzip.unused_data:
        raise Unreadable(RefusedReason.MALFORMED, f"its {encoding} does not end where the body ends")
    return whole
