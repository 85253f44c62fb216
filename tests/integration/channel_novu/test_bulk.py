"""Several notifications in one request to Novu."""

from typing import Any

import pytest

from support.messages import message
from support.novu import API_KEY, FakeNovu, fake_novu
from support.novu_channels import BULK, TRIGGER, bodies, several
from support.receiver import Receiver, of_json
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Rejected, Retry
from tocsin.errors import Reason
from tocsin_demo.inbox.inbox import Settings


async def test_several_go_out_in_one_request(server: FakeNovu, build: Build) -> None:
    channel = build(server.url)
    assert channel.batch_size(1) == 1
    assert channel.batch_size(37) == 37
    assert channel.batch_size(1000) == 100
    assert await channel.send(several(100)) == [Delivered()] * 100
    await server.until_delivered(100)
    assert [each.path for each in server.requests()] == [BULK]


async def test_one_bad_event_is_rejected_alone(server: FakeNovu, build: Build) -> None:
    messages = several(3)
    bad = sorted(messages, key=lambda each: each.id)[1]
    server.fault("bad_event", index=1)
    results = await build(server.url).send(messages)
    rejected = Rejected(Reason.NOT_PROCESSED, "error: workflow_not_found")
    assert results == [rejected if each is bad else Delivered() for each in messages]


async def test_the_same_set_makes_the_same_request_in_whatever_order(server: FakeNovu, build: Build) -> None:
    messages = several(5)
    server.fault("status", status=502, times=1)
    channel = build(server.url)
    first = await channel.send(messages)
    assert {type(each) for each in first} == {Retry}
    assert await channel.send(messages[::-1]) == [Delivered()] * 5
    one, two = server.requests(BULK)
    assert (one.idempotency_key, one.body) == (two.idempotency_key, two.body)
    assert one.idempotency_key not in {each.id for each in messages}


async def test_one_id_is_never_twice_in_a_bulk(server: FakeNovu, build: Build) -> None:
    first, second = several(2)
    assert await build(server.url).send([first, second, first]) == [Delivered()] * 3
    await server.until_delivered(2)
    assert sorted(each["transactionId"] for each in bodies(server, BULK)[0]["events"]) == sorted([first.id, second.id])
    assert server.inbox.engine.counters.doubles == 0


async def test_what_cannot_be_sent_stays_out_and_the_last_one_goes_alone(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, recipients=[{"column": "who"}])
    good = message(extra={"who": ("text", "sub-1")})
    nobody = message(key="18", extra={"who": ("text", "")})
    results = await channel.send([nobody, good])
    assert [type(each) for each in results] == [Rejected, Delivered]
    assert [each.path for each in server.requests()] == [TRIGGER]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "status", "status": 500}, Reason.SERVER_ERROR),
        ({"kind": "status", "status": 429, "retry_after": 2}, Reason.RATE_LIMITED),
        ({"kind": "hang"}, Reason.TIMEOUT),
        ({"kind": "cut"}, Reason.CONNECTION),
    ],
)
async def test_a_failure_of_the_bulk_is_one_of_each(
    server: FakeNovu, build: Build, fault: dict[str, Any], reason: Reason
) -> None:
    server.fault(**fault)
    timeout = "300ms" if fault["kind"] == "hang" else "20s"
    results = await build(server.url, timeout=timeout).send(several(3))
    assert [(type(each), each.reason) for each in results] == [(Retry, reason)] * 3


async def test_a_refused_bulk_is_sent_one_by_one(server: FakeNovu, build: Build) -> None:
    server.fault("status", status=413, path=BULK)
    assert await build(server.url).send(several(3)) == [Delivered()] * 3
    await server.until_delivered(3)
    assert [each.path for each in server.requests()] == [BULK, TRIGGER, TRIGGER, TRIGGER]


async def test_large_events_go_in_smaller_bulks(server: FakeNovu, build: Build) -> None:
    messages = several(20, extra={"note": ("text", "x" * 400_000)})
    assert await build(server.url).send(messages) == [Delivered()] * 20
    requests = server.requests(BULK)
    assert len(requests) == 2
    await server.until_delivered(20)


async def test_a_bulk_answer_that_cannot_be_read_is_a_delivery_of_all(server: FakeNovu, build: Build) -> None:
    server.fault("garbage")
    assert await build(server.url).send(several(3)) == [Delivered()] * 3


async def test_entries_the_sdk_cannot_read_are_still_told_apart(build: Build) -> None:
    entries = [
        {"acknowledged": True, "status": "novel", "error": "why"},
        {"acknowledged": True, "status": "processed"},
    ]
    async with Receiver(lambda _: of_json(201, {"data": entries})) as receiver:
        first, second = sorted(several(2), key=lambda each: each.id)
        results = await build(receiver.url).send([second, first])
    assert results == [Delivered(), Rejected(Reason.NOT_PROCESSED, "novel: why")]


async def test_where_a_bulk_costs_more_of_the_rate_limit_singles_are_chosen(build: Build) -> None:
    async with fake_novu(Settings(api_key=API_KEY, rate_limited=True)) as server:
        channel = build(server.url)
        assert channel.batch_size(50) == 50
        await sent(channel)
        assert (channel.batch_size(50), channel.batch_size(99), channel.batch_size(100), channel.batch_size(500)) == (
            1,
            1,
            100,
            100,
        )
