"""Requests signed as GitHub, dbt Cloud, Stripe and Slack sign them; forms; what makes a repeat."""

import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from support.sources_http import NOW, Body, taking
from tocsin.model import Event
from tocsin.sources.http import Answer, Config, Http, RefusedRequest
from tocsin.sources.signatures import Name

SECRET = "It's a Secret to Everybody"
"""Of GitHub's documentation, with the signature of `Hello, World!`."""
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
SLACK_TIME = 1531420618
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
SLACK_SIGNATURE = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
"""Of Slack's documentation, of a slash command."""
FORM = {"content-type": "application/x-www-form-urlencoded"}


def mac(text: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), text, "sha256").hexdigest()


def github(body: bytes, delivery: str = "72d3162e", **more: str) -> dict[str, str]:
    return {"x-hub-signature-256": f"sha256={mac(body)}", "x-github-delivery": delivery, **more}


def dbt(body: bytes) -> dict[str, str]:
    return {"authorization": mac(body)}


def stripe(body: bytes, at: int = NOW) -> dict[str, str]:
    return {"stripe-signature": f"t={at},v1={mac(f'{at}.'.encode() + body)},v0={mac(body)}"}


def slack(body: bytes, at: int = NOW) -> dict[str, str]:
    signature = f"v0={mac(f'v0:{at}:'.encode() + body)}"
    return {"x-slack-request-timestamp": str(at), "x-slack-signature": signature}


SIGN: dict[Name, Callable[[bytes], dict[str, str]]] = {"github": github, "dbt": dbt, "stripe": stripe, "slack": slack}


@asynccontextmanager
async def from_sender(
    sender: Name, events: list[Event] | None = None, *, secret: str = SECRET, now: float = NOW
) -> AsyncIterator[Http]:
    async with taking(events, now=now, signature=sender, signing_secret=secret) as source:
        yield source


async def answer(source: Http, headers: Mapping[str, str], body: bytes) -> Answer | str:
    """The answer, or status and reason of a refusal."""
    try:
        return await source.receive("orders", headers, Body(body))
    except RefusedRequest as refused:
        return f"{refused.status}: {refused}"


def row(event: Event) -> dict[str, str | None]:
    return dict(zip((column.name for column in event.columns), event.row, strict=True))


async def test_published_signature_of_github_is_valid() -> None:
    """The body of the example is not JSON, which is found out only once the signature is right."""
    async with from_sender("github") as source:
        shown = {"x-hub-signature-256": GITHUB_SIGNATURE}
        assert str(await answer(source, shown, b"Hello, World!")).startswith("400: ")
        assert str(await answer(source, shown, b"Hello, World?")).startswith(
            "401: the signature in X-Hub-Signature-256"
        )


async def test_published_signature_of_slack_is_valid() -> None:
    """A slash command, which is a form. Slack takes no status but 200, and shows the body of an answer."""
    events: list[Event] = []
    headers = {"x-slack-request-timestamp": str(SLACK_TIME), "x-slack-signature": SLACK_SIGNATURE, **FORM}
    async with from_sender("slack", events, secret=SLACK_SECRET, now=SLACK_TIME + 299) as source:
        assert await answer(source, headers, SLACK_BODY) == Answer(200, None)
    [event] = events
    assert (row(event)["command"], row(event)["text"]) == ("/webhook-collect", "")


@pytest.mark.parametrize("sender", SIGN)
async def test_signature_of_another_secret_is_refused(sender: Name) -> None:
    body = b'{"id": "1"}'
    async with from_sender(sender) as source:
        assert isinstance(await answer(source, SIGN[sender](body), body), Answer)
        assert str(await answer(source, SIGN[sender](body), body + b" ")).startswith("401: the signature in ")
        assert str(await answer(source, {}, body)).startswith("401: the request is not signed: ")
    async with from_sender(sender, secret="another secret of some length") as source:
        refusal = await answer(source, SIGN[sender](body), body)
        assert str(refusal).endswith(" is wrong; set the sender's secret as signing_secret")


@pytest.mark.parametrize("seconds", [-301, 301])
async def test_signed_time_must_be_near(seconds: int) -> None:
    async with from_sender("stripe") as source:
        assert "too old or too new" in str(await answer(source, stripe(b"{}", NOW + seconds), b"{}"))
    async with from_sender("slack") as source:
        assert "too old or too new" in str(await answer(source, slack(b"{}", NOW + seconds), b"{}"))


async def test_any_stripe_signature_may_be_right() -> None:
    """While a secret is rolled, Stripe signs with both."""
    right = f"v1={mac(f'{NOW}.'.encode() + b'{}')}"
    async with from_sender("stripe") as source:
        for shown, valid in (
            (f"t={NOW},v1=00,{right},v0=11", True),
            (f"t={NOW},{right},v1=00", True),
            (f"t={NOW},v1=00,v1=\u00e9", False),
            (f"t={NOW},{right.replace('v1', 'v0')}", False),
            (right, False),
            ("t=now", False),
        ):
            assert isinstance(await answer(source, {"stripe-signature": shown}, b"{}"), Answer) is valid, shown


async def test_refusal_names_the_scheme_of_the_sender() -> None:
    async with from_sender("stripe") as source:
        assert "set `signature: github`" in str(await answer(source, github(b"{}"), b"{}"))
        assert "set `signature" not in str(await answer(source, {"authorization": "Bearer x"}, b"{}"))


REPEATS: list[tuple[Name, dict[str, str], dict[str, Any], bool]] = [
    ("github", {"x-github-delivery": "other"}, {"action": "completed"}, False),
    ("github", {}, {"action": "requested"}, True),
    ("dbt", {}, {"eventId": "wev_1", "data": {"runStatus": "Errored"}}, True),
    ("dbt", {}, {"eventId": "wev_2"}, False),
    ("stripe", {}, {"id": "evt_1", "pending_webhooks": 2}, True),
    ("stripe", {}, {"id": "evt_2"}, False),
    ("slack", {}, {"event_id": "Ev1", "event": {"type": "message"}}, True),
    ("slack", {}, {"event_id": "Ev2"}, False),
    ("slack", {"idempotency-key": "x"}, {"command": "/other"}, False),
]
"""Sender, headers of the second request, its body, and whether it repeats the first."""


@pytest.mark.parametrize(("sender", "headers", "body", "same"), REPEATS)
async def test_id_of_the_sender_identifies_a_repeat(
    sender: Name, headers: dict[str, str], body: dict[str, Any], same: bool
) -> None:
    events: list[Event] = []
    first = json.dumps({"eventId": "wev_1", "id": "evt_1", "event_id": "Ev1"}).encode()
    second = json.dumps(body).encode()
    async with from_sender(sender, events) as source:
        await source.receive("orders", SIGN[sender](first), Body(first))
        await source.receive("orders", {**SIGN[sender](second), **headers}, Body(second))
    assert (events[0].id == events[1].id) is same


async def test_replayed_command_of_slack_is_a_repeat() -> None:
    """It has no id. The signature covers its time."""
    events: list[Event] = []
    async with from_sender("slack", events) as source:
        for at in (NOW, NOW, NOW + 1):
            headers = {**slack(b"command=%2Fdeploy", at), **FORM, "idempotency-key": str(len(events))}
            await source.receive("orders", headers, Body(b"command=%2Fdeploy"))
    first, second, third = (event.id for event in events)
    assert first == second != third


async def test_challenge_of_slack_is_answered() -> None:
    events: list[Event] = []
    body = b'{"token": "x", "challenge": "3eZbrw1aB1", "type": "url_verification"}'
    async with from_sender("slack", events) as source:
        assert await answer(source, slack(body), body) == Answer(200, {"challenge": "3eZbrw1aB1"})
        assert str(await answer(source, slack(b"{}"), body)).startswith("401: ")
    assert events == []


async def test_ping_of_github_is_no_event() -> None:
    events: list[Event] = []
    body = b'{"zen": "Keep it logically awesome.", "hook_id": 1}'
    async with from_sender("github", events) as source:
        headers = github(body, **{"x-github-event": "ping"})
        assert await answer(source, headers, body) == Answer(202, {"events": 0})
    assert events == []


FORMS: list[tuple[bytes, dict[str, str | None]]] = [
    (b"a=1&b=x+y%26z&c=", {"a": "1", "b": "x y&z", "c": ""}),
    (b"a=1&a=2&b=3", {"a": '["1","2"]', "b": "3"}),
    (urlencode({"payload": '{"type": "block_actions", "n": 7}'}).encode(), {"type": "block_actions", "n": "7"}),
    (b"payload=text&b=1", {"payload": "text", "b": "1"}),
    (b' {"a": 1}', {"a": "1"}),
    ("name=na\u00efve".encode(), {"name": "na\u00efve"}),
]


@pytest.mark.parametrize(("body", "expected"), FORMS)
async def test_form_becomes_an_object(body: bytes, expected: dict[str, str | None]) -> None:
    events: list[Event] = []
    async with from_sender("github", events) as source:
        headers = {**github(body), "content-type": "application/x-www-form-urlencoded; charset=utf-8"}
        assert await answer(source, headers, body) == Answer(202, {"events": 1})
    assert row(events[0]) == expected


@pytest.mark.parametrize("body", [b"payload=text", b"a=%ff", b"payload=[1]", b"", b"&"])
async def test_malformed_form_is_refused(body: bytes) -> None:
    async with from_sender("github") as source:
        assert str(await answer(source, {**github(body), **FORM}, body)).startswith("400: the body ")


async def test_unknown_content_encoding_is_refused() -> None:
    async with from_sender("github") as source:
        assert str(await answer(source, {**github(b"{}"), "content-encoding": "compress"}, b"{}")).startswith("415: ")


def test_secret_is_hidden_in_configuration() -> None:
    config = Config.model_validate({"signature": "github", "signing_secret": SECRET})
    assert SECRET not in repr(config)
    assert SECRET not in repr(Http("posted", config, lambda: 0.0))
