"""A whole process that receives events over HTTP: any idempotency key, and senders that are refused."""

import asyncio
import hmac
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from support.tocsin import running
from support.waiting import SOON, until, until_equal

pytestmark = pytest.mark.e2e

TOKEN = "a-token-of-some-length"
PATH = "/api/v1/events/orders"
REQUEST = (
    b"POST /api/v1/events/orders HTTP/1.1\r\nHost: tocsin\r\nConnection: close\r\nContent-Length: 2\r\n"
    b"Authorization: Bearer a-token-of-some-length\r\nIdempotency-Key: \xff\xfe 'x\"\r\n\r\n{}"
)


def config() -> dict[str, Any]:
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": "ledger.db"},
        "sources": {"posted": {"type": "http", "token": TOKEN}},
        "channels": {"out": {"type": "console"}},
        "alerts": {"orders": {"source": "posted", "notify": ["out"]}},
    }


async def raw(url: str, request: bytes) -> bytes:
    """Send a request byte for byte, and return the answer."""
    reader, writer = await asyncio.open_connection(URL(url).host, URL(url).port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), SOON)
    finally:
        writer.close()


async def test_renewed_secret_of_a_sender_is_read(tmp_path: Path) -> None:
    """A replaced file, once requests were refused."""
    old, new = "the old secret of the sender", "the new secret of the sender"
    file = tmp_path / "secret"
    file.write_text(old)
    source = {"type": "http", "signature": "github", "signing_secret_file": str(file)}

    async def answered(secret: str) -> int:
        signature = hmac.new(secret.encode(), b"{}", "sha256").hexdigest()
        return (await tocsin.post(PATH, b"{}", X_Hub_Signature_256=f"sha256={signature}"))[0]

    async with running(tmp_path, {**config(), "sources": {"posted": source}}) as tocsin:
        await tocsin.until_ready()
        assert await answered(old) == 202
        file.write_text(new)
        await until_equal(lambda: answered(new), 202, "the new secret")
        assert await answered(old) == 401


async def test_malformed_request_is_logged_without_its_content(tmp_path: Path) -> None:
    """Anyone can send one. A line for many, not a traceback for each."""
    secret = b"Authorization: Bearer a-token-of-some-length"
    async with running(tmp_path, config()) as tocsin:
        await tocsin.until_ready()
        for _ in range(5):
            answer = await raw(tocsin.url, REQUEST.replace(secret, secret + b"\0"))
            assert answer.startswith(b"HTTP/1.0 400 ")
            encoded = b"Content-Encoding: br\r\n" + secret
            assert b"400 Bad Request" in await raw(tocsin.url, REQUEST.replace(secret, encoded))
        assert await tocsin.stop() == 0
    first, second = tocsin.logged("malformed HTTP request")[:2]
    assert "level=warning" in first
    assert {line.partition("error=")[2] for line in (first, second)} == {"BadHttpMessage", "ContentEncodingError"}
    assert tocsin.output == []
    text = "".join(tocsin.log)
    assert "Traceback" not in text
    assert TOKEN not in text


async def test_repeat_is_sent_once_and_wrong_token_reported(tmp_path: Path) -> None:
    """The key of a repeat may be any bytes. Refused requests are counted, logged once, and shown with the alert."""
    right = {"Authorization": f"Bearer {TOKEN}"}
    async with running(tmp_path, config()) as tocsin:
        await tocsin.until_ready()
        for _ in range(2):
            assert b'{"events":1}' in await raw(tocsin.url, REQUEST)
        await until(lambda: len(tocsin.output) == 1, "sent once")
        for _ in range(20):
            assert (await tocsin.post(PATH, b"{}", Authorization="Bearer wrong"))[0] == 401
        assert await tocsin.metric("tocsin_source_refused_requests_total", source="posted", code="401") == 20
        [alert] = (await tocsin.json("/api/v1/alerts"))["alerts"]
        assert alert["state"] == "up"
        assert alert["message"].startswith("the last 20 requests were refused, the latest: 401: the token is missing")
        assert len(tocsin.logged("request refused")) == 1
        assert (await tocsin.post(PATH, b"{}", **right))[0] == 202
        [alert] = (await tocsin.json("/api/v1/alerts"))["alerts"]
        assert alert["message"] == ""
        await until(lambda: len(tocsin.output) == 2, "another one")
        assert await tocsin.stop() == 0
