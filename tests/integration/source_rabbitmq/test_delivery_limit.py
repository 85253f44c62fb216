"""The delivery limit of RabbitMQ, which counts returned messages. Each fault here lasts longer than 21 tries, and a
quorum queue of RabbitMQ 4 drops a message at its 21st return."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from support.event_reading import reading
from support.intakes import Locked, Offered, intake_of_orders
from support.pipelines import Pauses, at_work
from support.rabbitmq import QUORUM_VHOST, Peer, RabbitMQ, breaks_rabbitmq, peer, shared_rabbitmq
from support.rabbitmq_packages import VERSION
from support.rabbitmq_reading import config, fault, source
from support.tcp_proxy import TcpProxy
from support.waiting import until, until_some
from tocsin.errors import SourceReason
from tocsin.exposition import Metrics, State
from tocsin.ledger.sqlite import SqliteLedger, open_ledger
from tocsin.sources.rabbitmq.stream import RabbitMQ as Source

TRIES = 23
"""More than the 21 returns after which a message is dropped."""

SERVERS = pytest.mark.parametrize(("version", "kind"), [(None, "classic"), (VERSION, "quorum")])


@pytest.fixture
def version() -> str | None:
    return VERSION


@pytest.fixture
def broker(version: str | None) -> RabbitMQ:
    return shared_rabbitmq(version)


@pytest.fixture
async def other(broker: RabbitMQ) -> AsyncIterator[Peer]:
    async with peer(broker) as connected:
        yield connected


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    made = open_ledger(tmp_path / "ledger.db")
    yield made
    await made.close()


async def declared(of: Source) -> None:
    """Declare the queue and the dead letters."""
    async with reading(of):
        pass


def orders(count: int) -> list[dict[str, Any]]:
    return [{"alert": "order", "n": n} for n in range(count)]


def numbers(count: int) -> set[str | None]:
    return {str(n) for n in range(count)}


@SERVERS
async def test_no_message_is_lost_while_ledger_is_locked(
    tmp_path: Path, broker: RabbitMQ, other: Peer, queue: str, ledger: SqliteLedger, kind: str
) -> None:
    """The ledger cannot be written for 23 tries with 400 messages in the queue."""
    made, locked, offered, pauses = source(broker, queue, queue_type=kind), Locked(ledger, TRIES), Offered(), Pauses()
    await declared(made)
    await other.send(queue, *orders(400))
    intake = intake_of_orders(tmp_path, made, locked, offered, sleep=pauses.sleep)
    async with at_work(intake):
        await until(lambda: locked.times == 0, "the ledger can be written again")
        await until(lambda: set(offered.values("n")) == numbers(400), "every message", within=30)
        await other.until_waiting(queue, 0)


@SERVERS
async def test_no_message_is_lost_while_dead_letters_fail(
    tmp_path: Path, broker: RabbitMQ, other: Peer, queue: str, ledger: SqliteLedger, kind: str
) -> None:
    """One message is not JSON and its dead letter gets to no queue for 23 tries; 400 good ones follow it."""
    made, offered, pauses = source(broker, queue, queue_type=kind), Offered(), Pauses()
    await declared(made)
    dead = await other.channel.get_queue(f"{queue}.dead", ensure=False)
    made = source(broker, queue, queue_type=kind, declare=False)
    await dead.unbind(f"{queue}.dead", "")
    await other.send(queue, b"not JSON", *orders(400))
    async with at_work(intake_of_orders(tmp_path, made, ledger, offered, sleep=pauses.sleep)):
        await until(lambda: len(pauses.seconds) >= TRIES, "many tries")
        await dead.bind(f"{queue}.dead", "")
        await until(lambda: set(offered.values("n")) == numbers(400), "every good message", within=30)
        [letter] = await other.taken(f"{queue}.dead", 1)
        await other.until_waiting(queue, 0)
    assert letter.body == b"not JSON"


async def test_messages_before_a_failing_dead_letter_are_acknowledged(
    tmp_path: Path, broker: RabbitMQ, other: Peer, queue: str, ledger: SqliteLedger
) -> None:
    """Only the message whose dead letter cannot be kept, and those after it, stay in the queue."""
    made, offered, pauses = source(broker, queue, queue_type="quorum"), Offered(), Pauses()
    await declared(made)
    dead = await other.channel.get_queue(f"{queue}.dead", ensure=False)
    await dead.unbind(f"{queue}.dead", "")
    await other.send(queue, *orders(5), b"not JSON", *orders(3))
    made = source(broker, queue, queue_type="quorum", declare=False)
    async with at_work(intake_of_orders(tmp_path, made, ledger, offered, sleep=pauses.sleep)):
        await until(lambda: len(pauses.seconds) > 3, "some tries")
    assert set(offered.values("n")) == numbers(5)
    await other.until_waiting(queue, 4)


@breaks_rabbitmq
async def test_no_message_is_lost_during_a_memory_alarm(
    tmp_path: Path, own: RabbitMQ, queue: str, ledger: SqliteLedger
) -> None:
    """RabbitMQ blocks publishers: the dead letter waits, and the good messages are acknowledged."""
    offered = Offered()
    made = source(own, queue, connect_timeout=2.0)
    await declared(made)
    async with peer(own) as other:
        await other.send(queue, *orders(300), b"not JSON")
    await asyncio.to_thread(own.control, "set_vm_memory_high_watermark", "absolute", "1MB")
    intake = intake_of_orders(tmp_path, made, ledger, offered)
    async with at_work(intake):
        await until(lambda: set(offered.values("n")) == numbers(300), "every good message")
        await until(lambda: "blocks publishing: low on memory" in intake.message, "the reason")

        async def one_is_left() -> bool:
            return f"{queue}\t1\n" in await asyncio.to_thread(own.control, "list_queues", "name", "messages")

        await until_some(one_is_left, "the good messages are acknowledged", within=60)
        await asyncio.to_thread(own.control, "set_vm_memory_high_watermark", "0.4")
        await until(lambda: intake.state is State.UP, "it goes on by itself")
    async with peer(own) as other:
        [letter] = await other.taken(f"{queue}.dead", 1)
        assert letter.body == b"not JSON"
        await other.until_waiting(queue, 0)


async def test_messages_near_the_limit_are_reported(
    tmp_path: Path, broker: RabbitMQ, other: Peer, queue: str, ledger: SqliteLedger
) -> None:
    """After ten returns the source says so, and waits a minute before it connects again."""
    made, offered, pauses, metrics = source(broker, queue, queue_type="quorum"), Offered(), Pauses(), Metrics("0")
    await declared(made)
    await other.send(queue, *orders(3))
    for _ in range(10):
        async with reading(made, acknowledging=False) as found:
            await found.until(3)
    locked = Locked(ledger, 1)
    reported: list[tuple[str, float | None]] = []

    async def sleep(seconds: float) -> None:
        gauge = metrics.registry.get_sample_value("tocsin_source_redeliveries", {"source": "q"})
        reported.append((intake.warning, gauge))
        await pauses.sleep(seconds)

    intake = intake_of_orders(tmp_path, made, locked, offered, metrics, sleep=sleep)
    async with at_work(intake):
        await until(lambda: set(offered.values("n")) == numbers(3), "every message")
        await until(lambda: not intake.warning, "they are acknowledged")
    [(warning, gauge), *_] = reported
    assert f"3 messages of the queue {queue} were returned to it 10 times or more, one of them 10 times" in warning
    assert gauge == 10
    assert metrics.registry.get_sample_value("tocsin_source_redeliveries", {"source": "q"}) == 0
    near = metrics.registry.get_sample_value("tocsin_source_near_delivery_limit_total", {"source": "q"})
    assert near == 3


async def test_reconnection_is_slow_near_the_limit(
    tmp_path: Path, broker: RabbitMQ, other: Peer, queue: str, ledger: SqliteLedger
) -> None:
    """A connection that is lost while a message is near the limit is opened again after a minute or more."""
    offered, pauses = Offered(), Pauses()
    async with TcpProxy("127.0.0.1", broker.port) as proxy:
        made = Source("q", config(broker, queue, queue_type="quorum", port=proxy.port), monotonic=lambda: 0.0)
        await declared(made)
        await other.send(queue, *orders(3))
        for _ in range(11):
            async with reading(made, acknowledging=False) as found:
                await found.until(3)
        async with at_work(intake_of_orders(tmp_path, made, Locked(ledger, 10**6), offered, sleep=pauses.sleep)):
            await until(lambda: len(pauses.seconds) > 3, "it holds the messages")
            await proxy.cut()
            await until(lambda: max(pauses.seconds) > 60, "a long pause")
    assert 120 <= max(pauses.seconds) <= 133


async def test_negative_delivery_limit_is_sent(broker: RabbitMQ, other: Peer, queue: str) -> None:
    """For RabbitMQ 4 it means no limit."""
    made = source(broker, queue, queue_type="quorum", queue_arguments={"x-delivery-limit": -1})
    await declared(made)
    await other.send(queue, *orders(1))
    for _ in range(TRIES):
        async with reading(made, acknowledging=False) as found:
            await found.until(1)
    assert await made.verify([]) == []
    await other.until_waiting(queue, 1)


@pytest.mark.parametrize("version", [None])
async def test_negative_delivery_limit_is_refused_by_older_servers(broker: RabbitMQ, queue: str) -> None:
    """They would drop a message at its first return."""
    made = source(broker, queue, queue_type="quorum", queue_arguments={"x-delivery-limit": -1})
    error = await fault(made)
    assert error.reason is SourceReason.SHAPE
    assert "drops a message at its first return" in str(error)
    assert [str(error)] == await made.verify([])


@pytest.mark.parametrize("settings", [{"declare": False}, {"declare": False, "queue_type": "quorum"}, {}])
async def test_stream_queue_is_refused(broker: RabbitMQ, other: Peer, queue: str, settings: dict[str, Any]) -> None:
    """A stream delivers only later messages: it is refused at the start and in the check, empty or not."""
    await other.channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "stream"})
    await other.channel.declare_exchange(f"{queue}.dead", "fanout", durable=True)
    made = source(broker, queue, **settings)
    error = await fault(made)
    assert error.reason is SourceReason.SHAPE
    [problem] = await made.verify([])
    assert f"the queue {queue} is a stream" in str(error)
    assert f"the queue {queue} is a stream" in problem


async def test_default_queue_type_of_vhost_is_not_used(broker: RabbitMQ, queue: str) -> None:
    """Tocsin declares the type of the queue, so an existing one fits after the default has changed."""
    made = source(broker, queue, vhost=QUORUM_VHOST)
    async with peer(broker, QUORUM_VHOST) as there:
        await there.channel.declare_queue(f"{queue}-other", durable=True)
        with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed):
            await there.channel.declare_queue(f"{queue}-other", durable=True, arguments={"x-queue-type": "classic"})
    async with peer(broker, QUORUM_VHOST) as there:
        await there.channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "classic"})
        async with reading(made) as found:
            await there.send(queue, *orders(2))
            await found.until(2)
        assert await made.verify([]) == []
