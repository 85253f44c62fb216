"""Webhook requests and answers, beyond the contract of every channel (tests/contract/test_channels.py)."""

from typing import Any

import pytest

from support.receiver import Answer
from support.sending import sent
from support.webhooks import Hooks
from tocsin.channels.base import Delivered, Rejected, Result, Retry
from tocsin.errors import Reason


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(status=200, unfinished=True), Delivered()),
        (Answer(status=500, body=b"boom", unfinished=True), Retry(Reason.SERVER_ERROR, "500 boom")),
        (Answer(status=429, headers={"Retry-After": "7"}), Retry(Reason.RATE_LIMITED, "429", 7.0, free=True)),
        (Answer(status=503, headers={"Retry-After": "-5"}), Retry(Reason.SERVER_ERROR, "503", 0.0)),
        (Answer(status=503, headers={"Retry-After": "soon"}), Retry(Reason.SERVER_ERROR, "503")),
        (Answer(status=503, headers={"Retry-After": "inf"}), Retry(Reason.SERVER_ERROR, "503")),
        (Answer(status=503, headers={"Retry-After": "9" * 30}), Retry(Reason.SERVER_ERROR, "503", 86400.0)),
        (
            Answer(status=503, headers={"Retry-After": "Thu, 01 Jan 1970 00:02:00 GMT"}),
            Retry(Reason.SERVER_ERROR, "503", 20.0),
        ),
        (Answer(status=410, body=b"gone\r\nfor good"), Rejected(Reason.NOT_FOUND, "410 gone for good")),
        (Answer(status=422, body=b"\xff\x00bad"), Rejected(Reason.REJECTED, "422 \N{REPLACEMENT CHARACTER} bad")),
    ],
)
async def test_each_http_status_is_classified(hook: Hooks, answer: Answer, expected: Result) -> None:
    hook.receiver.script(answer)
    assert await hook.sent(now=100.0, timeout="1s") == expected


@pytest.mark.parametrize(
    ("success", "status", "delivered"),
    [(["2xx"], 299, True), ([200, 202], 204, False), (["2xx", 409], 409, True), (["2xx", "3xx"], 303, True)],
)
async def test_statuses_of_success_can_be_set(hook: Hooks, success: Any, status: int, delivered: bool) -> None:
    hook.receiver.script(Answer(status=status))
    rejected = Rejected(Reason.REJECTED, f"not among the statuses in success: {status}")
    assert await hook.sent(success=success) == (Delivered() if delivered else rejected)


async def test_redirect_is_refused_and_not_followed(hook: Hooks) -> None:
    """Also with `max_redirects`, which has no effect."""
    hook.receiver.script(Answer(status=307, headers={"Location": f"{hook.receiver.url}/elsewhere"}))
    detail = "307: the receiver redirects, which is not followed; set the final address as url"
    assert await hook.sent(max_redirects=3) == Rejected(Reason.REJECTED, detail)
    assert len(hook.receiver.requests) == 1


async def test_connections_are_kept_between_requests(hook: Hooks) -> None:
    channel = hook.build()
    for _ in range(3):
        await sent(channel)
    assert len(hook.receiver.connections) == 1
