"""Messages of a RabbitMQ queue into the ledger, next to the pattern that handles one at a time: prefetch 1, an
acknowledgement for each message, and nothing kept."""

import asyncio
import tempfile
import time
from pathlib import Path

import aio_pika

from bench.harness import Figure, ingesting
from support.rabbitmq import PASSWORD, USER, Peer, RabbitMQ, new_queue, peer, rabbitmq

MESSAGES = 30_000
PEER = 5_000
ALONE = 200
_IN_FLIGHT = 500


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory, rabbitmq(Path(directory)) as broker:
        await asyncio.to_thread(broker.start)
        async with peer(broker) as other:
            by_one = await _peer(broker, other)
            durable, alone = await _durable(broker, other)
    return [
        Figure(
            f"peer: {PEER:,} messages with aio-pika, prefetch 1 and an ack for each, nothing kept",
            f"{by_one:,.0f} messages/s",
        ),
        Figure(
            f"{MESSAGES:,} messages of a durable queue, into ledger and outbox, and acknowledged",
            f"{durable:,.0f} messages/s ({durable / by_one:.1f} x the peer)",
            ">= 3,000 messages/s",
            durable >= 3_000,
        ),
        Figure(
            f"one message alone, confirmed by RabbitMQ -> commit in the ledger, p50 of {ALONE}",
            f"{alone * 1000:.1f} ms",
        ),
    ]


async def _filled(other: Peer, count: int) -> str:
    """Return a new durable queue with so many messages."""
    queue = new_queue()
    await other.channel.declare_queue(queue, durable=True)

    async def send(number: int) -> None:
        order = {"order": number, "customer": "Ann", "total": number * 1.5}
        await other.send(queue, {"message": {"alertTypes": ["order"], "message": order}}, message_id=f"m-{number}")

    for start in range(0, count, _IN_FLIGHT):
        await asyncio.gather(*map(send, range(start, min(start + _IN_FLIGHT, count))))
    return queue


async def _peer(broker: RabbitMQ, other: Peer) -> float:
    """Messages a second, one after another."""
    queue = await _filled(other, PEER)
    connection = await aio_pika.connect_robust(broker.url())
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        declared = await channel.declare_queue(queue, durable=True)
        began, count = time.perf_counter(), 0
        async with declared.iterator() as messages:
            async for message in messages:
                await message.ack()
                count += 1
                if count == PEER:
                    return PEER / (time.perf_counter() - began)
    raise AssertionError("the queue ended early")


async def _durable(broker: RabbitMQ, other: Peer) -> tuple[float, float]:
    """Messages a second into the ledger, and the seconds that one alone takes there."""
    queue = await _filled(other, MESSAGES)
    source = {"type": "rabbitmq", "host": "127.0.0.1", "port": broker.port, "user": USER, "password": PASSWORD}
    began = time.perf_counter()
    async with ingesting({**source, "queue": queue}, labels=["customer"]) as offered:
        await offered.take(MESSAGES)
        rate = MESSAGES / (time.perf_counter() - began)
        alone = await offered.alone(
            lambda number: other.send(queue, {"alert": "order"}, message_id=f"alone-{number}"), ALONE
        )
    await other.until_waiting(queue, 0)
    return rate, alone
