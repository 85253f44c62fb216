"""From the bytes of an event to the row of a table, by the rules of the views in Materialize. Pure."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tocsin_producer.events import CUSTOMER_EVENTS, WINNING_BIDS

LARGEST = 65_536  # bytes
FUTURE_LIMIT = 600.0
"""Seconds that an event may be dated ahead; until then it waits for its time."""

Row = tuple[int | str | Decimal | datetime | None, ...]
_SAMPLE = 200


class RejectedError(Exception):
    """An event that has no place in its table; the text says why."""


def decode(topic: str, value: bytes | None, *, received: float) -> Row:
    """The row, with the columns of `COLUMNS[topic]`.

    Args:
        received: when it came, in epoch seconds.

    Raises:
        RejectedError: the value is not such an event.
    """
    if topic not in _FIELDS:
        raise RejectedError("no table for this topic")
    if value is None:
        raise RejectedError("null value")
    if len(value) > LARGEST:
        raise RejectedError(f"larger than {LARGEST} bytes")
    try:
        fields = json.loads(value.decode())
    except UnicodeDecodeError:
        raise RejectedError("not UTF-8") from None
    except (ValueError, RecursionError):
        raise RejectedError("not JSON") from None
    if not isinstance(fields, dict):
        raise RejectedError("not a JSON object")
    row = tuple(read(name, fields.get(name)) for name, (_, read) in _FIELDS[topic].items())
    for name, moment in zip(_FIELDS[topic], row, strict=True):
        if isinstance(moment, datetime) and moment.timestamp() > received + FUTURE_LIMIT:
            raise RejectedError(f"{name} is in the future")
    return row


def sample(value: bytes | None) -> str:
    """The beginning of a value in a form that any text column can hold."""
    return "" if value is None else value[:_SAMPLE].decode(errors="backslashreplace").replace("\0", "\\x00")


def _matching(pattern: str, convert: Callable[[str], Any]) -> Callable[[str, object], Any]:
    compiled = re.compile(pattern)

    def read(name: str, value: object) -> Any:
        text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
        if not compiled.fullmatch(text):
            raise RejectedError(f"{name} is missing or invalid")
        return convert(text)

    return read


def _text(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise RejectedError(f"{name} is not text")
    # JSON can hold what PostgreSQL's text cannot: NUL, and half a surrogate pair.
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise RejectedError(f"{name} has a character that text cannot hold")
    return value


def _required(name: str, value: object) -> str:
    text = _text(name, value)
    if text is None:
        raise RejectedError(f"{name} is missing")
    return text


_integer = _matching(r"[0-9]{1,9}", int)
_amount = _matching(r"[0-9]{1,12}(\.[0-9]{1,9})?", Decimal)
_time = _matching(r"[0-9]{9,10}", lambda text: datetime.fromtimestamp(int(text), tz=UTC))

_FIELDS: Mapping[str, Mapping[str, tuple[str, Callable[[str, object], Any]]]] = {
    CUSTOMER_EVENTS: {
        "customer_id": ("customer_id", _integer),
        "customer_name": ("customer_name", _text),
        "deployment_type": ("deployment_type", _required),
        "organization": ("organization", _required),
        "event_type": ("event_type", _text),
        "event_ts": ("event_at", _time),
    },
    WINNING_BIDS: {
        "auction_id": ("auction_id", _integer),
        "item": ("item", _required),
        "amount": ("amount", _amount),
        "bidder": ("bidder", _text),
        "bid_ts": ("bid_at", _time),
    },
}
"""Topic -> field -> column, and what reads the field."""
COLUMNS = {topic: tuple(column for column, _ in fields.values()) for topic, fields in _FIELDS.items()}
