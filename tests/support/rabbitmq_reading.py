"""RabbitMQ as a source of events for tests."""

import asyncio
from typing import Any

import pytest

from support.event_reading import Reader
from support.rabbitmq import GUEST_PASSWORD, PASSWORD, USER, RabbitMQ
from tocsin.errors import SourceError
from tocsin.model import Event
from tocsin.sources import rabbitmq as kind
from tocsin.sources.rabbitmq.stream import RabbitMQ as Source
from tocsin.values import reader

ENVELOPE = {"message": {"alertTypes": ["email", "sms"], "message": {"order": 7, "paid": False}}}


def source(broker: RabbitMQ, queue: str, **settings: Any) -> Source:
    """Build a source of a queue."""
    return kind.build("q", config(broker, queue, **settings))


def config(broker: RabbitMQ, queue: str, **settings: Any) -> kind.Config:
    """Return the settings of a source of a queue."""
    login = {"host": "127.0.0.1", "port": broker.port, "user": USER, "password": PASSWORD}
    return kind.Config.model_validate({**({} if "url" in settings else login), "queue": queue, **settings})


async def fault(source: Source) -> SourceError:
    """Return the error that ends a stream."""
    with pytest.raises(SourceError) as caught:
        async with asyncio.timeout(30), source.open([], position={}) as stream:
            await Reader(stream).run()
    text = str(caught.value)
    assert PASSWORD not in text
    assert GUEST_PASSWORD not in text
    return caught.value


def rows(events: list[Event]) -> list[tuple[str, dict[str, object]]]:
    return [(event.name, reader(event.columns)(event.row)) for event in events]
