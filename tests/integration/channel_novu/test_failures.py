"""How the Novu channel classifies failures, and what it sends again."""

import logging
from typing import Any

import pytest

from support.messages import message
from support.novu import API_KEY, TRIGGER, FakeNovu, fake_novu
from support.receiver import Answer, Receiver
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Rejected, Result, Retry
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin_demo.inbox.inbox import Settings


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 408, "message": "slow"}, Retry(Reason.TIMEOUT, "408 slow", 2.0)),
        ({"status": 409, "message": "wait", "retry_after": 1}, Retry(Reason.IN_PROGRESS, "409 wait", 1.0, free=True)),
        ({"status": 429, "retry_after": 2}, Retry(Reason.RATE_LIMITED, "429 Too Many Requests", 2.0, free=True)),
        ({"status": 500}, Retry(Reason.SERVER_ERROR, "500 Internal server error", 2.0)),
        ({"status": 503, "retry_after": 30}, Retry(Reason.SERVER_ERROR, "503 Internal server error", 30.0)),
    ],
)
async def test_repeat_waits_after_each_http_status(
    server: FakeNovu, build: Build, fault: dict[str, Any], expected: Result
) -> None:
    """One request each: the SDK itself would repeat it for an hour, under other idempotency keys."""
    server.fault("status", **fault)
    assert await sent(build(server.url)) == expected
    assert [each.idempotency_key for each in server.requests()] == [message().id]


async def test_repeat_after_a_timeout_waits(build: Build) -> None:
    """The SDK's own timeout restarts with each byte of an answer that never ends."""
    async with Receiver(lambda _: Answer(status=201, unfinished=True)) as receiver:
        result = await sent(build(receiver.url, timeout="200ms", unknown_outcome_wait="3s"))
    assert result == Retry(Reason.TIMEOUT, "no answer within 0.2 s", 3.0)


async def test_cut_connection_is_retried_and_delivered_once(server: FakeNovu, build: Build) -> None:
    channel = build(server.url)
    server.fault("cut", times=1, processed=True)
    result = await sent(channel)
    assert isinstance(result, Retry)
    assert (result.reason, result.after) == (Reason.CONNECTION, 2.0)
    await server.until_delivered(1)
    assert await sent(channel) == Delivered()
    assert len(server.messages()) == 1


async def test_stored_error_is_tried_under_another_key(server: FakeNovu, build: Build) -> None:
    channel = build(server.url)
    server.fault("status", status=500, times=1, stored=True)
    assert isinstance(await sent(channel), Retry)
    assert await sent(channel, message(attempts=1)) == Delivered()
    await server.until_delivered(1)
    keys = [each.idempotency_key for each in server.requests(TRIGGER)]
    assert keys == [message().id, message().id, f"{message().id}-1"]


@pytest.mark.parametrize("release", ["2.0.0", "3.15.0"])
async def test_rejected_message_succeeds_once_the_workflow_exists(build: Build, release: Any) -> None:
    """3.15.0 repeats a stored rejection as 503."""
    async with fake_novu(Settings(api_key=API_KEY, release=release)) as server:
        channel = build(server.url, workflow="later")
        for _ in range(2):
            assert isinstance(await sent(channel), Rejected)
        server.add_workflow("later")
        assert await sent(channel) == Delivered()
        await server.until_delivered(1)


async def test_repeat_with_another_body_is_not_delivered_twice(server: FakeNovu, build: Build) -> None:
    assert await sent(build(server.url)) == Delivered()
    await server.until_delivered(1)
    assert await sent(build(server.url, payload=["customer"]), message(attempts=1)) == Delivered()
    await server.until(lambda: server.inbox.engine.counters.repeats_dropped == 1)
    assert server.requests(TRIGGER)[-1].idempotency_key == f"{message().id}-1"
    assert len(server.messages()) == 1


@pytest.mark.parametrize("id_", ["e" * 32, "order-7#2"])
async def test_cancel_and_delete_send_id_and_key(server: FakeNovu, build: Build, id_: str) -> None:
    """The SDK cuts an id at `#`, and makes up a random key."""
    channel = build(server.url, on_resolve="cancel_and_delete", cancel_within="1ms")
    await sent(channel, message(Kind.RESOLVED, at=1_795_242_600_000, previous_ids=(id_,), age=1.0))
    quoted = id_.replace("#", "%23")
    assert [(each.path, each.idempotency_key) for each in server.requests(method="DELETE")] == [
        (f"/v1/events/trigger/{quoted}", id_),
        (f"/v1/messages/transaction/{quoted}?channel=in_app", id_),
    ]


async def test_sdk_logs_nothing_with_its_debug_variable(
    server: FakeNovu, build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOVU_DEBUG", "true")
    with caplog.at_level(logging.DEBUG):
        await sent(build(server.url))
    assert not [record for record in caplog.records if record.name.startswith("novu")]
    assert API_KEY not in caplog.text
