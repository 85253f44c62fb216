"""Signed requests, made by the reference library of the Standard Webhooks specification or by hand."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook

from tocsin.model import Event
from tocsin.signing import Signer
from tocsin.sources import http as kind
from tocsin.sources.http import Http, RefusedRequest

NOW = 1_795_242_548
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PADDED = "whsec_" + "b2xk" * 8 + "bw=="
BODY = b'{"order": "na\xc3\xafve \xe2\x98\x83"}'


@asynccontextmanager
async def taking(events: list[Event]) -> AsyncIterator[Http]:
    """A source whose events are stored immediately, and collected."""
    config = kind.Config.model_validate({"signing_secret": SECRET})
    source = kind.build("posted", config, clock=lambda: float(NOW))
    async with source.open([], position={}) as stream:

        async def take() -> None:
            async for batch in stream.batches():
                events.extend(batch.events)
                await stream.acknowledge(batch, [])

        taker = asyncio.create_task(take())
        try:
            yield source
        finally:
            taker.cancel()
            await asyncio.gather(taker, return_exceptions=True)


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def answer(headers: Mapping[str, str], body: bytes, events: list[Event] | None = None) -> int:
    """The status with which a request is answered."""
    async with taking([] if events is None else events) as source:
        try:
            await source.receive("orders", headers, _whole(body))
        except RefusedRequest as refused:
            return refused.status
        return 200


def signed(body: bytes = BODY, *, instead: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**Signer([SECRET]).headers("msg-1", NOW, body), **(instead or {})}


async def test_signature_of_reference_library_is_accepted() -> None:
    """Text beyond ASCII, and the time in UTC."""
    moment = datetime.fromtimestamp(NOW, UTC)
    signature = Webhook(SECRET).sign("msg-1", moment, BODY.decode())
    headers = {"webhook-id": "msg-1", "webhook-timestamp": str(NOW), "webhook-signature": signature}
    assert await answer(headers, BODY) == 200
    assert headers == signed()


@pytest.mark.parametrize("before", ["v1,AAAA ", "v2,x v1a,y ", "nocomma ", "  ", "v1,not*base64 ", "v1, ", "\u00e9 "])
async def test_other_signatures_do_not_hide_valid_one(before: str) -> None:
    """The library raises for some of these."""
    good = signed()["webhook-signature"]
    assert await answer(signed(instead={"webhook-signature": before + good}), BODY) == 200
    assert await answer(signed(instead={"webhook-signature": f"{good} {before}"}), BODY) == 200


@pytest.mark.parametrize("body", [b"", b"not json", b"\xff\xfe", b"7", b"[7]"])
async def test_signed_invalid_body_is_bad_request(body: bytes) -> None:
    """The signature is valid, so the answer is not 401."""
    assert await answer(signed(body), body) == 400


async def test_repeated_signed_request_has_same_event_id() -> None:
    """A signature verifies any number of times: the signed id identifies a repeat, another header does not."""
    events: list[Event] = []
    await answer(signed(), BODY, events)
    await answer(signed(instead={"idempotency-key": "another"}), BODY, events)
    first, second = events
    assert first.id == second.id


async def test_header_names_of_svix_are_not_accepted() -> None:
    """Older senders write svix-id and so on."""
    headers = {name.replace("webhook-", "svix-"): value for name, value in signed().items()}
    assert await answer(headers, BODY) == 401


@pytest.mark.parametrize("moment", [f"{NOW}.0", f"+{NOW}", f" {NOW}", str(NOW * 1000), f"-{NOW}", "\u0661"])
async def test_timestamp_must_be_whole_seconds(moment: str) -> None:
    """Other spellings of the same number are not the signed text."""
    assert await answer(signed(instead={"webhook-timestamp": moment}), BODY) == 401


@pytest.mark.parametrize(
    "secret",
    [
        "my-secret-string!",
        "whsec_my-secret-string!",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_" + "-_" * 20,
        "whsec_c2hvcnQ=",
        "whsec_",
    ],
)
def test_secret_without_base64_key_is_refused(secret: str) -> None:
    """The library decodes any text as far as it goes, and signs with the rest."""
    with pytest.raises(ValidationError, match="a signing secret is whsec_ followed by") as caught:
        kind.Config.model_validate({"signing_secret": secret})
    assert len(secret) < 10 or secret not in str(caught.value)


@pytest.mark.parametrize("padding", ["==", ""])
def test_padding_of_secret_does_not_matter(padding: str) -> None:
    """Both spellings are the same key to the library."""
    headers: dict[str, Any] = dict(Signer([PADDED.rstrip("=") + padding]).headers("msg-1", NOW, BODY))
    expected = Webhook(PADDED)
    assert headers["webhook-signature"] == expected.sign("msg-1", datetime.fromtimestamp(NOW, UTC), BODY.decode())
