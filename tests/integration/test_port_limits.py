"""Slow, silent and greedy clients of the port, over plain connections and over TLS."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from ssl import MemoryBIO, SSLContext, SSLWantReadError
from typing import Any

import pytest

from support.port import Authority, Listening, Streams, listening
from support.waiting import SOON, until
from support.web import FIRED
from tocsin.exposition import Gauges, GaugeSpec, Metrics, Page
from tocsin.web import api
from tocsin.web.connections import Limits

QUICK = Limits(head=0.3, write=0.5)
GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


def large_page() -> Page:
    """A page of some 10 MB, more than the buffers of a connection hold."""
    page = Page(Metrics("1.2.3"))
    gauges = Gauges(GaugeSpec(alert="late", metric="late_orders", labels=(("customer", 0),)))
    rows: dict[Any, tuple[str, ...]] = {n: (f"{n:05}" + "x" * 1000,) for n in range(10_000)}
    gauges.install(gauges.render(rows), time.time())
    page.add(gauges)
    return page


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    port: Listening
    tls: SSLContext | None

    async def connect(self, *, read: bool = True) -> Streams:
        return await self.port.connect(self.tls, read=read)

    async def answer(self) -> int:
        status, _ = await self.port.get("/api/v1/status", tls=self.tls)
        return status


@asynccontextmanager
async def opened(
    folder: Path, limits: Limits | None = None, page: Page | None = None, *, tls: bool = False
) -> AsyncIterator[Opened]:
    authority = Authority(folder) if tls else None
    file = {"tls_server_config": authority.server()} if authority else None
    async with listening(folder, file, limits, page) as port:
        yield Opened(port=port, tls=authority.context() if authority else None)


async def ended(reader: asyncio.StreamReader) -> None:
    """Read to the end of the connection, or to its reset."""
    with suppress(ConnectionError):
        async with asyncio.timeout(SOON):
            while await reader.read(65_536):
                pass


both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@both
@pytest.mark.parametrize("sent", [b"G", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"\r\n" * 3])
async def test_headers_that_do_not_end_close_the_connection(tmp_path: Path, sent: bytes, tls: bool) -> None:
    async with opened(tmp_path, QUICK, tls=tls) as one:
        reader, writer = await one.connect()
        begun = time.monotonic()
        writer.write(sent)
        await ended(reader)
        writer.close()
        assert 0.3 <= time.monotonic() - begun < SOON / 2


async def test_one_byte_a_moment_does_not_prolong_the_headers(tmp_path: Path) -> None:
    async with opened(tmp_path, QUICK) as one:
        reader, writer = await one.connect()

        async def trickle() -> None:
            for byte in b"GET /metrics HTTP/1.1\r\nX-Long: " + b"x" * 10_000:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        await ended(reader)
        assert not trickling.done()
        trickling.cancel()
        writer.close()


@both
async def test_slow_reader_of_a_scrape_is_disconnected(tmp_path: Path, tls: bool) -> None:
    """Meanwhile and afterwards others are answered."""
    async with opened(tmp_path, QUICK, large_page(), tls=tls) as one:
        streams = [await one.connect(read=False) for _ in range(3)]
        for _, writer in streams:
            writer.write(GET)
        connections = one.port.port._connections._open
        await until(lambda: len(connections) == 3, "the scrapes")
        assert await one.answer() == 200
        await until(lambda: not connections, "the end of the scrapes")
        assert await one.answer() == 200
        status, text = await one.port.get("/metrics", tls=one.tls)
        assert (status, text.count("late_orders{")) == (200, 10_000)
        for _, writer in streams:
            writer.transport.abort()


async def test_answers_to_pipelined_requests_must_be_read(tmp_path: Path) -> None:
    async with opened(tmp_path, QUICK) as one:
        _, writer = await one.connect(read=False)
        request = GET.replace(b"/metrics", b"/api/v1/status")
        connections = one.port.port._connections._open
        writer.write(request * 20_000)
        await until(lambda: len(connections) == 1, "the connection")
        await until(lambda: not connections, "its end")
        writer.transport.abort()


async def test_stream_and_kept_connection_outlive_the_limits(tmp_path: Path) -> None:
    async with opened(tmp_path, QUICK) as one:
        stream, stream_writer = await one.connect()
        stream_writer.write(GET.replace(b"/metrics", b"/api/v1/transitions"))
        kept, kept_writer = await one.connect()
        for _ in range(4):
            kept_writer.write(GET.replace(b"/metrics", b"/healthz"))
            assert b"200 OK" in await kept.readuntil(b"running.\n")
            one.port.process.feed.publish([FIRED])
            await stream.readuntil(b"event: transition\n")
            await asyncio.sleep(0.4)
        for writer in (stream_writer, kept_writer):
            writer.close()


async def test_connections_without_a_handshake_count_and_end(tmp_path: Path) -> None:
    async with opened(tmp_path, Limits(most=3, handshake=2 * SOON), tls=True) as one:
        silent = [await one.port.connect() for _ in range(4)]
        await ended(silent[3][0])  # one too many
        for _, writer in silent:
            writer.close()
    async with opened(tmp_path, Limits(most=3, handshake=0.3), tls=True) as one:
        begun = time.monotonic()
        silent = [await one.port.connect() for _ in range(3)]
        for reader, writer in silent:
            await ended(reader)
            writer.close()
        assert time.monotonic() - begun >= 0.3
        assert not one.port.port._connections._open
        assert await one.answer() == 200


def asked_at_once(address: tuple[str, int], context: SSLContext) -> bytes:
    """Send the end of the handshake and a request in one segment, and return the answer."""
    incoming, outgoing = MemoryBIO(), MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=address[0])
    with socket.create_connection(address, timeout=SOON) as plain:
        while True:
            try:
                tls.do_handshake()
                break
            except SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(65_536))
        tls.write(GET.replace(b"/metrics", b"/healthz"))
        plain.sendall(outgoing.read())
        answer = b""
        while b"running.\n" not in answer:
            incoming.write(plain.recv(65_536))
            with suppress(SSLWantReadError):
                answer += tls.read()
    return answer


async def test_request_sent_with_the_end_of_the_handshake_is_answered(tmp_path: Path) -> None:
    async with opened(tmp_path, tls=True) as one:
        assert one.tls is not None
        host, port = one.port.url.removeprefix("https://").split(":")
        answer = await asyncio.to_thread(asked_at_once, (host, int(port)), one.tls)
        assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_connections_beyond_the_largest_number_are_closed(tmp_path: Path) -> None:
    async with opened(tmp_path, Limits(most=3)) as one:
        streams = [await one.connect() for _ in range(3)]
        for reader, writer in streams:
            writer.write(GET.replace(b"/metrics", b"/healthz"))
            await reader.readuntil(b"running.\n")
        reader, writer = await one.connect()
        await ended(reader)
        writer.close()
        streams[0][1].close()
        await until(lambda: len(one.port.port._connections._open) == 2, "a free place")
        assert await one.answer() == 200
        for _, open_writer in streams[1:]:
            open_writer.close()


@pytest.mark.parametrize("head", [b"X-Long: " + b"x" * 20_000, b"".join(b"X-%d: y\r\n" % n for n in range(50_000))])
async def test_large_headers_are_refused(tmp_path: Path, head: bytes) -> None:
    async with opened(tmp_path) as one:
        reader, writer = await one.connect()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + head.rstrip() + b"\r\n\r\n")
        async with asyncio.timeout(SOON):
            line = await reader.readline()
        assert b" 400 " in line or b" 431 " in line, line
        writer.close()
        assert await one.answer() == 200


async def test_body_has_to_arrive_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body may take longer than headers; one that does not end is refused."""
    async with opened(tmp_path, QUICK) as one:
        head = b"POST /api/v1/events/posted HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
        reader, writer = await one.connect()
        writer.write(head + b"a")
        await asyncio.sleep(2 * QUICK.head)
        writer.write(b"bcd")
        assert b" 202 " in await reader.readline()
        writer.close()
        monkeypatch.setattr(api, "_BODY", 0.3)
        reader, writer = await one.connect()
        writer.write(head + b"a")
        assert b" 408 " in await reader.readline()
        await ended(reader)
        writer.close()
        assert [body for *_, body in one.port.process.received] == [b"abcd"]
