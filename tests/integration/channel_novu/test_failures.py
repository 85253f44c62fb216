"""What the Novu channel makes of failures, and of what it sends again."""

import logging
from typing import Any

import pytest

from support.messages import message
from support.novu import API_KEY, FakeNovu
from support.novu_channels import TRIGGER
from support.receiver import Answer, Receiver
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Paused, Rejected, Result, Retry
from tocsin.errors import Reason


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 400}, Rejected(Reason.REJECTED, "400 Bad Request")),
        ({"status": 402}, Paused(Reason.UNAUTHORIZED, "402 Payment Required")),
        ({"status": 403}, Paused(Reason.UNAUTHORIZED, "403 Forbidden")),
        ({"status": 404, "message": "gone"}, Rejected(Reason.NOT_FOUND, "404 gone")),
        ({"status": 408, "message": "slow"}, Retry(Reason.TIMEOUT, "408 slow", 2.0)),
        ({"status": 409, "message": "wait"}, Retry(Reason.IN_PROGRESS, "409 wait", None, free=True)),
        (
            {"status": 409, "message": "wait", "retry_after": 1},
            Retry(Reason.IN_PROGRESS, "409 wait", 1.0, free=True),
        ),
        ({"status": 413}, Rejected(Reason.TOO_LARGE, "413 Payload Too Large")),
        ({"status": 425, "message": "early"}, Retry(Reason.TOO_EARLY, "425 early")),
        ({"status": 429}, Retry(Reason.RATE_LIMITED, "429 API rate limit exceeded", None, free=True)),
        (
            {"status": 429, "retry_after": 2},
            Retry(Reason.RATE_LIMITED, "429 API rate limit exceeded", 2.0, free=True),
        ),
        ({"status": 500}, Retry(Reason.SERVER_ERROR, "500 Internal server error", 2.0)),
        ({"status": 503, "retry_after": 30}, Retry(Reason.SERVER_ERROR, "503 Internal server error", 30.0)),
    ],
)
async def test_a_status_is_told_rightly(
    server: FakeNovu, build: Build, fault: dict[str, Any], expected: Result
) -> None:
    server.fault("status", **fault)
    assert await sent(build(server.url)) == expected


async def test_a_wrong_key_pauses_the_channel(server: FakeNovu, build: Build) -> None:
    result = await sent(build(server.url, api_key="wrong-S3CR3T"))
    assert result == Paused(Reason.UNAUTHORIZED, "401 API Key not found")


async def test_a_hanging_server_is_a_timeout_and_the_repeat_waits(server: FakeNovu, build: Build) -> None:
    server.fault("hang")
    result = await sent(build(server.url, timeout="200ms", unknown_outcome_wait="3s"))
    assert result == Retry(Reason.TIMEOUT, "no answer within 0.2 s", 3.0)


async def test_an_answer_in_drips_is_a_timeout_too(build: Build) -> None:
    async with Receiver(lambda _: Answer(status=201, unfinished=True)) as receiver:
        result = await sent(build(receiver.url, timeout="200ms"))
    assert result == Retry(Reason.TIMEOUT, "no answer within 0.2 s", 2.0)


async def test_a_cut_connection_is_retried_after_a_wait_and_delivered_once(server: FakeNovu, build: Build) -> None:
    channel = build(server.url)
    server.fault("cut", times=1, processed=True)
    result = await sent(channel)
    assert isinstance(result, Retry)
    assert (result.reason, result.after) == (Reason.CONNECTION, 2.0)
    await server.until_delivered(1)
    assert await sent(channel) == Delivered()
    assert len(server.messages()) == 1


async def test_an_error_that_novu_has_stored_does_not_stick(server: FakeNovu, build: Build) -> None:
    channel = build(server.url)
    server.fault("status", status=500, times=1, stored=True)
    assert isinstance(await sent(channel), Retry)
    assert await sent(channel, message(attempts=1)) == Delivered()
    await server.until_delivered(1)
    keys = [each.idempotency_key for each in server.requests(TRIGGER)]
    assert keys == [message().id, message().id, f"{message().id}-1"]


async def test_a_rejected_one_can_be_sent_again_when_the_workflow_is_there(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, workflow="later")
    for _ in range(3):
        assert isinstance(await sent(channel), Rejected)
    server.add_workflow("later")
    assert await sent(channel) == Delivered()
    await server.until_delivered(1)


async def test_a_repeat_with_another_body_is_accepted_and_not_delivered_twice(server: FakeNovu, build: Build) -> None:
    assert await sent(build(server.url)) == Delivered()
    await server.until_delivered(1)
    assert await sent(build(server.url, payload=["customer"]), message(attempts=1)) == Delivered()
    repeat = server.requests(TRIGGER)[-1]
    await server.until(lambda: server.inbox.engine.counters.repeats_dropped == 1)
    assert repeat.idempotency_key == f"{message().id}-1"
    assert len(server.messages()) == 1


async def test_the_sdk_logs_nothing_even_when_told_to_debug(
    server: FakeNovu, build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOVU_DEBUG", "true")
    with caplog.at_level(logging.DEBUG):
        await sent(build(server.url))
    assert not [record for record in caplog.records if record.name.startswith("novu")]
    assert API_KEY not in caplog.text
