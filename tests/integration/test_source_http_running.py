"""A whole process that receives events over HTTP: wrong, slow and too many requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from support.tocsin import TocsinProcess, running
from support.waiting import SOON, until, until_some

pytestmark = pytest.mark.e2e

TOKEN = "a-token-of-some-length"
AUTHORIZATION = f"Bearer {TOKEN}"


def config(**source: Any) -> dict[str, Any]:
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": "ledger.db"},
        "sources": {"posted": {"type": "http", "token": TOKEN, **source}},
        "channels": {"out": {"type": "console"}},
        "alerts": {"orders": {"source": "posted", "notify": ["out"]}},
    }


class Request:
    """A request that is sent piece by piece. `said`: the answer so far."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.said = b""
        self._reader = reader
        self._writer = writer

    def send(self, piece: bytes) -> None:
        self._writer.write(piece)

    async def until_said(self, words: bytes) -> None:
        async with asyncio.timeout(SOON):
            while words not in self.said:
                more = await self._reader.read(1000)
                assert more, f"it hung up after {self.said!r}"
                self.said += more


@asynccontextmanager
async def posting(tocsin: TocsinProcess, **headers: str) -> AsyncIterator[Request]:
    """A request with events, whose headers are sent."""
    url = URL(tocsin.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    given = {"Host": "tocsin", "Content-Length": "1000", "Authorization": AUTHORIZATION, **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    writer.write(f"POST /api/v1/events/orders HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
    try:
        yield Request(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_refused_request_is_answered_before_its_body(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as tocsin:
        await tocsin.until_ready()
        async with posting(tocsin, Authorization="Bearer wrong-but-quite-long", Expect="100-continue") as request:
            await request.until_said(b'{"error":"the token is missing or wrong')
            assert request.said.startswith(b"HTTP/1.1 401 ")
        async with posting(tocsin, Expect="100-continue", **{"Content-Length": "2000000"}) as request:
            await request.until_said(b'{"error":"more than 1048576 bytes"}')
            assert request.said.startswith(b"HTTP/1.1 413 ")
        async with posting(tocsin, Expect="100-continue", **{"Content-Length": "2"}) as request:
            await request.until_said(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.send(b"{}")
            await request.until_said(b'{"events":1}')


async def test_slow_request_times_out_without_delaying_others(tmp_path: Path) -> None:
    async with running(tmp_path, config(read_timeout="300ms")) as tocsin:
        await tocsin.until_ready()
        async with posting(tocsin) as request:
            request.send(b"{")
            assert (await tocsin.post("/api/v1/events/orders", b"{}", Authorization=AUTHORIZATION))[0] == 202
            await request.until_said(b'{"error":"the request did not arrive within 0.3 s"}')
            assert request.said.startswith(b"HTTP/1.1 408 ")


async def test_requests_over_max_waiting_get_503(tmp_path: Path) -> None:
    async with running(tmp_path, config(max_body=1000, max_waiting=1500)) as tocsin:
        await tocsin.until_ready()
        async with posting(tocsin, Expect="100-continue") as slow:
            await slow.until_said(b"100 Continue")
            slow.send(b" " * 990)

            async def crowded() -> bool:
                """Whether another request is refused, which it is once the bytes of the slow one are read."""
                async with posting(tocsin, Connection="close") as request:
                    request.send(b" " * 1000)
                    await request.until_said(b"}")
                    if request.said.startswith(b"HTTP/1.1 400 "):
                        return False
                    assert request.said.startswith(b"HTTP/1.1 503 ")
                    assert b"Retry-After: 1\r\n" in request.said
                    assert request.said.endswith(b'{"error":"too many requests; try again"}')
                    return True

            await until_some(crowded)
            slow.send(b'{"a": 1234}'[:10])
            await slow.until_said(b"HTTP/1.1 400 ")
        status, _ = await tocsin.post("/api/v1/events/orders", b" " * 990 + b"{}", Authorization=AUTHORIZATION)
        assert status == 202


async def test_idempotency_key_can_be_any_bytes(tmp_path: Path) -> None:
    async with running(tmp_path, config()) as tocsin:
        await tocsin.until_ready()
        for _ in range(2):
            async with posting(tocsin, **{"Idempotency-Key": "\xff\xfe 'x\"", "Content-Length": "2"}) as request:
                request.send(b"{}")
                await request.until_said(b'{"events":1}')
        await until(lambda: len(tocsin.output) == 1, "sent once")
        assert (await tocsin.post("/api/v1/events/orders", b"{}", Authorization=AUTHORIZATION))[0] == 202
        await until(lambda: len(tocsin.output) == 2, "another one")
        assert await tocsin.stop() == 0


async def test_sender_with_wrong_token_is_reported(tmp_path: Path) -> None:
    """It is counted and logged once, and the alert says that every request is refused."""
    async with running(tmp_path, config()) as tocsin:
        await tocsin.until_ready()
        for _ in range(20):
            assert (await tocsin.post("/api/v1/events/orders", b"{}", Authorization="Bearer wrong"))[0] == 401
        assert await tocsin.metric("tocsin_source_refused_requests_total", source="posted", code="401") == 20
        [alert] = (await tocsin.json("/api/v1/alerts"))["alerts"]
        assert alert["state"] == "up"
        assert alert["message"].startswith("the last 20 requests were refused, the latest: 401: the token is missing")
        assert len(tocsin.logged("request refused")) == 1
        assert (await tocsin.post("/api/v1/events/orders", b"{}", Authorization=AUTHORIZATION))[0] == 202
        [alert] = (await tocsin.json("/api/v1/alerts"))["alerts"]
        assert alert["message"] == ""
