"""RabbitMQ as a source of events, against a real broker: login and declarations."""

import asyncio
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import quote

import pytest

from support.event_reading import reading
from support.rabbitmq import GUEST, GUEST_PASSWORD, PASSWORD, USER, VHOST, Peer, RabbitMQ, peer, shared_rabbitmq
from support.rabbitmq_packages import VERSION
from support.rabbitmq_reading import fault, source
from tocsin.errors import SourceReason
from tocsin.sources.rabbitmq import connection


@pytest.mark.parametrize("by_url", [False, True])
async def test_password_and_vhost_need_no_escaping(broker: RabbitMQ, queue: str, by_url: bool) -> None:
    """In an URL they are escaped."""
    url = f"amqp://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{broker.port}/{quote(VHOST, safe='')}"
    settings = {"url": url} if by_url else {"vhost": VHOST}
    async with reading(source(broker, queue, **settings)) as found, peer(broker, VHOST) as other:
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
async def test_connection_errors_are_classified_without_a_secret(
    broker: RabbitMQ, queue: str, settings: dict[str, Any], reason: SourceReason, says: str
) -> None:
    error = await fault(source(broker, queue, **settings))
    assert error.reason is reason, error
    assert says in str(error)
    assert "wrong-and-l0ng" not in str(error)
    assert "\n" not in str(error)


async def test_refused_transient_queue_names_the_setting(queue: str) -> None:
    error = await fault(source(shared_rabbitmq(VERSION), queue, queue_durable=False))
    assert error.reason is SourceReason.SHAPE
    assert "refuses queue_durable: false; set it to true; with x-expires in queue_arguments" in str(error)


async def test_existing_queue_is_read_without_right_to_declare(broker: RabbitMQ, other: Peer, queue: str) -> None:
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
        ({"queue_durable": False}, {},
         "the queue {q} exists with another durable: 'false' there, 'true' here; set queue_durable to the existing"),
        ({"queue_arguments": {"x-max-length": 5}}, {}, "set queue_arguments to the existing value"),
        ({"exchange": "{q}.e", "exchange_type": "fanout"}, {"exchange": "{q}.e", "binding_keys": "#"},
         "the exchange {q}.e exists with another type"),
        ({"dead_letters": "{q}.e"}, {"exchange": "{q}.d", "binding_keys": "#", "dead_letters": "{q}.t"},
         "set dead_letters to another name"),
    ],
)  # fmt: skip
async def test_existing_declaration_that_differs_names_the_setting(
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
    # The queue is still usable with its own declaration.
    async with reading(source(broker, queue, **named(there))) as found:
        await other.send(queue, {"alert": "a"})
        await found.until(1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tls_ca": True}, ""),
        ({"tls_verify": False}, ""),
        ({}, "certificate"),
        ({"tls_ca": "/nowhere.pem"}, "cannot read"),
    ],
)
async def test_tls_requires_a_trusted_certificate(
    broker: RabbitMQ, queue: str, settings: dict[str, Any], says: str
) -> None:
    if settings.get("tls_ca") is True:
        settings = {"tls_ca": str(broker.ca)}
    made = source(broker, queue, host="localhost", port=broker.tls_port, tls=True, **settings)
    if says:
        error = str(await fault(made))
        assert says in error
        assert "message" not in error
        return
    async with reading(made) as found, peer(broker) as other:
        await other.send(queue, {"alert": "a"})
        await found.until(1)


async def test_silent_tls_server_ends_with_connect_timeout(
    broker: RabbitMQ, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers nothing after the handshake of TLS, not even that the connection is closed."""
    monkeypatch.setattr(connection, "_CLOSE_TIMEOUT", 0.1)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(broker.ca.parent / "server.pem", broker.ca.parent / "key.pem")
    over = threading.Event()

    def serve(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        with context.wrap_socket(accepted, server_side=True):
            over.wait()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve, listening))
        port = listening.getsockname()[1]
        began = time.monotonic()
        try:
            error = await fault(source(broker, queue, port=port, tls=True, tls_verify=False, connect_timeout="300ms"))
        finally:
            over.set()
            await serving
    assert "no answer within 0.3 s" in str(error)
    assert time.monotonic() - began < 10
