"""Webhooks through a real ledger and dispatcher: what is committed arrives, what fails is tried again or parked, and a
correction of the configuration reaches what waits."""

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from support.dispatching import Desk
from support.ledger import commit, transition
from support.receiver import Answer, Received
from support.waiting import until_some
from support.webhooks import Hooks, hooks
from tocsin.backoff import Backoff
from tocsin.channels.webhook import Webhook
from tocsin.ledger.base import Status
from tocsin.model import Kind

SOON = Backoff(initial=0.001, maximum=0.002)


@pytest.fixture
async def hook() -> AsyncIterator[Hooks]:
    async with hooks() as made:
        yield made


@pytest.fixture
async def desk(tmp_path: Path, hook: Hooks) -> AsyncIterator[Desk]:  # which ends before its receiver does
    made = Desk(tmp_path / "ledger.db")
    made.clock = cast("Any", time.time)  # sockets take their time
    yield made
    await made.close()


def start(desk: Desk, channel: Webhook, name: str = "hook", **policy: Any) -> None:
    desk.start(cast("Any", channel), name=name, **{"backoff": SOON, "max_attempts": 3, "max_age": 1e12, **policy})


async def parked(desk: Desk, id_: str) -> str:
    """Wait for the dead letter, and say why it is one."""

    async def dead() -> bool:
        return (await desk.record(id_)).status is Status.DEAD

    await until_some(dead, "a dead letter")
    record = await desk.record(id_)
    return f"{record.reason}: {record.detail}"


async def test_a_batch_with_a_change_is_one_request_and_an_empty_one_is_none(desk: Desk, hook: Hooks) -> None:
    channel = hook.build(
        method="PUT",
        headers={"X-Order": "{{ row.order_id }}"},
        body={"order": "{{ row.order_id }}", "was": "{{ status }}"},
    )
    start(desk, channel)
    await desk.ledger.commit(commit([], frontier=900))
    [id_] = await desk.tell("17")
    await desk.delivered(id_)
    await desk.ledger.commit(commit([], frontier=2000))
    await desk.quiet()
    [request] = hook.receiver.requests
    assert (request.method, request.path, request.headers["x-order"]) == ("PUT", "/hook", "17")
    assert request.headers["idempotency-key"] == id_
    assert request.json == {"order": 17, "was": "fired"}


async def test_a_receiver_that_is_busy_twice_has_it_with_the_third_call_under_the_same_key(
    desk: Desk, hook: Hooks
) -> None:
    hook.receiver.script(Answer(status=429), Answer(status=429))
    start(desk, hook.build())
    [id_] = await desk.tell("1")
    await desk.delivered(id_)
    assert [request.headers["idempotency-key"] for request in hook.receiver.requests] == [id_] * 3
    assert len({request.body for request in hook.receiver.requests}) == 1


@pytest.mark.parametrize("most", [1, 2, 4])
async def test_max_attempts_counts_the_first_one(desk: Desk, hook: Hooks, most: int) -> None:
    hook.receiver.otherwise = lambda _: Answer(status=500)
    start(desk, hook.build(), max_attempts=most)
    [id_] = await desk.tell("1")
    assert await parked(desk, id_) == f"exhausted: {most} attempts; the last: server_error: 500"
    assert len(hook.receiver.requests) == most


async def test_a_request_that_is_not_answered_in_time_is_an_attempt(desk: Desk, hook: Hooks) -> None:
    hook.receiver.otherwise = lambda _: Answer(hang=True)
    start(desk, hook.build(timeout="50ms"), max_attempts=2)
    [id_] = await desk.tell("1")
    assert await parked(desk, id_) == "exhausted: 2 attempts; the last: timeout: no answer within 0.05 s"
    assert len(hook.receiver.requests) == 2


async def test_what_the_receiver_does_not_take_is_parked_after_one_call(desk: Desk, hook: Hooks) -> None:
    hook.receiver.otherwise = lambda _: Answer(status=400, body=b"no such field")
    start(desk, hook.build())
    [id_] = await desk.tell("1")
    assert await parked(desk, id_) == "rejected: 400 no such field"
    assert len(hook.receiver.requests) == 1


async def test_a_text_that_is_no_json_is_parked_and_the_others_go_on(desk: Desk, hook: Hooks) -> None:
    start(desk, hook.build(body_text='{"note": "{{ row.note }}"}'))
    [bad] = await desk.tell_of([transition("1", note='"')])
    [good] = await desk.tell_of([transition("2", note="fine")])
    await desk.delivered(good)
    assert (await parked(desk, bad)).startswith("template: late: body_text: the rendered text is no JSON")
    assert [request.json for request in hook.receiver.requests] == [{"note": "fine"}]


async def test_a_webhook_that_fails_for_ever_costs_the_healthy_one_nothing(desk: Desk, hook: Hooks) -> None:
    def answer(request: Received) -> Answer:
        return Answer(status=500 if request.path == "/dead" else 200)

    hook.receiver.otherwise = answer
    start(desk, hook.build(url="/dead"), "dead", max_attempts=1000)
    start(desk, hook.build(url="/alive"), "alive")
    told = [await desk.tell(str(number), to=("dead", "alive"), at=1000 + number) for number in range(20)]
    alive = [second for _, second in told]
    await desk.delivered(*alive)
    arrived = [request.json["id"] for request in hook.receiver.requests if request.path == "/alive"]
    assert sorted(arrived) == sorted(alive)
    records = await desk.records(*(first for first, _ in told))
    assert {record.status for record in records} == {Status.PENDING}


async def test_what_waits_goes_out_with_the_secret_as_it_was_corrected(desk: Desk, hook: Hooks, tmp_path: Path) -> None:
    """Rows are kept, not requests: a wrong key dooms nothing."""

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
    start(desk, hook.build(**settings))
    waiting = [*await desk.tell("1"), *await desk.tell("2", at=1001)]
    await desk.until(lambda: desk.dispatchers[0].message, "paused")
    await desk.stop()
    before = len(hook.receiver.requests)
    file.write_text("right-key\n")
    start(desk, hook.build(**settings))
    await desk.delivered(*waiting)
    after = hook.receiver.requests[before:]
    assert {request.headers["authorization"] for request in after} == {"Bearer right-key"}
    assert {request.json["key"] for request in after} == {"right-key"}
    assert sorted(request.headers["idempotency-key"] for request in after) == sorted(waiting)


async def test_a_corrected_template_is_used_for_what_was_parked(desk: Desk, hook: Hooks) -> None:
    start(desk, hook.build(body={"order": "{{ row.nonesuch }}"}))
    [id_] = await desk.tell("1")
    assert "nonesuch" in await parked(desk, id_)
    await desk.stop()
    await desk.ledger.retry([id_])
    start(desk, hook.build(body={"order": "{{ row.order_id }}"}))
    await desk.delivered(id_)
    assert hook.receiver.requests[0].json == {"order": 1}


Spoiled = Callable[[Any], bool]


def choosy(spoiled: Spoiled, status: int = 400) -> Callable[[Received], Answer]:
    """A receiver that rejects whatever has a spoiled notification in it."""

    def answer(request: Received) -> Answer:
        return Answer(status=status if any(map(spoiled, unpacked(request))) else 200)

    return answer


def unpacked(request: Received) -> list[Any]:
    """The notifications in a request."""
    if request.headers["content-type"] == "application/x-ndjson":
        return [json.loads(line) for line in request.body.decode().splitlines()]
    found = request.json
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("form", ["array", "ndjson"])
async def test_what_waits_goes_together_and_one_spoiled_one_is_parked_alone(desk: Desk, hook: Hooks, form: str) -> None:
    hook.receiver.otherwise = choosy(lambda envelope: envelope["row"]["order_id"] == 13)
    ids = await desk.tell(*(str(number) for number in range(40)))
    start(desk, hook.build(batch=form, batch_size=40), concurrency=1)
    await desk.delivered(*(id_ for number, id_ in enumerate(ids) if number != 13))
    assert (await parked(desk, ids[13])).startswith("rejected: 400")
    assert len(unpacked(hook.receiver.requests[0])) == 40
    taken = [
        one["id"] for request in hook.receiver.requests for one in unpacked(request) if not spoilt(unpacked(request))
    ]
    assert sorted(taken) == sorted(set(ids) - {ids[13]})
    assert len(hook.receiver.requests) <= 2 * 6 + 1


def spoilt(envelopes: list[Any]) -> bool:
    return any(envelope["row"]["order_id"] == 13 for envelope in envelopes)


async def test_the_order_within_an_episode_holds_in_batches(desk: Desk, hook: Hooks) -> None:
    hook.receiver.script(Answer(status=500))
    hook.receiver.otherwise = lambda request: Answer(status=400 if len(unpacked(request)) > 1 else 200)
    start(desk, hook.build(batch="array"), max_attempts=10)
    ids = [*await desk.episode("1", length=4), *await desk.episode("2", length=3)]
    await desk.delivered(*ids)
    arrived: dict[str, list[str]] = {}
    for [envelope] in filter(lambda found: len(found) == 1, map(unpacked, hook.receiver.requests[1:])):
        arrived.setdefault(envelope["fingerprint"], []).append(envelope["status"])
    fired, updated, resolved = Kind.FIRED, Kind.UPDATED, Kind.RESOLVED
    assert sorted(arrived.values()) == [[fired, updated, resolved], [fired, updated, updated, resolved]]
