"""The webhook channel against a receiver on this machine. What every channel must keep is in
tests/contract/test_channels.py."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import ValidationError

from support.messages import message
from support.receiver import Answer, Receiver
from tocsin.channels import webhook
from tocsin.channels.base import Delivered, Message, Paused, Rejected, Result, Retry
from tocsin.errors import Reason

TOKEN = 'T0K3N/with-"quote"-and%20more'


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as server:
        yield server


Build = Callable[..., webhook.Webhook]


@pytest.fixture
async def build(receiver: Receiver) -> AsyncIterator[Build]:
    made: list[webhook.Webhook] = []

    def make(now: float = 0.0, **settings: Any) -> webhook.Webhook:
        config = webhook.Config.model_validate({"type": "webhook", "url": f"{receiver.url}/hook", **settings})
        routes = {"late": webhook.Options.model_validate({"body": settings.get("body")})}
        made.append(webhook.build("hook", config, routes, now=lambda: now))
        return made[-1]

    yield make
    for channel in made:
        await channel.close()


async def sent(channel: webhook.Webhook, what: Message | None = None) -> Result:
    [result] = await channel.send([what or message()])
    return result


async def test_the_body_is_the_envelope_and_the_id_is_the_idempotency_key(build: Build, receiver: Receiver) -> None:
    what = message()
    assert await sent(build(), what) == Delivered()
    [request] = receiver.requests
    assert (request.method, request.path) == ("POST", "/hook")
    assert request.json == what.envelope
    assert request.headers["idempotency-key"] == what.id
    assert request.headers["content-type"] == "application/json"


async def test_a_repeat_is_byte_identical(build: Build, receiver: Receiver) -> None:
    receiver.script(Answer(status=500))
    channel = build()
    await sent(channel)
    await sent(channel)
    first, second = receiver.requests
    assert first.body == second.body


async def test_a_body_template_keeps_numbers_as_numbers(build: Build, receiver: Receiver) -> None:
    channel = build(body={"text": "{{ alert }} for {{ labels.customer }}", "count": "{{ value }}", "tags": ["x", 1]})
    assert await sent(channel) == Delivered()
    assert receiver.requests[0].json == {"text": "late for Ann", "count": 3, "tags": ["x", 1]}


async def test_a_body_template_that_misses_a_column_rejects_and_names_it(build: Build, receiver: Receiver) -> None:
    result = await sent(build(body={"text": "{{ row.custmer }}"}))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert "late: body.text" in result.detail
    assert "custmer" in result.detail
    assert not receiver.requests


async def test_method_and_headers_are_as_configured(build: Build, receiver: Receiver) -> None:
    await sent(build(method="PUT", headers={"Authorization": "Bearer abcdefgh"}))
    [request] = receiver.requests
    assert (request.method, request.headers["authorization"]) == ("PUT", "Bearer abcdefgh")


async def test_connections_are_kept(build: Build, receiver: Receiver) -> None:
    channel = build()
    for _ in range(3):
        await sent(channel)
    assert len(receiver.connections) == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(status=204), Delivered()),
        (Answer(status=200, body=b"not { json"), Delivered()),
        (Answer(status=200, unfinished=True), Delivered()),
        (Answer(status=408), Retry(Reason.TIMEOUT, "408")),
        (Answer(status=409), Retry(Reason.IN_PROGRESS, "409")),
        (Answer(status=425), Retry(Reason.TOO_EARLY, "425")),
        (Answer(status=429, headers={"Retry-After": "7"}), Retry(Reason.RATE_LIMITED, "429", 7.0, free=True)),
        (Answer(status=503, headers={"Retry-After": "0"}), Retry(Reason.SERVER_ERROR, "503", 0.0)),
        (Answer(status=503, headers={"Retry-After": "-5"}), Retry(Reason.SERVER_ERROR, "503", 0.0)),
        (Answer(status=503, headers={"Retry-After": "soon"}), Retry(Reason.SERVER_ERROR, "503")),
        (Answer(status=503, headers={"Retry-After": "inf"}), Retry(Reason.SERVER_ERROR, "503")),
        (Answer(status=503, headers={"Retry-After": "9" * 30}), Retry(Reason.SERVER_ERROR, "503", 86400.0)),
        (
            Answer(status=503, headers={"Retry-After": "Thu, 01 Jan 1970 00:02:00 GMT"}),
            Retry(Reason.SERVER_ERROR, "503", 20.0),
        ),
        (Answer(status=402), Paused(Reason.UNAUTHORIZED, "402")),
        (Answer(status=410, body=b"gone\r\nfor good"), Rejected(Reason.NOT_FOUND, "410 gone for good")),
        (Answer(status=413), Rejected(Reason.TOO_LARGE, "413")),
        (Answer(status=422, body=b"\xff\x00bad"), Rejected(Reason.REJECTED, "422 \N{REPLACEMENT CHARACTER} bad")),
    ],
)
async def test_an_answer_is_told_rightly(build: Build, receiver: Receiver, answer: Answer, expected: Result) -> None:
    receiver.script(answer)
    assert await sent(build(now=100.0)) == expected


async def test_a_redirect_is_refused_and_not_followed(build: Build, receiver: Receiver) -> None:
    receiver.script(Answer(status=307, headers={"Location": f"{receiver.url}/elsewhere?{TOKEN[:5]}"}))
    result = await sent(build())
    assert isinstance(result, Rejected)
    assert "set the final address as url" in result.detail
    assert len(receiver.requests) == 1


async def test_an_error_whose_body_never_ends_is_told_by_its_status(build: Build, receiver: Receiver) -> None:
    receiver.script(Answer(status=500, body=b"boom", unfinished=True))
    assert await sent(build(timeout="1s")) == Retry(Reason.SERVER_ERROR, "500 boom")


async def test_only_the_beginning_of_a_long_answer_is_quoted(build: Build, receiver: Receiver) -> None:
    receiver.script(Answer(status=400, body=b"x" * 5_000_000))
    result = await sent(build())
    assert isinstance(result, Rejected)
    assert len(result.detail) == 200


async def test_secrets_echoed_by_the_receiver_are_not_repeated(build: Build, receiver: Receiver) -> None:
    channel = build(
        url=f"{receiver.url}/services/S3CR3TPATH?key=S3CR3TQUERY",
        headers={"X-Key": TOKEN, "Authorization": "Bearer S3CR3THEADER"},
    )
    echo = f"bad: {TOKEN} / {json.dumps(TOKEN)} / S3CR3TPATH S3CR3TQUERY S3CR3THEADER"
    receiver.script(Answer(status=400, body=echo.encode()))
    result = await sent(channel)
    assert isinstance(result, Rejected)
    assert "S3CR3T" not in result.detail
    assert "T0K3N" not in result.detail
    assert result.detail.startswith("400 bad: <secret> /")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"url": "ftp://example.com/S3CR3T"}, "write a whole address"),
        ({"url": "S3CR3T"}, "write a whole address"),
        ({"url": "http://x/", "headers": {"X-A": "S3CR3T\r\nX-B: 1"}}, "X-A: a header value is one line"),
        ({"url": "http://x/", "headers": {"Idempotency-Key": "1"}}, "Idempotency-Key is set by Tocsin"),
        ({"url": "http://x/", "headers": {"no good": "1"}}, "match pattern"),
        ({"url": "http://x/", "body": {"a": ["{{ rwo }}"]}}, "body.a[0]: there is no variable 'rwo'"),
        ({"url": "http://x/", "backoff_initial": "10m"}, "backoff_max must not be less"),
        ({"url": "http://x/", "on": []}, "at least 1 item"),
        ({"url": "http://x/", "on": ["fird"]}, "'repeated' or 'event'"),
    ],
)
def test_a_wrong_setting_is_refused_without_repeating_secrets(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        webhook.Config.model_validate({"type": "webhook", **settings})
    assert complaint in str(caught.value)
    assert "S3CR3T" not in str(caught.value)


def test_the_url_can_come_from_a_file(tmp_path: Any) -> None:
    path = tmp_path / "url"
    path.write_text("http://127.0.0.1/hook\n")
    config = webhook.Config.model_validate({"type": "webhook", "url_file": str(path)})
    assert config.url.get_secret_value() == "http://127.0.0.1/hook"
    assert "hook" not in repr(config).replace("webhook", "")
