"""Events posted to Tocsin's own port, below the server: reading, limits and acceptance of a request."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from support.sources_http import NOW, TOKEN, Body, settings, taking
from support.waiting import until
from tocsin.errors import SourceError
from tocsin.model import Event
from tocsin.signing import Signer
from tocsin.sources import http as kind
from tocsin.sources.http import Answer, Http, RefusedRequest

SIGNING = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
BODY = b'{"order": "na\xc3\xafve \xe2\x98\x83"}'
STORED = Answer(202, {"events": 1})
SHOWN = {"authorization": f"Bearer {TOKEN}"}


def signed(body: bytes, *, moment: int = NOW, secret: str = SIGNING) -> dict[str, str]:
    return dict(Signer([secret]).headers("msg-1", moment, body))


@asynccontextmanager
async def opened(**given: Any) -> AsyncIterator[Http]:
    """A source whose batches are not consumed."""
    source = kind.build("posted", settings(**given), clock=lambda: float(NOW))
    async with source.open([], position={}):
        yield source


async def refused(source: Http, headers: Mapping[str, str], body: Body) -> int:
    with pytest.raises(RefusedRequest) as raised:
        await source.receive("orders", headers, body)
    return raised.value.status


async def underway(source: Http, body: Body, pieces: int) -> "asyncio.Task[Answer]":
    """A pending request, once so many pieces of its body were requested."""
    request = asyncio.create_task(source.receive("orders", SHOWN, body))
    await until(lambda: body.read >= pieces, "pieces requested")
    return request


@pytest.mark.parametrize(
    ("given", "headers"),
    [
        ({}, {}),
        ({}, {"authorization": "Bearer another-of-some-length"}),
        ({}, {"authorization": "Bearer \udcff"}),
        ({"signing_secret": SIGNING}, {}),
        ({"signing_secret": SIGNING}, signed(b"{}", moment=NOW - 301)),
        ({"signing_secret": SIGNING}, signed(b"{}", moment=NOW + 301)),
        ({"signing_secret": SIGNING}, {**signed(b"{}"), "webhook-id": ""}),
        ({"signing_secret": SIGNING}, {**signed(b"{}"), "webhook-timestamp": "9" * 5000}),
        ({"signing_secret": SIGNING}, {**signed(b"{}"), "webhook-signature": ""}),
        ({"signing_secret": SIGNING}, {**signed(b"{}"), "webhook-signature": "v2,x"}),
    ],
)
async def test_body_is_not_read_with_invalid_headers(given: dict[str, Any], headers: Mapping[str, str]) -> None:
    body = Body(b"{}")
    async with opened(**given) as source:
        assert await refused(source, headers, body) == 401
    assert body.read == 0


async def test_body_is_not_read_while_source_is_closed() -> None:
    source, body = kind.build("posted", settings()), Body(b"{}")
    with pytest.raises(SourceError, match="cannot store events now"):
        await source.receive("orders", SHOWN, body)
    assert body.read == 0


async def test_close_answers_pending_requests_with_retry() -> None:
    async with opened() as source:
        body = Body(b"{}", stays=True)
        waiting = await underway(source, Body(b"{}"), 1)
        reading = await underway(source, body, 2)
    with pytest.raises(SourceError, match="cannot store events now"):
        await waiting
    reading.cancel()


async def test_body_is_read_up_to_its_limit() -> None:
    async with taking(max_body=10) as source:
        body = Body(b"[{", b" " * 6, b"}]")
        assert await source.receive("orders", SHOWN, body) == STORED
        long = Body(b"[{", b" " * 9, b"}]", b"never asked for")
        assert await refused(source, SHOWN, long) == 413
        assert long.read == 2


@pytest.mark.parametrize(("announced", "status"), [("11", 413), ("9" * 5000, 413), ("10", None), ("nonsense", None)])
async def test_body_with_too_large_content_length_is_unread(announced: str, status: int | None) -> None:
    body = Body(b"[{}]")
    async with taking(max_body=10) as source:
        headers = {**SHOWN, "content-length": announced}
        if status is None:
            assert await source.receive("orders", headers, body) == STORED
        else:
            assert await refused(source, headers, body) == status
    assert body.read == (0 if status else 1)


async def test_unfinished_body_times_out() -> None:
    body = Body(b"{", stays=True)
    async with opened(read_timeout="1ms") as source:
        assert await refused(source, SHOWN, body) == 408
    assert body.read == 2


async def test_total_size_of_pending_bodies_is_bounded() -> None:
    async with opened(max_body=10, max_waiting=20) as source:
        reading = [await underway(source, Body(b" " * 8, stays=True), 2) for _ in range(2)]
        fits = await underway(source, Body(b"{}"), 1)
        with pytest.raises(SourceError, match="too many requests"):
            await source.receive("orders", SHOWN, Body(b"[{}]", b" "))
        assert not fits.done()
        for request in reading:
            request.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        again = await underway(source, Body(b"[{}]", b" "), 2)
        assert not again.done()
    with pytest.raises(SourceError, match="cannot store events now"):
        await again
    with pytest.raises(SourceError, match="cannot store events now"):
        await fits


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [(SHOWN, b"[1]", 400), (SHOWN, b" " * 11, 413), ({}, b"{}", 401)],
)
async def test_refused_request_releases_its_bytes(headers: Mapping[str, str], body: bytes, status: int) -> None:
    async with taking(max_body=10, max_waiting=10) as source:
        for _ in range(5):
            assert await refused(source, headers, Body(body)) == status
        assert await source.receive("orders", SHOWN, Body(b'{"a": 100}')) == STORED


async def test_number_of_pending_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "_MAX_REQUESTS", 10)
    async with opened() as source:
        waiting = [asyncio.create_task(source.receive("orders", SHOWN, Body(b"{}"))) for _ in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(SourceError, match="too many requests"):
            await source.receive("orders", SHOWN, Body(b"{}"))
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        waiting[0] = await underway(source, Body(b"{}"), 1)
    assert {type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)} == {SourceError}


@pytest.mark.parametrize(("length", "same"), [(1_000, True), (1_000_000, False)])
async def test_long_body_is_parsed_in_another_thread(length: int, same: bool) -> None:
    threads: list[int] = []

    class Headers(dict[str, str]):
        """Records in which thread the idempotency key is read, which is the thread that parses the events."""

        def get(self, name: str, default: Any = None, /) -> Any:
            if name == "idempotency-key":
                threads.append(threading.get_ident())
            return super().get(name, default)

    whole = json.dumps({"text": "x" * length}).encode()
    async with taking() as source:
        assert await source.receive("orders", Headers(SHOWN), Body(whole)) == STORED
    [thread] = threads
    assert (thread == threading.get_ident()) is same


# Signed requests, made by the reference library of the Standard Webhooks specification or by hand.


async def answer(headers: Mapping[str, str], body: bytes, events: list[Event] | None = None) -> int:
    """The status with which a signed request is answered."""
    async with taking(events, signing_secret=SIGNING) as source:
        try:
            await source.receive("orders", headers, Body(body))
        except RefusedRequest as refusal:
            return refusal.status
        return 202


async def test_signature_of_reference_library_is_accepted() -> None:
    """Text beyond ASCII, and the time in UTC."""
    signature = Webhook(SIGNING).sign("msg-1", datetime.fromtimestamp(NOW, UTC), BODY.decode())
    headers = {"webhook-id": "msg-1", "webhook-timestamp": str(NOW), "webhook-signature": signature}
    assert await answer(headers, BODY) == 202
    assert headers == signed(BODY)
    assert await answer(signed(BODY, secret=OTHER), BODY) == 401
    assert await answer(headers, b"[{}]") == 401


@pytest.mark.parametrize("before", ["v1,AAAA ", "v2,x v1a,y ", "nocomma ", "  ", "v1,not*base64 ", "v1, ", "\u00e9 "])
async def test_other_signatures_do_not_hide_valid_one(before: str) -> None:
    """The library raises for some of these."""
    good = signed(BODY)["webhook-signature"]
    assert await answer({**signed(BODY), "webhook-signature": before + good}, BODY) == 202
    assert await answer({**signed(BODY), "webhook-signature": f"{good} {before}"}, BODY) == 202


@pytest.mark.parametrize("body", [b"", b"not json", b"\xff\xfe", b"7", b"[7]"])
async def test_signed_invalid_body_is_bad_request(body: bytes) -> None:
    """The signature is valid, so the answer is not 401."""
    assert await answer(signed(body), body) == 400


async def test_repeated_signed_request_has_same_event_id() -> None:
    """A signature verifies any number of times: the signed id identifies a repeat, another header does not."""
    events: list[Event] = []
    await answer(signed(BODY), BODY, events)
    await answer({**signed(BODY), "idempotency-key": "another"}, BODY, events)
    first, second = events
    assert first.id == second.id


@pytest.mark.parametrize("moment", [f"{NOW}.0", f"+{NOW}", f" {NOW}", str(NOW * 1000), f"-{NOW}", f"0{NOW}", "\u0661"])
async def test_timestamp_must_be_whole_seconds(moment: str) -> None:
    """Other spellings of the same number are not the signed text."""
    assert await answer({**signed(BODY), "webhook-timestamp": moment}, BODY) == 401
