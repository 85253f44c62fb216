"""The connections of the port, with time limits: a slow or silent client must hold neither memory nor a place."""

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_SHUTDOWN_S = 5.0
_CLOSED = Repeats(log, "connection closed by a limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds, unless said otherwise."""

    handshake: float = 10.0
    """From the connection to the end of the TLS handshake."""
    head: float = 10.0
    """From the first byte of a request to the end of its headers."""
    write: float = 30.0
    """How long answers may be pending that the client does not read."""
    most: int = 500
    """Connections at once. Files and connections to sources need the rest of what a process may open."""


class Connections:
    """All of them. `sweep` has to be called every second or so."""

    def __init__(self, limits: Limits | None = None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits or Limits()
        self._monotonic = monotonic
        self._open: dict[Any, _Connection] = {}
        """By transport."""

    def protocol(self, server: web.Server, context: ssl.SSLContext | None) -> asyncio.Protocol:
        """Make the protocol of a new connection, which has TLS with a context."""
        return _Connection(server(), self, context)

    def middleware(self) -> Middleware:
        @web.middleware
        async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self._open.get(request.transport)
            if connection is None:
                return await handler(request)
            connection.begin()
            try:
                return await handler(request)
            finally:
                connection.busy = False

        return timed

    def sweep(self) -> None:
        """Abort the connections that are over a limit."""
        now = self._monotonic()
        for transport, connection in list(self._open.items()):
            if why := connection.overdue(self.limits, now, transport.get_write_buffer_size()):
                peer = transport.get_extra_info("peername")
                _CLOSED.add(why, why=why, address=peer[0] if peer else None)
                transport.abort()

    def opened(self, transport: Any, connection: "_Connection") -> bool:
        """Note a new connection. Return whether there is a place for it."""
        if len(self._open) >= self.limits.most:
            _CLOSED.add("most", why=f"more than {self.limits.most} connections")
            return False
        self._open[transport] = connection
        return True

    def received(self, connection: "_Connection") -> None:
        """Note that bytes arrived."""
        if connection.head_since is None and not connection.busy:
            connection.head_since = self._monotonic()

    def lost(self, transport: Any) -> None:
        """Forget a connection."""
        self._open.pop(transport, None)


class _Connection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and notes when it happened."""

    def __init__(self, inner: Any, connections: Connections, context: ssl.SSLContext | None) -> None:
        self.head_since: float | None = None
        """When bytes arrived that are not yet a request."""
        self.busy = False
        """Whether a request is being answered. What arrives then is its body."""
        self._inner = inner
        self._connections = connections
        self._context = context
        self._transport: Any = None
        self._handshake: asyncio.Task[None] | None = None
        self._begun = False
        """Whether aiohttp's protocol has the connection."""
        self._early: list[bytes] = []
        """What arrived with the end of the handshake."""
        self._unread_since: float | None = None

    def begin(self) -> None:
        """Note that the headers of a request are complete."""
        self.head_since, self.busy = None, True

    def overdue(self, limits: Limits, now: float, unread: int) -> str:
        """Return why the connection has to end, or nothing."""
        if not unread:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > limits.write:
            return f"the client did not read its answer for {limits.write:g} s"
        if self.head_since is not None and now - self.head_since > limits.head:
            return f"the headers took longer than {limits.head:g} s"
        return ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if not self._connections.opened(transport, self):
            self._transport.abort()
        elif self._context is None:
            self._begin()
        else:
            # Here and not by the server, so that connections without a handshake are counted too.
            self._transport.pause_reading()
            self._handshake = asyncio.create_task(self._secure(self._context))

    async def _secure(self, context: ssl.SSLContext) -> None:
        plain = self._transport
        try:
            secured = await asyncio.get_running_loop().start_tls(
                plain,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._connections.limits.handshake,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except OSError as error:  # also ssl.SSLError, and the end of the time
            peer = plain.get_extra_info("peername")
            log.debug("TLS handshake failed", why=str(error), address=peer[0] if peer else None)
            plain.abort()
            return
        finally:
            self._connections.lost(plain)
        self._transport = secured
        if secured is None or secured.is_closing() or not self._connections.opened(secured, self):
            plain.abort()
            return
        self._begin()
        for data in self._early:
            self.data_received(data)

    def _begin(self) -> None:
        self._begun = True
        self._inner.connection_made(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._begun:
            self._connections.received(self)
            self._inner.data_received(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._begun else None

    def pause_writing(self) -> None:
        if self._begun:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._begun:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.lost(self._transport)
        if self._begun:
            self._inner.connection_lost(exc)
