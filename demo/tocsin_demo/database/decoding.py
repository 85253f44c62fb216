"""From the bytes of an event to the row of a table, by the rules that the views in Materialize apply. Pure."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tocsin_producer.events import CUSTOMER_EVENTS, WINNING_BIDS

LARGEST = 65_536  # bytes
FUTURE_LIMIT = 600.0
"""Seconds that an event may be dated ahead; up to this it waits for its time."""

Row = tuple[int | str | Decimal | datetime | None, ...]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    CUSTOMER_EVENTS: ("customer_id", "customer_name", "deployment_type", "organization", "event_type", "event_at"),
    WINNING_BIDS: ("auction_id", "item", "amount", "bidder", "bid_at"),
}

_SAMPLE = 200
_INTEGER = re.compile(r"[0-9]{1,9}")
_EPOCH = re.compile(r"[0-9]{9,10}")
_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


class RejectedError(Exception):
    """An event that has no place in its table; the text says why."""


def decode(topic: str, value: bytes | None, *, received: float) -> Row:
    """The row, with the columns of `COLUMNS[topic]`.

    Args:
        received: when it came, in epoch seconds.

    Raises:
        RejectedError: the value is not such an event.
    """
    reader = _READERS.get(topic)
    if reader is None:
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
    return reader(fields, received)


def sample(value: bytes | None) -> str:
    """The beginning of a value in a form that any text column can hold."""
    return "" if value is None else value[:_SAMPLE].decode(errors="backslashreplace").replace("\0", "\\x00")


def _customer_event(fields: dict[str, Any], received: float) -> Row:
    return (
        int(_matching(fields, "customer_id", _INTEGER)),
        _text(fields, "customer_name"),
        _required(fields, "deployment_type"),
        _required(fields, "organization"),
        _text(fields, "event_type"),
        _time(fields, "event_ts", received),
    )


def _winning_bid(fields: dict[str, Any], received: float) -> Row:
    return (
        int(_matching(fields, "auction_id", _INTEGER)),
        _required(fields, "item"),
        Decimal(_matching(fields, "amount", _AMOUNT)),
        _text(fields, "bidder"),
        _time(fields, "bid_ts", received),
    )


_READERS: Mapping[str, Callable[[dict[str, Any], float], Row]] = {
    CUSTOMER_EVENTS: _customer_event,
    WINNING_BIDS: _winning_bid,
}


def _matching(fields: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = fields.get(name)
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    if not pattern.fullmatch(text):
        raise RejectedError(f"{name} is missing or invalid")
    return text


def _time(fields: dict[str, Any], name: str, received: float) -> datetime:
    seconds = int(_matching(fields, name, _EPOCH))
    if seconds > received + FUTURE_LIMIT:
        raise RejectedError(f"{name} is in the future")
    return datetime.fromtimestamp(seconds, tz=UTC)


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise RejectedError(f"{name} is not text")
    # JSON can say what PostgreSQL's text cannot hold: NUL, and half a surrogate pair.
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise RejectedError(f"{name} has a character that text cannot hold")
    return value


def _required(fields: dict[str, Any], name: str) -> str:
    value = _text(fields, name)
    if value is None:
        raise RejectedError(f"{name} is missing")
    return value
