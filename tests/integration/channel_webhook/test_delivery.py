"""Answers to webhooks, beyond the contract of every channel (tests/contract/test_channels.py)."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from support.dispatching import DispatcherHarness
from support.receiver import Answer, Received
from support.sending import sent
from support.waiting import until_some
from support.webhooks import Hooks
from tocsin.backoff import Backoff
from tocsin.channels.base import Delivered, Rejected, Result, Retry
from tocsin.channels.http import Client
from tocsin.channels.webhook import Webhook
from tocsin.errors import Reason
from tocsin.ledger.base import Status

SOON = Backoff(initial=0.001, maximum=0.002)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(status=200, unfinished=True), Delivered()),
        (Answer(status=500, body=b"boom", unfinished=True), Retry(Reason.SERVER_ERROR, "500 boom")),
        (Answer(status=429, headers={"Retry-After": "7"}), Retry(Reason.RATE_LIMITED, "429", 7.0, free=True)),
        (Answer(status=503, headers={"Retry-After": "-5"}), Retry(Reason.SERVER_ERROR, "503", 0.0)),
        (Answer(status=503, headers={"Retry-After": "soon"}), Retry(Reason.SERVER_ERROR, "503")),
        (Answer(status=503, headers={"Retry-After": "inf"}), Retry(Reason.SERVER_ERROR, "503")),
        (
            Answer(status=503, headers={"Retry-After": f"Thu, 01 Jan 1970 00:02:00 +{'9' * 20}"}),
            Retry(Reason.SERVER_ERROR, "503"),
        ),
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
    timeout = "1s" if answer.status == 500 else "20s"  # one answer never ends
    assert await hook.sent(now=100.0, timeout=timeout) == expected


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


# Through a real ledger and dispatcher.


@pytest.fixture
async def outbox(
    tmp_path: Path, hook: Hooks
) -> AsyncIterator[DispatcherHarness]:  # which ends before its receiver does
    made = DispatcherHarness(tmp_path / "ledger.db", clock=time.time)  # sockets take their time
    yield made
    await made.close()


def start(outbox: DispatcherHarness, channel: Webhook, name: str = "hook", **policy: Any) -> None:
    outbox.start(cast("Any", channel), name=name, **{"backoff": SOON, "max_attempts": 3, "max_age": 1e12, **policy})


async def dead_letter(outbox: DispatcherHarness, id_: str) -> str:
    """Wait for the dead letter, and return its reason."""

    async def dead() -> bool:
        return (await outbox.record(id_)).status is Status.DEAD

    await until_some(dead, "a dead letter")
    record = await outbox.record(id_)
    return f"{record.reason}: {record.detail}"


@pytest.mark.parametrize(
    ("answer", "settings", "outcome", "calls"),
    [
        (Answer(status=500), {}, "the last: server_error: 500", 3),
        (Answer(hang=True), {"timeout": "90ms"}, "the last: timeout: no answer within 0.09 s", 3),
        (Answer(status=400, body=b"no such field"), {}, "rejected: 400 no such field", 1),
    ],
    ids=["500", "timeout", "400"],
)
async def test_attempts_end_in_a_dead_letter(
    outbox: DispatcherHarness, hook: Hooks, answer: Answer, settings: dict[str, Any], outcome: str, calls: int
) -> None:
    """The first attempt counts, and a timeout is an attempt."""
    hook.receiver.otherwise = lambda _: answer
    start(outbox, hook.build(**settings), max_attempts=3)
    [id_] = await outbox.fire("1")
    assert (await dead_letter(outbox, id_)).endswith(outcome)
    assert len(hook.receiver.requests) == calls


async def test_answer_that_is_not_http_is_said_in_one_line() -> None:
    async def answered(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\xffgarbage\r\n\r\n")
        writer.close()

    client = Client(5.0, time.time)
    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        result = await client.request("POST", url, headers={}, redact=str)
        await client.close()
    assert result == Retry(Reason.CONNECTION, "the answer is not HTTP: Bad status line")


async def test_third_call_delivers_after_two_429(outbox: DispatcherHarness, hook: Hooks) -> None:
    hook.receiver.script(Answer(status=429), Answer(status=429))
    start(outbox, hook.build())
    [id_] = await outbox.fire("1")
    await outbox.delivered(id_)
    assert [request.headers["idempotency-key"] for request in hook.receiver.requests] == [id_] * 3
    assert len({request.body for request in hook.receiver.requests}) == 1


async def test_corrected_template_is_used_for_dead_letters(outbox: DispatcherHarness, hook: Hooks) -> None:
    start(outbox, hook.build(body={"order": "{{ row.nonesuch }}"}))
    [id_] = await outbox.fire("1")
    assert "nonesuch" in await dead_letter(outbox, id_)
    await outbox.stop()
    await outbox.ledger.retry([id_])
    start(outbox, hook.build(body={"order": "{{ row.order_id }}"}))
    await outbox.delivered(id_)
    assert hook.receiver.requests[0].json == {"order": 1}


async def test_bad_notification_of_a_batch_is_isolated(outbox: DispatcherHarness, hook: Hooks) -> None:
    taken: list[str] = []

    def answer(request: Received) -> Answer:
        if any(one["row"]["order_id"] == 13 for one in request.json):
            return Answer(status=400)
        taken.extend(one["id"] for one in request.json)
        return Answer()

    hook.receiver.otherwise = answer
    ids = await outbox.fire(*(str(number) for number in range(40)))
    start(outbox, hook.build(batch="array", batch_size=40), concurrency=1)
    await outbox.delivered(*(id_ for number, id_ in enumerate(ids) if number != 13))
    assert (await dead_letter(outbox, ids[13])).startswith("rejected: 400")
    assert len(hook.receiver.requests[0].json) == 40
    assert sorted(taken) == sorted(set(ids) - {ids[13]})
    assert len(hook.receiver.requests) <= 2 * 6 + 1
