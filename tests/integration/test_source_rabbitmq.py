"""RabbitMQ as a source of events, against a real broker: what a message becomes, and that none is lost or comes back
for ever."""

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pamqp import encode
from pamqp.commands import Basic

from support.rabbitmq import (
    GUEST,
    GUEST_PASSWORD,
    PASSWORD,
    USER,
    VHOST,
    Peer,
    RabbitMQ,
    new_queue,
    peer,
    rabbitmq,
    shared_rabbitmq,
)
from support.relay import Relay
from support.waiting import until
from tocsin.errors import RefusedReason, SourceError, SourceReason
from tocsin.model import Event
from tocsin.sources import EventBatch, EventStream
from tocsin.sources import rabbitmq as kind
from tocsin.sources.rabbitmq.stream import RabbitMQ as Source
from tocsin.values import reader

ENVELOPE = {"message": {"alertTypes": ["email", "sms"], "message": {"order": 7, "paid": False}}}


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


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RabbitMQ]:
    """A broker to be ill-treated."""
    with rabbitmq(tmp_path) as made:
        made.start()
        yield made


def source(broker: RabbitMQ, queue: str, **settings: Any) -> Source:
    given = {
        "host": "127.0.0.1",
        "port": broker.port,
        "user": USER,
        "password": PASSWORD,
        "queue": queue,
        **settings,
    }
    if "url" in given:
        given = {name: value for name, value in given.items() if name not in ("host", "port", "user", "password")}
    return kind.build("q", kind.Config.model_validate(given))


class Reader:
    """Takes in what a stream gives, as the intake does: keeps it, then acknowledges it. `takes`: the names that alerts
    take; None for all."""

    def __init__(self, stream: EventStream, takes: set[str] | None = None) -> None:
        self.batches: list[EventBatch] = []
        self.acknowledging = True
        self._takes = takes
        self._stream = stream

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]

    async def run(self) -> None:
        async for batch in self._stream.batches():
            self.batches.append(batch)
            if self.acknowledging:
                await self.acknowledge(batch)

    async def acknowledge(self, batch: EventBatch) -> None:
        nobodys = [event for event in batch.events if self._takes is not None and event.name not in self._takes]
        await self._stream.acknowledge(batch, nobodys)

    async def until(self, count: int) -> list[Event]:
        """Wait for so many events."""
        await until(lambda: len(self.events) >= count, f"{count} events")
        return self.events


@asynccontextmanager
async def reading(
    source: Source, takes: set[str] | None = None, *, acknowledging: bool = True
) -> AsyncIterator[Reader]:
    """A reader at work. A stream that fails ends it."""
    async with source.open([], position={}) as stream:
        made = Reader(stream, takes)
        made.acknowledging = acknowledging
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SourceError):
                await task


async def fault(source: Source, takes: set[str] | None = None) -> SourceError:
    """What ends a stream."""
    with pytest.raises(SourceError) as caught:
        async with asyncio.timeout(30), source.open([], position={}) as stream:
            await Reader(stream, takes).run()
    text = str(caught.value)
    assert PASSWORD not in text
    assert GUEST_PASSWORD not in text
    return caught.value


def rows(events: list[Event]) -> list[tuple[str, dict[str, object]]]:
    return [(event.name, reader(event.columns)(event.row)) for event in events]


# What a message becomes.


async def test_each_type_of_a_message_in_an_envelope_is_an_event_with_the_fields_inside(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
    async with reading(source(broker, queue)) as found:
        at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        await other.send(queue, ENVELOPE, message_id="m-1", timestamp=at)
        events = await found.until(2)
    assert rows(events) == [(name, {"order": 7, "paid": False}) for name in ("email", "sms")]
    assert [event.id for event in events] == ["m-1/email", "m-1/sms"]
    assert {event.at for event in events} == {round(at.timestamp() * 1000)}


@pytest.mark.parametrize(
    ("body", "settings", "expected"),
    [
        ({"message": {"alertTypes": ["a", "a"], "message": "hello"}}, {}, [("a", {"message": "hello"})]),
        ({"message": {"alertTypes": ["a"], "message": [1, 2]}}, {}, [("a", {"message": [1, 2]})]),
        ({"message": {"alertTypes": ["a"], "message": 0}}, {}, [("a", {"message": 0})]),
        ({"alert": "a", "n": 1}, {}, [("a", {"alert": "a", "n": 1})]),
        ({"alerts": ["a", "b"]}, {}, [("a", {"alerts": ["a", "b"]}), ("b", {"alerts": ["a", "b"]})]),
        ({"n": 1}, {"name_from": "type"}, [("of-type", {"n": 1})]),
        ({"n": 1}, {"name_from": ["body.n.m", "body.kind", "type"]}, [("of-type", {"n": 1})]),
        ({"about": {"kind": "x"}}, {"name_from": "body.about.kind"}, [("x", {"about": {"kind": "x"}})]),
        ({"alert": "a", "to": None}, {"defaults": {"to": ["b"], "x": 1, "alert": "z"}},
         [("a", {"alert": "a", "to": ["b"], "x": 1})]),
    ],
    ids=["text", "list", "number", "alert", "alerts", "type", "in turn", "path", "defaults"],
)  # fmt: skip
async def test_the_settings_say_where_the_name_is_and_every_field_is_a_column(
    broker: RabbitMQ,
    other: Peer,
    queue: str,
    body: Any,
    settings: dict[str, Any],
    expected: list[tuple[str, dict[str, object]]],
) -> None:
    async with reading(source(broker, queue, **settings)) as found:
        await other.send(queue, body, type="of-type")
        assert rows(await found.until(len(expected))) == expected


async def test_the_routing_key_may_be_the_name_and_bindings_say_what_is_taken(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
    settings = {"exchange": queue + ".x", "binding_keys": ["orders.*", "fraud.#"], "name_from": "routing_key"}
    async with reading(source(broker, queue, **settings)) as found:
        for key in ("orders.late", "fraud", "fraud.card.lost"):
            await other.send(key, {"n": 1}, exchange=queue + ".x")
        names = [event.name for event in await found.until(3)]
    assert names == ["orders.late", "fraud", "fraud.card.lost"]
    with pytest.raises(Exception, match="NO_ROUTE"):
        await other.send("orders.late.again", {"n": 1}, exchange=queue + ".x")


@pytest.mark.parametrize(("type_", "keys"), [("direct", "one"), ("direct", ["one", "two"]), ("fanout", [])])
async def test_several_exchanges_of_any_type_can_be_declared_and_declared_again(
    broker: RabbitMQ, other: Peer, queue: str, type_: str, keys: str | list[str]
) -> None:
    for exchange in (f"{queue}.1", f"{queue}.2", f"{queue}.1"):
        made = source(broker, queue, exchange=exchange, exchange_type=type_, binding_keys=keys, exchange_durable=False)
        async with reading(made) as found:
            await other.send("one", {"alert": exchange}, exchange=exchange)
            assert [event.name for event in await found.until(1)] == [exchange]


async def test_two_equal_messages_are_two_events(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with reading(source(broker, queue)) as found:
        await other.send(queue, {"alert": "a"}, {"alert": "a"})
        assert len({event.id for event in await found.until(2)}) == 2


async def test_a_time_in_milliseconds_where_seconds_belong_is_understood(
    broker: RabbitMQ, other: Peer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading(source(broker, queue)) as found:
        with monkeypatch.context() as patched:
            patched.setitem(encode.METHODS, "timestamp", lambda value: int(value.timestamp() * 1000).to_bytes(8, "big"))
            await other.send(queue, {"alert": "a"}, timestamp=datetime(2026, 1, 2, tzinfo=UTC))
        [event] = await found.until(1)
    assert event.at == 1_767_312_000_000


async def test_a_property_that_cannot_be_read_is_told_with_what_to_do(
    broker: RabbitMQ, other: Peer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await other.channel.declare_queue(queue, durable=True)
    with monkeypatch.context() as patched:
        patched.setitem(encode.METHODS, "timestamp", lambda _: (2**63).to_bytes(8, "big"))
        await other.send(queue, {"alert": "a"}, timestamp=datetime(2026, 1, 2, tzinfo=UTC))
    error = await fault(source(broker, queue))
    assert error.reason is SourceReason.SHAPE
    assert f"a message in the queue {queue} has a property that cannot be read" in str(error)
    await other.until_waiting(queue, 1)


async def test_a_dead_letter_keeps_the_properties_of_the_message_as_far_as_they_can_be_written(
    broker: RabbitMQ, other: Peer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = encode.encode_table_value
    async with reading(source(broker, queue)):
        wire = await other.channel.get_underlay_channel()
        headers: dict[str, Any] = {"latin": "\xff", "list": [1]}
        with monkeypatch.context() as patched:
            # A text that is not UTF-8, as other libraries send it.
            latin = b"S\x00\x00\x00\x01\xff"
            patched.setattr(encode, "encode_table_value", lambda value: latin if value == "\xff" else write(value))
            properties = Basic.Properties(
                priority=9, headers=headers, expiration="60000", user_id=USER, message_type="t"
            )
            await wire.basic_publish(b"not JSON", routing_key=queue, properties=properties)
        [dead] = await other.taken(f"{queue}.dead", 1)
    assert (dead.headers["latin"], dead.headers["list"]) == (r"b'\xff'", [1])
    assert (dead.priority, dead.type, dead.expiration, dead.user_id) == (9, "t", None, None)


# Nothing is lost, and nothing comes back for ever.


async def test_a_message_stays_with_the_server_until_it_is_acknowledged_and_keeps_its_id(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
    taken = source(broker, queue)
    async with reading(taken, acknowledging=False) as found:
        await other.send(queue, {"alert": "a"}, message_id="mine")
        await found.until(1)
    await other.until_waiting(queue, 1)
    # Another process, which knows nothing of the first.
    async with reading(source(broker, queue)) as again:
        assert [event.id for event in await again.until(1)] == ["mine/a"]
    assert await other.look(queue) == (0, 0)


async def test_without_a_message_id_what_a_lost_connection_gave_back_keeps_its_ids(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
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
        (b"\xff\xfe{", "malformed", "it is not"),
        (b"[1]", "malformed", "it is not a JSON object but a list"),
        (b'{"alert": NaN}', "malformed", "NaN is no JSON value"),
        (b"[" * 100_000, "malformed", "nested too deeply"),
        ({}, "missing", "there is none at body.alert or body.alerts or body.message.alertTypes"),
        ({"alert": None, "alerts": []}, "missing", "it names no event"),
        ({"message": {"alertTypes": [], "message": "x"}}, "missing", "it names no event"),
        ({"message": {"alertTypes": ["a"]}}, "missing", "body.message.message is missing"),
        ({"message": "text"}, "missing", "it names no event"),
        ({"alert": 5}, "malformed", "body.alert is neither a name nor a list of names"),
        ({"alerts": ["a", {}]}, "malformed", "body.alerts is neither a name nor a list of names"),
        ({"alerts": [str(n) for n in range(101)]}, "malformed", "101 names, more than 100"),
        ({"alert": "a", "x": "y" * 300_000}, "too_large", "more than 200000"),
    ],
)
async def test_a_message_that_is_no_event_goes_to_the_dead_letters_with_the_reason(
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
    assert await other.look(queue) == (0, 0)
    assert await other.look(f"{queue}.dead") == (0, 0)


async def test_a_message_is_copied_to_the_dead_letters_for_those_of_its_types_that_nobody_takes(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
    async with reading(source(broker, queue), takes={"email"}) as found:
        await other.send(queue, ENVELOPE, {"alert": "email"}, {"alerts": [f"t{n}" for n in range(7)]})
        assert [event.name for event in await found.until(10)][:3] == ["email", "sms", "email"]
        partly, wholly = await other.taken(f"{queue}.dead", 2)
    assert json.loads(partly.body) == ENVELOPE
    assert (partly.headers["x-tocsin-reason"], partly.headers["x-tocsin-detail"]) == (
        "unmatched", "no alert takes sms",
    )  # fmt: skip
    assert wholly.headers["x-tocsin-detail"] == "no alert takes t0, t1, t2, t3, t4 and 2 more"
    assert await other.look(queue) == (0, 0)


async def test_a_message_stays_in_the_queue_while_its_dead_letter_gets_nowhere(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
    async with reading(source(broker, queue)):
        pass
    dead = await other.channel.declare_queue(f"{queue}.dead", passive=True)
    await dead.unbind(f"{queue}.dead", "")
    await other.send(queue, b"not JSON")
    error = await fault(source(broker, queue, declare=False))
    assert error.reason is SourceReason.MISSING
    assert f"gets to no queue from the exchange {queue}.dead; bind one" in str(error)
    await other.until_waiting(queue, 1)
    await dead.bind(f"{queue}.dead", "")
    async with reading(source(broker, queue, declare=False)):
        assert [dead.body for dead in await other.taken(f"{queue}.dead", 1)] == [b"not JSON"]


async def test_what_a_broker_that_was_killed_had_promised_to_keep_is_delivered_after_its_restart(
    own: RabbitMQ, queue: str
) -> None:
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


async def test_a_silent_connection_is_noticed_by_its_heartbeats(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with Relay("127.0.0.1", broker.port) as relay:
        taken = source(broker, queue, port=relay.port, heartbeat="1s")
        async with taken.open([], position={}) as stream:
            running = asyncio.create_task(Reader(stream).run())
            relay.hold()
            with pytest.raises(SourceError) as caught:
                await running
            assert caught.value.reason is SourceReason.DISCONNECTED
            await relay.cut()


async def test_a_server_that_does_not_answer_is_not_waited_for_longer_than_allowed(
    broker: RabbitMQ, queue: str
) -> None:
    async with Relay("127.0.0.1", broker.port) as relay:
        relay.hold()
        error = await fault(source(broker, queue, port=relay.port, connect_timeout="300ms"))
        assert error.reason is SourceReason.CONNECT
        assert "no answer within 0.3 s" in str(error)
        await relay.cut()


async def test_a_queue_that_is_deleted_ends_the_stream_and_is_made_again(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
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


# Sharing.


async def test_the_server_hands_out_no_more_than_the_prefetch_before_something_is_acknowledged(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
    async with reading(source(broker, queue, prefetch=5), acknowledging=False) as found:
        await other.send(queue, *({"alert": "a", "n": n} for n in range(20)))
        await found.until(5)
        await other.until_waiting(queue, 15)
        assert len(found.events) == 5
        for batch in list(found.batches):
            await found.acknowledge(batch)
        await found.until(10)
        await other.until_waiting(queue, 10)


async def test_of_ten_messages_each_is_handled_by_one_of_five_workers(
    broker: RabbitMQ, other: Peer, queue: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(reading(source(broker, queue, prefetch=1))) for _ in range(5)]
        await other.send(queue, *({"alert": "a", "n": n} for n in range(10)))
        await until(lambda: sum(len(worker.events) for worker in workers) >= 10, "ten events")
        await other.until_waiting(queue, 0)
        assert sorted(row["n"] for worker in workers for _, row in rows(worker.events)) == list(range(10))  # type: ignore[type-var]
        assert all(worker.events for worker in workers)
        assert (await other.look(queue))[1] == 5


# Logging in, and what is declared.


async def test_nothing_in_a_password_or_a_vhost_has_to_be_escaped(broker: RabbitMQ, queue: str) -> None:
    async with reading(source(broker, queue, vhost=VHOST)) as found, peer(broker, VHOST) as other:
        await other.send(queue, {"alert": "a"})
        await found.until(1)


@pytest.mark.parametrize("vhost", ["/", VHOST])
async def test_an_url_can_be_given_instead(broker: RabbitMQ, queue: str, vhost: str) -> None:
    url = f"amqp://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{broker.port}/{quote(vhost, safe='')}"
    async with reading(source(broker, queue, url=url)) as found, peer(broker, vhost) as other:
        await other.send(queue, {"alert": "a"})
        await found.until(1)


@pytest.mark.parametrize(
    ("settings", "reason", "says"),
    [
        ({"password": "wrong-and-l0ng"}, SourceReason.AUTH, "ACCESS_REFUSED"),
        ({"vhost": "nowhere"}, SourceReason.MISSING, "vhost nowhere not found"),
        ({"user": GUEST, "password": GUEST_PASSWORD, "vhost": VHOST}, SourceReason.PERMISSION, "access to vhost"),
        ({"user": GUEST, "password": GUEST_PASSWORD}, SourceReason.PERMISSION, "access to exchange"),
        ({"declare": False}, SourceReason.MISSING, "no queue"),
        ({"host": "nowhere.invalid"}, SourceReason.CONNECT, "RabbitMQ at nowhere.invalid"),
    ],
)
async def test_whatever_keeps_it_from_the_queue_is_one_sentence_without_a_secret(
    broker: RabbitMQ, queue: str, settings: dict[str, Any], reason: SourceReason, says: str
) -> None:
    error = await fault(source(broker, queue, **settings))
    assert error.reason is reason, error
    assert says in str(error)
    assert "wrong-and-l0ng" not in str(error)
    assert "\n" not in str(error)


async def test_who_may_declare_nothing_takes_from_what_is_there(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with reading(source(broker, queue)):
        pass
    guest = source(broker, queue, user=GUEST, password=GUEST_PASSWORD, declare=False)
    async with reading(guest) as found:
        await other.send(queue, {"alert": "a"}, b"not JSON")
        await found.until(1)
        await other.taken(f"{queue}.dead", 1)


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        ({"queue_durable": False}, {}, "the queue {q} is there already with another durable: 'false' there, 'true'"),
        ({"queue_durable": False}, {}, "change queue_durable to what is there, or delete the queue"),
        ({}, {"queue_type": "quorum", "dead_letters": "{q}.x"}, "x-queue-type"),
        ({"queue_arguments": {"x-max-length": 5}}, {}, "change queue_arguments"),
        ({"exchange": "{q}.e", "exchange_type": "fanout"}, {"exchange": "{q}.e", "binding_keys": "#"},
         "the exchange {q}.e is there already with another type"),
        ({"exchange": "{q}.e", "exchange_type": "fanout"},
         {"exchange": "{q}.e", "exchange_type": "fanout", "exchange_durable": False}, "change exchange_durable"),
        ({"dead_letters": "{q}.e"}, {"exchange": "{q}.d", "binding_keys": "#", "dead_letters": "{q}.t"},
         "give dead_letters another name"),
    ],
)  # fmt: skip
async def test_what_is_there_already_and_differs_is_told_with_what_to_do(
    broker: RabbitMQ, other: Peer, queue: str, there: dict[str, Any], here: dict[str, Any], says: str
) -> None:
    def named(settings: dict[str, Any]) -> dict[str, Any]:
        return {k: v.format(q=queue) if isinstance(v, str) else v for k, v in settings.items()}

    await other.channel.declare_exchange(f"{queue}.t", "topic")
    async with reading(source(broker, queue, **named(there))):
        pass
    error = await fault(source(broker, queue, **named(here)))
    assert error.reason is SourceReason.SHAPE
    assert says.format(q=queue) in str(error)
    # It is refused, and not broken: as it was declared, it is taken.
    async with reading(source(broker, queue, **named(there))) as found:
        await other.send(queue, {"alert": "a"})
        await found.until(1)


async def test_a_quorum_queue_is_taken_from_as_well(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with reading(source(broker, queue, queue_type="quorum")) as found:
        await other.send(queue, {"alert": "a"}, b"bad")
        await found.until(1)
        await other.taken(f"{queue}.dead", 1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tls_ca": True}, ""),
        ({"tls_verify": False}, ""),
        ({}, "certificate"),
        ({"tls_ca": "/nowhere.pem"}, "cannot read"),
    ],
)
async def test_with_tls_the_server_must_show_a_good_certificate(
    broker: RabbitMQ, queue: str, settings: dict[str, Any], says: str
) -> None:
    if settings.get("tls_ca") is True:
        settings = {"tls_ca": str(broker.ca)}
    made = source(broker, queue, host="localhost", port=broker.tls_port, tls=True, **settings)
    if says:
        told = str(await fault(made))
        assert says in told
        assert "message" not in told
        return
    async with reading(made) as found, peer(broker) as other:
        await other.send(queue, {"alert": "a"})
        await found.until(1)
