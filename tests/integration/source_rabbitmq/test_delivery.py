"""RabbitMQ as a source of events, against a real broker: no message is lost or returned for ever, and several
workers can read one queue."""

import asyncio
import contextlib
import gc
import json
from typing import Any

import pytest

from support.event_reading import Reader, reading
from support.rabbitmq import Peer, RabbitMQ, breaks_rabbitmq, peer
from support.rabbitmq_reading import ENVELOPE, config, fault, rows, source
from support.tcp_proxy import TcpProxy
from support.waiting import SOON, until
from tocsin.errors import DeadLetterError, RefusedReason, SourceError, SourceReason
from tocsin.sources.rabbitmq import connection
from tocsin.sources.rabbitmq.dead_letters import Copy, DeadLetters


async def test_unacknowledged_message_returns_with_its_id(broker: RabbitMQ, other: Peer, queue: str) -> None:
    taken = source(broker, queue)
    async with reading(taken, acknowledging=False) as found:
        await other.send(queue, {"alert": "a"}, message_id="mine")
        await found.until(1)
    await other.until_waiting(queue, 1)
    # Another process, without the state of the first.
    async with reading(source(broker, queue)) as again:
        assert [event.id for event in await again.until(1)] == ["mine/a"]
    assert await other.counts(queue) == (0, 0)


async def test_returned_messages_without_message_id_keep_event_ids(broker: RabbitMQ, other: Peer, queue: str) -> None:
    taken = source(broker, queue)
    async with reading(taken, acknowledging=False) as found:
        await other.send(queue, {"alert": "a"}, {"alert": "a"}, {"alert": "b"})
        first = [event.id for event in await found.until(3)]
        await found.acknowledge(found.batches[0])
    await other.until_waiting(queue, 3 - len(found.batches[0].events))
    await other.send(queue, {"alert": "a"})
    kept = first[len(found.batches[0].events) :]
    async with reading(taken) as again:
        ids = [event.id for event in await again.until(len(kept) + 1)]
    assert ids[:-1] == kept
    assert ids[-1] not in first


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        (b"", "malformed", "it is not JSON"),
        (b'{"alert": "a", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "malformed", "nested too deeply"),
        ({}, "missing", "there is none at body.alert or body.alerts or body.message.alertTypes"),
        ({"message": {"alertTypes": ["a"]}}, "missing", "body.message.message is missing"),
        ({"alerts": ["a", {}]}, "malformed", "body.alerts is neither a name nor a list of names"),
        ({"alerts": [str(n) for n in range(101)]}, "malformed", "101 names, more than 100"),
        ({"alert": "a", "x": "y" * 300_000}, "too_large", "more than 200000"),
    ],
)
async def test_invalid_message_is_dead_lettered_with_the_reason(
    broker: RabbitMQ, other: Peer, queue: str, body: Any, reason: str, detail: str
) -> None:
    async with reading(source(broker, queue, max_bytes=200_000)) as found:
        await other.send(queue, body, {"alert": "fine"}, message_id="m-1", headers={"theirs": "kept"})
        assert [event.name for event in await found.until(1)] == ["fine"]
        [dead] = await other.taken(f"{queue}.dead", 1)
    assert dead.body == (body if isinstance(body, bytes) else json.dumps(body).encode())
    assert (dead.headers["x-tocsin-reason"], dead.headers["theirs"]) == (reason, "kept")
    assert detail in str(dead.headers["x-tocsin-detail"])
    assert (dead.headers["x-tocsin-source"], dead.headers["x-tocsin-routing-key"]) == ("q", queue)
    assert (dead.message_id, dead.routing_key, dead.delivery_mode) == ("m-1", queue, 2)
    [refused] = [refused for batch in found.batches for refused in batch.refused]
    assert (refused.id, refused.reason) == (f"{queue}.dead/m-1", RefusedReason(reason))
    assert await other.counts(queue) == (0, 0)
    assert await other.counts(f"{queue}.dead") == (0, 0)


async def test_unmatched_types_copy_message_to_dead_letters(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with reading(source(broker, queue), takes={"email"}) as found:
        await other.send(queue, ENVELOPE, {"alert": "email"}, {"alerts": [f"t{n}" for n in range(7)]})
        assert [event.name for event in await found.until(10)][:3] == ["email", "sms", "email"]
        partly, wholly = await other.taken(f"{queue}.dead", 2)
    assert json.loads(partly.body) == ENVELOPE
    assert (partly.headers["x-tocsin-reason"], partly.headers["x-tocsin-detail"]) == (
        "unmatched", "no alert takes sms",
    )  # fmt: skip
    assert wholly.headers["x-tocsin-detail"] == "no alert takes t0, t1, t2, t3, t4 and 2 more"
    assert await other.counts(queue) == (0, 0)


async def test_message_stays_queued_while_dead_lettering_fails(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with reading(source(broker, queue)):
        pass
    dead = await other.channel.declare_queue(f"{queue}.dead", passive=True)
    await dead.unbind(f"{queue}.dead", "")
    await other.send(queue, b"not JSON")
    error = await fault(source(broker, queue, declare=False))
    assert error.reason is SourceReason.MISSING
    assert f"the exchange {queue}.dead routes a dead letter to no queue; bind one" in str(error)
    await other.until_waiting(queue, 1)
    await dead.bind(f"{queue}.dead", "")
    async with reading(source(broker, queue, declare=False)):
        assert [dead.body for dead in await other.taken(f"{queue}.dead", 1)] == [b"not JSON"]


async def test_equal_message_ids_stay_queued_while_dead_lettering_fails(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
    """The library would take the first of two for confirmed when the server returns both."""
    async with reading(source(broker, queue)):
        pass
    dead = await other.channel.declare_queue(f"{queue}.dead", passive=True)
    await dead.unbind(f"{queue}.dead", "")
    await other.send(queue, b"not JSON", b"not JSON either", message_id="same")
    assert (await fault(source(broker, queue, declare=False))).reason is SourceReason.MISSING
    await other.until_waiting(queue, 2)
    await dead.bind(f"{queue}.dead", "")
    async with reading(source(broker, queue, declare=False)):
        letters = await other.taken(f"{queue}.dead", 2)
    assert [(letter.body, letter.message_id) for letter in letters] == [
        (b"not JSON", "same"),
        (b"not JSON either", "same"),
    ]


@breaks_rabbitmq
async def test_killed_broker_delivers_durable_messages_after_restart(own: RabbitMQ, queue: str) -> None:
    taken = source(own, queue)
    async with peer(own) as other, taken.open([], position={}) as stream:
        first = Reader(stream)
        first.acknowledging = False
        running = asyncio.create_task(first.run())
        await other.send(queue, *({"alert": "a", "n": n} for n in range(20)))
        await first.until(20)
        await asyncio.to_thread(own.kill)
        with pytest.raises(SourceError) as caught:
            await running
        assert caught.value.reason is SourceReason.DISCONNECTED
    refused = await fault(taken)
    assert refused.reason is SourceReason.CONNECT
    assert str(refused).startswith(f"RabbitMQ at 127.0.0.1:{own.port}: ")
    await asyncio.to_thread(own.start)
    async with reading(taken) as again, peer(own) as other:
        assert [row["n"] for _, row in rows(await again.until(20))] == list(range(20))
        await other.until_waiting(queue, 0)


@breaks_rabbitmq
async def test_equal_messages_keep_their_number_over_a_restart(own: RabbitMQ, queue: str) -> None:
    """A restarted server marks all messages as redelivered, also the one that it never delivered."""
    taken = source(own, queue, prefetch=1)
    async with reading(taken, acknowledging=False) as found, peer(own) as other:
        await other.send(queue, {"alert": "a"}, {"alert": "a"}, {"alert": "b"})
        [first] = await found.until(1)
        await other.until_waiting(queue, 2)
        await asyncio.to_thread(own.stop)
    await asyncio.to_thread(own.start)
    async with reading(taken) as again, peer(own) as other:
        await again.until(3)
        await other.send(queue, {"alert": "a"})
        events = await again.until(4)
    assert [event.name for event in events] == ["a", "a", "b", "a"]
    assert events[0].id == first.id
    assert len({event.id for event in events}) == 4


@breaks_rabbitmq
async def test_message_held_for_too_long_is_a_lost_connection(own: RabbitMQ, queue: str) -> None:
    settings = {"consumer_timeout": 500, "channel_tick_interval": 200}
    for name, value in settings.items():
        await asyncio.to_thread(own.control, "eval", f"application:set_env(rabbit, {name}, {value}).")
    try:
        async with source(own, queue).open([], position={}) as stream, peer(own) as other:
            reader = Reader(stream)
            reader.acknowledging = False
            await other.send(queue, {"alert": "a"})
            with pytest.raises(SourceError, match="timed out") as caught:
                await asyncio.wait_for(reader.run(), 30)
        assert caught.value.reason is SourceReason.DISCONNECTED
    finally:
        await asyncio.to_thread(own.stop)


async def test_silent_connection_is_noticed_by_heartbeats(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with TcpProxy("127.0.0.1", broker.port) as proxy:
        taken = source(broker, queue, port=proxy.port, heartbeat="1s")
        async with taken.open([], position={}) as stream:
            running = asyncio.create_task(Reader(stream).run())
            proxy.hold()
            with pytest.raises(SourceError) as caught:
                await running
            assert caught.value.reason is SourceReason.DISCONNECTED
            await proxy.cut()


async def test_silent_server_ends_with_connect_timeout(broker: RabbitMQ, queue: str) -> None:
    async with TcpProxy("127.0.0.1", broker.port) as proxy:
        proxy.hold()
        error = await fault(source(broker, queue, port=proxy.port, connect_timeout="300ms"))
        assert error.reason is SourceReason.CONNECT
        assert "no answer within 0.3 s" in str(error)
        await proxy.cut()


async def test_deleted_queue_ends_stream_and_is_recreated(broker: RabbitMQ, other: Peer, queue: str) -> None:
    taken = source(broker, queue)
    async with taken.open([], position={}) as stream:
        running = asyncio.create_task(Reader(stream).run())
        await other.channel.queue_delete(queue)
        with pytest.raises(SourceError, match="no longer delivers from the queue") as caught:
            await running
        assert caught.value.reason is SourceReason.DROPPED
    async with reading(taken) as found:
        await other.send(queue, {"alert": "a"})
        await found.until(1)


@breaks_rabbitmq
async def test_internal_error_of_server_names_the_queue(own: RabbitMQ, queue: str) -> None:
    """RabbitMQ 4.0 has such an error at each delivery of a message of AMQP 1.0 that it cannot convert."""
    async with source(own, queue).open([], position={}) as stream:
        running = asyncio.create_task(Reader(stream).run())
        await asyncio.to_thread(own.control, "eval", "[exit(Channel, failed) || Channel <- rabbit_channel:list()].")
        with pytest.raises(SourceError) as caught:
            await running
    assert "INTERNAL_ERROR" in str(caught.value)
    assert f"the server failed over the queue {queue} or one of its messages; see its log" in str(caught.value)


@breaks_rabbitmq
async def test_internal_error_over_a_dead_letter_names_its_queue(
    own: RabbitMQ, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A memory alarm holds the dead letter back, so that its connection is in use when it ends."""
    memory = ("set_vm_memory_high_watermark", "absolute", "1MB"), ("set_vm_memory_high_watermark", "0.4")
    # A dead letter waits for so long, and each command of the server may take seconds.
    async with source(own, queue, connect_timeout="60s").open([], position={}) as stream:
        async with peer(own) as other:
            await other.send(queue, b"not JSON")
        batch = await anext(aiter(stream.batches()))
        await asyncio.to_thread(own.control, *memory[0])
        try:
            publishing = asyncio.create_task(stream.acknowledge(batch, []))
            await until(lambda: "was blocked by: 'low on memory'" in caplog.text, "the dead letter is held back")
            await asyncio.to_thread(own.control, "eval", "[exit(Channel, failed) || Channel <- rabbit_channel:list()].")
            with pytest.raises(DeadLetterError, match=f"INTERNAL_ERROR.*the queue {queue}.dead or one"):
                await publishing
        finally:
            await asyncio.to_thread(own.control, *memory[1])


# Several workers.


async def test_prefetch_limits_unacknowledged_messages(broker: RabbitMQ, other: Peer, queue: str) -> None:
    taken = source(broker, queue, prefetch=5)
    async with reading(taken):
        pass
    # Sent before it reads, so that several are in one batch.
    await other.send(queue, *({"alert": "a", "n": n} for n in range(20)))
    async with reading(taken, acknowledging=False) as found:
        await found.until(5)
        await other.until_waiting(queue, 15)
        assert len(found.events) == 5
        for batch in list(found.batches):
            await found.acknowledge(batch)
        await found.until(10)
        await other.until_waiting(queue, 10)


async def test_each_message_goes_to_one_worker(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(reading(source(broker, queue, prefetch=1))) for _ in range(5)]
        await other.send(queue, *({"alert": "a", "n": n} for n in range(10)))
        await until(lambda: sum(len(worker.events) for worker in workers) >= 10, "ten events")
        await other.until_waiting(queue, 0)
        assert sorted(row["n"] for worker in workers for _, row in rows(worker.events)) == list(range(10))  # type: ignore[type-var]
        assert all(worker.events for worker in workers)
        assert (await other.counts(queue))[1] == 5


def receipts(reader: Reader) -> list[Any]:
    """Every message that was read, as the source keeps it until it is acknowledged."""
    batches: Any = reader.batches
    return [one for batch in batches for one in batch.receipt]


@pytest.mark.parametrize("turns", range(5))
async def test_closing_while_publishing_leaves_no_error(
    broker: RabbitMQ, other: Peer, queue: str, caplog: pytest.LogCaptureFixture, turns: int
) -> None:
    """A dead letter is at another point of its way after each turn of the event loop."""
    async with reading(source(broker, queue), acknowledging=False) as found:
        await other.send(queue, b"no JSON", b"no JSON either")
        await until(lambda: len(receipts(found)) == 2, "both messages")
        first, second = (Copy(message=one.message, headers={}) for one in receipts(found))
        letters = DeadLetters("q", config(broker, queue))
        await letters.publish([first])
        publishing = asyncio.create_task(letters.publish([second]))
        for _ in range(turns):
            await asyncio.sleep(0)
        await letters.close()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    del letters, publishing
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_closing_ends_while_server_reads_nothing(
    broker: RabbitMQ, other: Peer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As during an alarm, with a dead letter that is larger than the buffers of the connection."""
    monkeypatch.setattr(connection, "_CLOSE_TIMEOUT", 0.1)
    async with reading(source(broker, queue), acknowledging=False) as found:
        await other.send(queue, b"small", b"x" * 15_000_000)
        await until(lambda: len(receipts(found)) == 2, "both messages")
        small, large = (Copy(message=one.message, headers={}) for one in receipts(found))
        async with TcpProxy("127.0.0.1", broker.port) as proxy:
            letters = DeadLetters("q", config(broker, queue, port=proxy.port, connect_timeout=0.5))
            await letters.publish([small])
            proxy.hold()
            with pytest.raises(DeadLetterError, match="no answer within"):
                await letters.publish([large])
            closing = asyncio.create_task(letters.close())
            done, _ = await asyncio.wait([closing], timeout=SOON)
            await proxy.cut()
            assert done, "still closing"
