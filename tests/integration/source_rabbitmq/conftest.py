"""Fixtures of the RabbitMQ source: a real broker, a connection of another application, a queue for each test."""

import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from support.rabbitmq import Peer, RabbitMQ, new_queue, peer, shared_rabbitmq


@pytest.fixture
def broker() -> RabbitMQ:
    return shared_rabbitmq()


@pytest.fixture
async def other(broker: RabbitMQ) -> AsyncIterator[Peer]:
    async with peer(broker) as connected:
        yield connected


@pytest.fixture
def queue() -> str:
    return new_queue()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail on errors that asyncio logs when objects of the test are freed."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
