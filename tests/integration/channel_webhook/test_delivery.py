"""Webhooks through a real ledger and dispatcher."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from support.dispatching import DispatcherHarness
from support.ledger import commit
from support.receiver import Answer, Received
from support.waiting import until_some
from support.webhooks import Hooks
from tocsin.backoff import Backoff
from tocsin.channels.webhook import Webhook
from tocsin.ledger.base import Status
from tocsin.model import Kind

SOON = Backoff(initial=0.001, maximum=0.002)


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


async def test_change_is_one_request_empty_batch_none(outbox: DispatcherHarness, hook: Hooks) -> None:
    channel = hook.build(
        method="PUT",
        headers={"X-Order": "{{ row.order_id }}"},
        body={"order": "{{ row.order_id }}", "was": "{{ status }}"},
    )
    start(outbox, channel)
    await outbox.ledger.commit(commit([], frontier=900))
    [id_] = await outbox.fire("17")
    await outbox.delivered(id_)
    await outbox.ledger.commit(commit([], frontier=2000))
    await outbox.quiet()
    [request] = hook.receiver.requests
    assert (request.method, request.path, request.headers["x-order"]) == ("PUT", "/hook", "17")
    assert request.headers["idempotency-key"] == id_
    assert request.json == {"order": 17, "was": "fired"}


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


async def test_third_call_delivers_after_two_429(outbox: DispatcherHarness, hook: Hooks) -> None:
    hook.receiver.script(Answer(status=429), Answer(status=429))
    start(outbox, hook.build())
    [id_] = await outbox.fire("1")
    await outbox.delivered(id_)
    assert [request.headers["idempotency-key"] for request in hook.receiver.requests] == [id_] * 3
    assert len({request.body for request in hook.receiver.requests}) == 1


async def test_failing_webhook_delays_no_other(outbox: DispatcherHarness, hook: Hooks) -> None:
    def answer(request: Received) -> Answer:
        return Answer(status=500 if request.path == "/dead" else 200)

    hook.receiver.otherwise = answer
    start(outbox, hook.build(url="/dead"), "dead", max_attempts=1000)
    start(outbox, hook.build(url="/alive"), "alive")
    fired = [await outbox.fire(str(number), to=("dead", "alive"), at=1000 + number) for number in range(20)]
    alive = [second for _, second in fired]
    await outbox.delivered(*alive)
    arrived = [request.json["id"] for request in hook.receiver.requests if request.path == "/alive"]
    assert sorted(arrived) == sorted(alive)
    records = await outbox.records(*(first for first, _ in fired))
    assert {record.status for record in records} == {Status.PENDING}


async def test_corrected_secret_is_used_for_pending_notifications(
    outbox: DispatcherHarness, hook: Hooks, tmp_path: Path
) -> None:
    """Rows are kept, not requests: a wrong key loses nothing."""

    def answer(request: Received) -> Answer:
        return Answer(status=200 if request.headers["authorization"] == "Bearer right-key" else 401)

    hook.receiver.otherwise = answer
    file = tmp_path / "key"
    settings: dict[str, Any] = {
        "secrets": {"key_file": str(file)},
        "headers": {"Authorization": "Bearer {{ secrets.key }}"},
        "body": {"key": "{{ secrets.key }}", "order": "{{ row.order_id }}"},
    }
    file.write_text("wrong-key")
    start(outbox, hook.build(**settings))
    waiting = [*await outbox.fire("1"), *await outbox.fire("2", at=1001)]
    await outbox.until(lambda: outbox.dispatchers[0].message, "paused")
    await outbox.stop()
    before = len(hook.receiver.requests)
    file.write_text("right-key\n")
    start(outbox, hook.build(**settings))
    await outbox.delivered(*waiting)
    after = hook.receiver.requests[before:]
    assert {request.headers["authorization"] for request in after} == {"Bearer right-key"}
    assert {request.json["key"] for request in after} == {"right-key"}
    assert sorted(request.headers["idempotency-key"] for request in after) == sorted(waiting)


async def test_corrected_template_is_used_for_dead_letters(outbox: DispatcherHarness, hook: Hooks) -> None:
    start(outbox, hook.build(body={"order": "{{ row.nonesuch }}"}))
    [id_] = await outbox.fire("1")
    assert "nonesuch" in await dead_letter(outbox, id_)
    await outbox.stop()
    await outbox.ledger.retry([id_])
    start(outbox, hook.build(body={"order": "{{ row.order_id }}"}))
    await outbox.delivered(id_)
    assert hook.receiver.requests[0].json == {"order": 1}


def unpacked(request: Received) -> list[Any]:
    """The notifications in a request."""
    if request.headers["content-type"] == "application/x-ndjson":
        return [json.loads(line) for line in request.body.decode().splitlines()]
    found = request.json
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("form", ["array", "ndjson"])
async def test_bad_notification_of_a_batch_is_isolated(outbox: DispatcherHarness, hook: Hooks, form: str) -> None:
    taken: list[str] = []

    def answer(request: Received) -> Answer:
        if any(one["row"]["order_id"] == 13 for one in unpacked(request)):
            return Answer(status=400)
        taken.extend(one["id"] for one in unpacked(request))
        return Answer()

    hook.receiver.otherwise = answer
    ids = await outbox.fire(*(str(number) for number in range(40)))
    start(outbox, hook.build(batch=form, batch_size=40), concurrency=1)
    await outbox.delivered(*(id_ for number, id_ in enumerate(ids) if number != 13))
    assert (await dead_letter(outbox, ids[13])).startswith("rejected: 400")
    assert len(unpacked(hook.receiver.requests[0])) == 40
    assert sorted(taken) == sorted(set(ids) - {ids[13]})
    assert len(hook.receiver.requests) <= 2 * 6 + 1


async def test_batches_keep_the_order_of_an_episode(outbox: DispatcherHarness, hook: Hooks) -> None:
    hook.receiver.script(Answer(status=500))
    hook.receiver.otherwise = lambda request: Answer(status=400 if len(unpacked(request)) > 1 else 200)
    start(outbox, hook.build(batch="array"), max_attempts=10)
    ids = [*await outbox.episode("1", length=4), *await outbox.episode("2", length=3)]
    await outbox.delivered(*ids)
    arrived: dict[str, list[str]] = {}
    for [envelope] in filter(lambda found: len(found) == 1, map(unpacked, hook.receiver.requests[1:])):
        arrived.setdefault(envelope["fingerprint"], []).append(envelope["status"])
    fired, updated, resolved = Kind.FIRED, Kind.UPDATED, Kind.RESOLVED
    assert sorted(arrived.values()) == [[fired, updated, resolved], [fired, updated, updated, resolved]]
