"""Several notifications in one request to Novu."""

import pytest

from support.novu import BULK, FakeNovu, RateLimits, bodies, several
from support.receiver import Receiver, of_json
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Rejected, Retry
from tocsin.errors import Reason


async def test_several_are_sent_in_one_request(server: FakeNovu, build: Build) -> None:
    channel = build(server.url)
    assert [channel.batch_size(pending) for pending in (1, 37, 1000)] == [1, 37, 100]
    assert await channel.send(several(100)) == [Delivered()] * 100
    await server.until_delivered(100)
    assert [each.path for each in server.requests()] == [BULK]


async def test_bad_event_is_rejected_alone(server: FakeNovu, build: Build) -> None:
    messages = several(3)
    bad = sorted(messages, key=lambda each: each.id)[1]
    server.fault("bad_event", index=1)
    results = await build(server.url).send(messages)
    rejected = Rejected(Reason.NOT_PROCESSED, "error: workflow_not_found")
    assert results == [rejected if each is bad else Delivered() for each in messages]


async def test_same_set_makes_the_same_request(server: FakeNovu, build: Build) -> None:
    """In any order: the repeat after an unknown outcome must be identical."""
    messages = several(5)
    server.fault("status", status=502, times=1)
    channel = build(server.url)
    assert {type(each) for each in await channel.send(messages)} == {Retry}
    assert await channel.send(messages[::-1]) == [Delivered()] * 5
    one, two = server.requests(BULK)
    assert (one.idempotency_key, one.body) == (two.idempotency_key, two.body)
    assert one.idempotency_key not in {each.id for each in messages}


async def test_one_id_is_never_twice_in_a_bulk(server: FakeNovu, build: Build) -> None:
    first, second = several(2)
    assert await build(server.url).send([first, second, first]) == [Delivered()] * 3
    await server.until_delivered(2)
    assert sorted(each["transactionId"] for each in bodies(server, BULK)[0]["events"]) == sorted([first.id, second.id])


async def test_failure_of_the_bulk_is_one_of_each(server: FakeNovu, build: Build) -> None:
    server.fault("status", status=413, message="large")
    assert await build(server.url).send(several(3)) == [Rejected(Reason.TOO_LARGE, "413 large")] * 3


async def test_large_events_go_in_smaller_bulks(server: FakeNovu, build: Build) -> None:
    channel, messages = build(server.url), several(20, extra={"note": ("text", "x" * 400_000)})
    assert await channel.send(messages) == [Delivered()] * 20
    assert len(server.requests(BULK)) == 2
    first = channel.plan(messages).requests[0]
    assert first.parts == [[each] for each in first.messages]


@pytest.mark.parametrize("answered", [1, 2, 4])
async def test_events_without_an_answer_are_not_delivered(build: Build, answered: int) -> None:
    """With fewer or more entries than events, only entries that name an event count."""
    messages = several(3)
    entries = [{"acknowledged": True, "status": "processed", "transactionId": one.id} for one in messages]
    entries.append({"acknowledged": True, "status": "processed", "transactionId": "of-another"})
    async with Receiver(lambda _: of_json(201, {"data": entries[:answered]})) as receiver:
        results = await build(receiver.url).send(messages)
    missing = Rejected(Reason.NOT_PROCESSED, f"no_answer: Novu answered {answered} of 3 events, and not for this one")
    assert results == [Delivered() if number < answered else missing for number in range(3)]


async def test_entries_unknown_to_the_sdk_are_read(build: Build) -> None:
    novel = {"acknowledged": True, "status": "novel", "error": "why"}
    entries = [novel, {"acknowledged": True, "status": "processed"}]
    async with Receiver(lambda _: of_json(201, {"data": entries})) as receiver:
        first, second = sorted(several(2), key=lambda each: each.id)
        results = await build(receiver.url).send([second, first])
    assert results == [Delivered(), Rejected(Reason.NOT_PROCESSED, "novel: why")]


async def test_rate_limit_prefers_singles_to_small_bulks(server: FakeNovu, build: Build) -> None:
    server.inbox.limiter = RateLimits()
    channel = build(server.url)
    assert channel.batch_size(50) == 50
    await sent(channel)
    assert [channel.batch_size(pending) for pending in (50, 99, 100, 500)] == [1, 1, 100, 100]


async def test_bulk_above_the_rate_limit_is_divided(build: Build) -> None:
    """A bulk costs 100 tokens at any length: waiting does not help where the limit is lower."""
    limited = of_json(429, {"message": "slow down"}, retry_after="1", ratelimit_limit="60")
    async with Receiver(lambda _: limited) as receiver:
        channel = build(receiver.url)
        assert await channel.send(several(2)) == [Rejected(Reason.RATE_LIMITED, "429 slow down")] * 2
        assert isinstance(await sent(channel), Retry)
        assert channel.batch_size(1000) == 1
