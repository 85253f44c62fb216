"""Connections to RabbitMQ that are always closed."""

import asyncio
import contextlib
import ssl
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.connection import make_url
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ConnectionClosed, InvalidFrameError
from aiormq.channel import Channel as Wire
from aiormq.connection import TransportFactory
from yarl import URL

from tocsin.errors import SourceError, SourceReason
from tocsin.sources.rabbitmq.frames import Frames
from tocsin.sources.rabbitmq.settings import Config

_CLOSE_TIMEOUT = 5.0


class Link(TransportFactory):
    """A connection. It opens the transport itself, to read it as `Frames` and to end it: the library waits for ever
    until a server has read everything."""

    def __init__(self, name: str, config: Config) -> None:
        """Connects to nothing yet. `name`: shown by the server's tools."""
        server = self._server = config.server
        self._context = _context(config) if server.tls else None
        self.frames = Frames(asyncio.get_running_loop())
        self._writer: asyncio.StreamWriter | None = None
        login = {"host": server.host, "port": server.port, "login": server.user, "password": server.password}
        more = {"virtualhost": server.vhost, "ssl": server.tls, "heartbeat": round(config.heartbeat), "name": name}
        self.connection = aio_pika.Connection(make_url(**login, **more))  # type: ignore[arg-type]
        self.connection.kwargs["transport_factory"] = self

    @property
    def version(self) -> str:
        """The version that the server reports; empty if none."""
        transport = self.connection.transport
        version = transport.connection.server_properties.get("version") if transport is not None else None
        return version if isinstance(version, str) else ""

    async def create(self, url: URL, **others: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Called by the library."""
        del url, others
        server, loop = self._server, asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(self.frames, loop=loop)
        transport, _ = await loop.create_connection(
            lambda: protocol,
            server.host,
            server.port,
            ssl=self._context,
            ssl_shutdown_timeout=_CLOSE_TIMEOUT if self._context is not None else None,
        )
        self._writer = asyncio.StreamWriter(transport, protocol, self.frames, loop)
        return self.frames, self._writer

    async def close(self) -> None:
        """Close the connection; a server that does not answer delays this for a moment only."""
        # A timeout would not end it: the library swallows the cancellation.
        abort = asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT, self._abort)
        try:
            with contextlib.suppress(*CONNECTION_EXCEPTIONS):
                await self.connection.close()
        finally:
            abort.cancel()
            self._abort()

    def _abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


async def connect(stack: contextlib.AsyncExitStack, name: str, config: Config) -> Link:
    """Connect, until the stack ends."""
    link = Link(name, config)
    stack.push_async_callback(link.close)
    try:
        await link.connection.connect()
    except InvalidFrameError:
        if not link.frames.closed:
            raise
        # The library expected another frame, and its text has no reason.
        raise ConnectionClosed(link.frames.closed) from None
    return link


async def wire_of(channel: AbstractChannel) -> Wire:
    """Return the layer below aio-pika: only there it shows that the server has cancelled a consumer."""
    wire = await channel.get_underlay_channel()
    assert isinstance(wire, Wire)
    return wire


def _context(config: Config) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
    except OSError as error:
        why = error.strerror or "it holds none"
        raise SourceError(f"cannot read certificates from {config.tls_ca}: {why}", SourceReason.OTHER) from None
    if not config.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
