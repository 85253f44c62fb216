"""A message of RabbitMQ as events, and what identifies it. Pure: no connection, no clock."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from tocsin.errors import RefusedReason
from tocsin.model import Event
from tocsin.sources.documents import parsed, row_of
from tocsin.sources.rabbitmq.frames import unreadable
from tocsin.sources.rabbitmq.settings import Config

MOST_NAMES = 100
"""Events that one message may bring."""

_ENVELOPED, _CONTENT = "body.message.alertTypes", "message"


class Unreadable(Exception):  # noqa: N818 - not an error of the program but of a message
    """Why a message brings no events; `detail` holds none of its content."""

    def __init__(self, reason: RefusedReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def delivered(message: DeliveredMessage) -> Basic.Deliver:
    """How a message got here."""
    assert isinstance(message.delivery, Basic.Deliver)
    return message.delivery


def tag(message: DeliveredMessage) -> int:
    """The number of a message within its channel."""
    return delivered(message).delivery_tag or 0


def returns(message: DeliveredMessage) -> int:
    """How often a quorum queue has got the message back, as the queue counts; 0 where it does not count.

    The count of a message that is delivered for the first time is of the queue in which it was before.
    """
    count = (message.header.properties.headers or {}).get("x-delivery-count")
    counts = isinstance(count, int) and not isinstance(count, bool) and count > 0
    return int(count) if counts and delivered(message).redelivered else 0  # type: ignore[arg-type]


def events(message: DeliveredMessage, id_: str, config: Config, now: Callable[[], float]) -> list[Event]:
    """The events that a message brings, one for each name. Raises Unreadable."""
    if lost := unreadable(message.header):
        raise Unreadable(RefusedReason.MALFORMED, f"its {' and '.join(lost)} cannot be read")
    if len(message.body) > config.max_bytes:
        raise Unreadable(RefusedReason.TOO_LARGE, f"it has {len(message.body)} bytes, more than {config.max_bytes}")
    try:
        document = parsed(message.body)
    except ValueError as error:
        raise Unreadable(RefusedReason.MALFORMED, str(error)) from None
    place, names = _named(message, document, config.places)
    fields = _unwrapped(document) if place == _ENVELOPED else document
    lacking = {name: value for name, value in config.defaults.items() if fields.get(name) is None}
    columns, row = row_of({**fields, **lacking})
    stamp = message.header.properties.timestamp
    at = round((now() if stamp is None else stamp.timestamp()) * 1000)
    return [Event(name=name, id=f"{id_}/{name}", at=at, columns=columns, row=row) for name in names]


def _named(message: DeliveredMessage, document: dict[str, Any], places: Sequence[str]) -> tuple[str, list[str]]:
    """The names of a message's events, each once, and where they were found. Raises Unreadable."""
    for place in places:
        found = _at(place, message, document)
        if found in (None, "", []):
            continue
        names = found if isinstance(found, list) else [found]
        if not all(isinstance(name, str) and name for name in names):
            raise Unreadable(RefusedReason.MALFORMED, f"{place} is neither a name nor a list of names")
        names = list(dict.fromkeys(names))
        if len(names) > MOST_NAMES:
            raise Unreadable(RefusedReason.MALFORMED, f"{place} has {len(names)} names, more than {MOST_NAMES}")
        return place, names
    raise Unreadable(RefusedReason.MISSING, f"it names no event: there is none at {' or '.join(places)}")


def _at(place: str, message: DeliveredMessage, document: dict[str, Any]) -> Any:
    if place == "routing_key":
        return delivered(message).routing_key
    if place == "type":
        return message.header.properties.message_type
    value: Any = document
    for step in place.split(".")[1:]:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _unwrapped(document: dict[str, Any]) -> dict[str, Any]:
    """What is in the envelope `{"message": {"alertTypes": [...], "message": ...}}`. Raises Unreadable."""
    content = document["message"].get(_CONTENT)
    if content is None:
        raise Unreadable(RefusedReason.MISSING, "body.message.message is missing")
    return content if isinstance(content, dict) else {_CONTENT: content}


class Identities:
    """What identifies messages over their redelivery: their `message_id`, or else an id that is made up here.

    The server marks what it delivers again, and delivers that first. So a made-up id of the connection before is given
    again to a message with the same content that is so marked, until the first message comes that is not. It is
    remembered in this process only, and only until the message is acknowledged.
    """

    def __init__(self) -> None:
        self._given: dict[int, tuple[bytes, str]] = {}
        self._back: dict[bytes, list[str]] = {}

    def reconnected(self) -> None:
        """Whatever was not acknowledged comes back now."""
        for content, id_ in self._given.values():
            self._back.setdefault(content, []).append(id_)
        self._given.clear()

    def of(self, message: DeliveredMessage) -> str:
        """The identity of a message that has just been delivered."""
        if not delivered(message).redelivered:
            self._back.clear()
        if own := message.header.properties.message_id:
            return own
        content = _content(message)
        known = self._back.get(content)
        id_ = known.pop(0) if known else uuid.uuid4().hex
        self._given[tag(message)] = content, id_
        return id_

    def acknowledged(self, last: int) -> None:
        """Messages up to this number will not come back."""
        for number in [number for number in self._given if number <= last]:
            del self._given[number]


def _content(message: DeliveredMessage) -> bytes:
    delivery, properties = delivered(message), message.header.properties
    about = (delivery.exchange, delivery.routing_key, properties.message_type, properties.timestamp)
    return hashlib.blake2b(message.body, digest_size=16, key=hashlib.sha256(repr(about).encode()).digest()).digest()
