"""What the tests of RabbitMQ as a source share: a real broker, a connection of somebody else, a queue of one's own."""

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
    """Nothing is left behind that Python would complain of later on."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
