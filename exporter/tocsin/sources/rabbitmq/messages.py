"""A message of RabbitMQ as events, and what identifies it. Pure: no connection, no clock."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from aiormq.abc import DeliveredMessage

from tocsin.errors import RefusedReason
from tocsin.model import Event
from tocsin.sources.documents import Unreadable, readable, row_of
from tocsin.sources.encodings import inflated, known
from tocsin.sources.rabbitmq.frames import is_reduced
from tocsin.sources.rabbitmq.settings import Config

MAX_NAMES = 100
"""Events of one message at most."""

_ENVELOPED, _CONTENT = "body.message.alertTypes", "message"

_SECTION, _VALUE = b"\x00\x53", b"\x00\x53\x77"
"""How a section of AMQP 1.0 begins that is not `data`, and an `amqp-value`."""
_LENGTHS = {b"\xa0": 1, b"\xa1": 1, b"\xb0": 4, b"\xb1": 4}
"""The constructors of binary (a0, b0) and text (a1, b1), and how many bytes of a length follow."""


def tag(message: DeliveredMessage) -> int:
    """Return the delivery tag."""
    return message.delivery_tag or 0


def message_id(message: DeliveredMessage) -> str:
    """Return what identifies a message for its sender; empty if nothing does.

    An id of AMQP 1.0 that is binary or too long for AMQP 0-9-1 is in a header, where it is any bytes or text.
    """
    properties = message.header.properties
    if properties.message_id:
        return properties.message_id
    other = (properties.headers or {}).get("x-message-id")
    other = other.encode() if isinstance(other, str) else other
    return hashlib.blake2b(other, digest_size=16).hexdigest() if isinstance(other, bytes | bytearray) else ""


def events(message: DeliveredMessage, id_: str, config: Config, now: Callable[[], float]) -> list[Event]:
    """Return the events of a message, one for each name. Raises Unreadable."""
    if is_reduced(message.header):
        raise Unreadable(RefusedReason.MALFORMED, "its properties cannot be read")
    document = _document(message, config.max_bytes)
    place, names = _named(message, document, config.places)
    fields = _unwrapped(document) if place == _ENVELOPED else document
    lacking = {name: value for name, value in config.defaults.items() if fields.get(name) is None}
    columns, row = row_of({**fields, **lacking})
    stamp = message.header.properties.timestamp
    at = round((now() if stamp is None else stamp.timestamp()) * 1000)
    return [Event(name=name, id=f"{id_}/{name}", at=at, columns=columns, row=row) for name in names]


def _document(message: DeliveredMessage, limit: int) -> dict[str, Any]:
    """Return the object in the body. Raises Unreadable."""
    body, encoding = _body(message), message.header.properties.content_encoding or ""
    if known(encoding):
        body = inflated(body, encoding, limit)
        encoding = ""
    try:
        return readable(body, limit)
    except Unreadable as why:
        # Senders also write a character set there.
        if encoding.lower() in ("", "identity", "utf-8", "utf8") or why.reason is not RefusedReason.MALFORMED:
            raise
        hint = f"{why.detail}; its content encoding is {encoding[:30]!r}: send gzip, deflate or none"
        raise Unreadable(why.reason, hint) from None


def _body(message: DeliveredMessage) -> bytes:
    """Return the body. For text of an AMQP 1.0 client, RabbitMQ puts the encoded section there. Raises Unreadable."""
    body = message.body
    if message.header.properties.message_type != "amqp-1.0" or not body.startswith(_SECTION):
        return body
    length = _LENGTHS.get(body[3:4]) if body.startswith(_VALUE) else None
    if length is None:
        raise Unreadable(RefusedReason.MALFORMED, "it is a map, list or number of AMQP 1.0; send text or data")
    return body[len(_VALUE) + 1 + length :]


def _named(message: DeliveredMessage, document: dict[str, Any], places: Sequence[str]) -> tuple[str, list[str]]:
    """Return where the names of the events are, and each name once. Raises Unreadable."""
    for place in places:
        found = _at(place, message, document)
        if found in (None, "", []):
            continue
        names = found if isinstance(found, list) else [found]
        if not all(isinstance(name, str) and name for name in names):
            raise Unreadable(RefusedReason.MALFORMED, f"{place} is neither a name nor a list of names")
        names = list(dict.fromkeys(names))
        if len(names) > MAX_NAMES:
            raise Unreadable(RefusedReason.MALFORMED, f"{place} has {len(names)} names, more than {MAX_NAMES}")
        return place, names
    raise Unreadable(RefusedReason.MISSING, f"it names no event: there is none at {' or '.join(places)}")


def _at(place: str, message: DeliveredMessage, document: dict[str, Any]) -> Any:
    if place == "routing_key":
        return message.routing_key
    if place == "type":
        return message.header.properties.message_type
    value: Any = document
    for step in place.split(".")[1:]:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _unwrapped(document: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the envelope `{"message": {"alertTypes": [...], "message": ...}}`. Raises Unreadable."""
    content = document["message"].get(_CONTENT)
    if content is None:
        raise Unreadable(RefusedReason.MISSING, "body.message.message is missing")
    return content if isinstance(content, dict) else {_CONTENT: content}


class Identities:
    """The identity of messages over redelivery: that of their sender, or else an id generated here.

    The server delivers unacknowledged messages again first, and marks them. So a generated id of the last connection is
    used again for a marked message with the same content, until the first message without a mark. After its restart a
    server marks all messages of a classic queue: each id is then used again once, by the first equal message. It is
    kept in this process only, until the message is acknowledged.
    """

    def __init__(self) -> None:
        self._given: dict[int, tuple[bytes, str]] = {}
        self._back: dict[bytes, list[str]] = {}

    def reconnected(self) -> None:
        """Unacknowledged messages come back now."""
        for content, id_ in self._given.values():
            self._back.setdefault(content, []).append(id_)
        self._given.clear()

    def of(self, message: DeliveredMessage) -> str:
        """Return the identity of a message that was just delivered."""
        if not message.redelivered:
            self._back.clear()
        if own := message_id(message):
            return own
        content = _content(message)
        known = self._back.get(content)
        id_ = known.pop(0) if known else uuid.uuid4().hex
        self._given[tag(message)] = content, id_
        return id_

    def acknowledged(self, last: int) -> None:
        """Messages up to this delivery tag do not come back."""
        self._given = {number: given for number, given in self._given.items() if number > last}


def _content(message: DeliveredMessage) -> bytes:
    properties = message.header.properties
    about = (message.exchange, message.routing_key, properties.message_type, properties.timestamp)
    return hashlib.blake2b(message.body, digest_size=16, key=hashlib.sha256(repr(about).encode()).digest()).digest()
