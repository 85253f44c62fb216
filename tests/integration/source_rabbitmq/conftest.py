"""Fixtures of the RabbitMQ source: a real broker, a connection of another application, a queue for each test."""

import gc
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from support.rabbitmq import Peer, RabbitMQ, breakable_rabbitmq, new_queue, peer, shared_rabbitmq


@pytest.fixture
def broker() -> RabbitMQ:
    return shared_rabbitmq()


@pytest.fixture
def own() -> RabbitMQ:
    """A running broker that a test in the group `breaks_rabbitmq` may stop or kill."""
    broker = breakable_rabbitmq()
    if not broker.runs:
        broker.start()
    return broker


@pytest.fixture
async def other(broker: RabbitMQ) -> AsyncIterator[Peer]:
    async with peer(broker) as connected:
        yield connected


@pytest.fixture
def queue() -> str:
    return new_queue()


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Fail where asyncio logs that an exception or a task of the module's tests was lost."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("asyncio").addHandler(handler)
    yield
    gc.collect()
    logging.getLogger("asyncio").removeHandler(handler)
    assert [text for text in said if "never retrieved" in text or "was destroyed" in text] == []
