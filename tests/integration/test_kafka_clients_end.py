"""Clients of the Kafka library end with their owner.

One that is left to the garbage collector may end in a thread of the library's own, which the library answers by ending
the process.
"""

import pytest

from support.ports import free_port
from tocsin.kafka import ENDED
from tocsin.kafka.producing import Record, Writer
from tocsin.sources.kafka.consuming import consumer_thread
from tocsin.sources.kafka.settings import Config


@pytest.fixture
def nowhere() -> str:
    """An address at which nothing listens."""
    return f"127.0.0.1:{free_port()}"


async def test_clients_of_a_source_end_with_it(nowhere: str) -> None:
    """Both the consumer and the admin client, although a reference to them remains."""
    config = Config.model_validate({"bootstrap_servers": [nowhere], "group": "g"})
    async with consumer_thread("orders", config, {}) as consumer:
        admin = consumer.admin()
    with pytest.raises(RuntimeError, match="closed"):
        admin.poll(0)
    with pytest.raises(RuntimeError, match="closed"):
        consumer.consumer.poll(0)


async def test_closed_writer_gives_each_record_up(nowhere: str) -> None:
    """Records written afterwards get a fault, not an exception."""
    writer = Writer({"bootstrap.servers": nowhere, "log_level": 0}, str)
    writer.close()
    [fault] = await writer.write([Record(topic="t", key=None, value=b"x", headers=[])])
    assert fault is not None
    assert fault.code() in ENDED
