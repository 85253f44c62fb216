"""Several notifications in one webhook."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.messages import message
from support.receiver import Answer, Received
from support.webhooks import Hooks, hooks, ids
from tocsin.channels.base import Delivered, Message, Paused, Rejected, Retry
from tocsin.errors import Reason


@pytest.fixture
async def hook() -> AsyncIterator[Hooks]:
    async with hooks() as made:
        yield made


def several(count: int, note: str = "") -> list[Message]:
    return [message(key=str(number), extra={"note": ("text", note)}) for number in range(count)]


async def test_an_array_has_all_of_them_in_order(hook: Hooks) -> None:
    messages = several(5)
    channel = hook.build(batch="array")
    assert channel.batch_size(1000) == 100
    assert await channel.send(messages) == [Delivered()] * 5
    [request] = hook.receiver.requests
    assert request.json == [each.envelope for each in messages]
    assert request.headers["content-type"] == "application/json"


async def test_lines_of_json_have_one_each(hook: Hooks) -> None:
    messages = several(3, note="two\nlines\N{LINE SEPARATOR}")
    await hook.build(batch="ndjson").send(messages)
    [request] = hook.receiver.requests
    assert [json.loads(line) for line in request.body.split(b"\n")[:-1]] == [each.envelope for each in messages]
    assert request.body.endswith(b"}\n")
    assert request.headers["content-type"] == "application/x-ndjson"


async def test_one_alone_is_a_batch_of_one_under_its_own_id(hook: Hooks) -> None:
    [what] = several(1)
    await hook.build(batch="array").send([what])
    [request] = hook.receiver.requests
    assert (request.json, request.headers["idempotency-key"]) == ([what.envelope], what.id)


async def test_the_same_batch_again_has_the_same_key_and_another_has_another(hook: Hooks) -> None:
    hook.receiver.script(Answer(status=500))
    channel = hook.build(batch="array")
    messages = several(3)
    assert await channel.send(messages) == [Retry(Reason.SERVER_ERROR, "500")] * 3
    await channel.send(messages)
    await channel.send(messages[:2])
    first, second, third = (request.headers["idempotency-key"] for request in hook.receiver.requests)
    assert first == second != third
    assert not {first, third} & {each.id for each in messages}


async def test_a_batch_has_no_more_than_its_size_whatever_it_is_given(hook: Hooks) -> None:
    assert await hook.build(batch="array", batch_size=2).send(several(5)) == [Delivered()] * 5
    assert [len(request.json) for request in hook.receiver.requests] == [2, 2, 1]


async def test_each_has_the_body_that_its_template_makes(hook: Hooks) -> None:
    await hook.build(batch="ndjson", body={"n": "{{ row.order_id }}"}).send(several(3))
    await hook.build(batch="array", body_text='{"n":\n {{ row.order_id }}}').send(several(3))
    lines, array = hook.receiver.requests
    assert lines.body == b'{"n":0}\n{"n":1}\n{"n":2}\n'
    assert array.json == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_text_in_a_batch_must_be_json_whatever_its_content_type_says(hook: Hooks) -> None:
    channel = hook.build(batch="array", body_text="{{ row.note }}", content_type="text/plain")
    bad, good = several(1, "no json")[0], message(key="x", extra={"note": ("text", "[1]")})
    results = await channel.send([bad, good])
    assert [type(result) for result in results] == [Rejected, Delivered]
    assert hook.receiver.requests[0].body == b"[[1]]"


async def test_what_goes_to_different_addresses_goes_apart(hook: Hooks) -> None:
    channel = hook.build(batch="array", url="/{{ row.order_id % 2 }}", headers={"X": "{{ row.order_id > 3 }}"})
    assert await channel.send(several(6)) == [Delivered()] * 6
    found = {(request.path, request.headers["x"]): len(request.json) for request in hook.receiver.requests}
    assert found == {("/0", "false"): 2, ("/1", "false"): 2, ("/0", "true"): 1, ("/1", "true"): 1}


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=20), most=st.integers(1, 600), size=st.integers(2, 7))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_no_batch_is_larger_than_it_may_be_and_nothing_is_left_out(
    lengths: Sequence[int], most: int, size: int
) -> None:
    async with hooks() as hook:
        messages = [message(key=str(n), extra={"note": ("text", "x" * length)}) for n, length in enumerate(lengths)]
        channel = hook.build(
            batch="array", batch_bytes=most, batch_size=size, body={"id": "{{ id }}", "x": "{{ row.note }}"}
        )
        results = await channel.send(messages)
    assert results == [Delivered()] * len(messages)
    requests = hook.receiver.requests
    assert [envelope["id"] for request in requests for envelope in request.json] == [each.id for each in messages]
    for request in requests:
        assert len(request.json) <= size
        assert len(request.body) <= most or len(request.json) == 1


@pytest.mark.parametrize(
    "answer",
    [Answer(status=503), Answer(status=429, headers={"Retry-After": "7"}), Answer(cut=True), Answer(status=403)],
)
async def test_an_answer_that_rejects_nothing_counts_for_all_after_one_request(hook: Hooks, answer: Answer) -> None:
    hook.receiver.otherwise = lambda _: answer
    results = await hook.build(batch="array").send(several(5))
    assert len(set(map(repr, results))) == 1
    assert isinstance(results[0], Retry | Paused)
    assert len(hook.receiver.requests) == 1


@given(spoiled=st.sets(st.integers(0, 15)), status=st.sampled_from([400, 404, 413, 422]))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_exactly_what_spoils_a_batch_is_rejected(spoiled: set[int], status: int) -> None:
    def answer(request: Received) -> Answer:
        bad = any(envelope["row"]["order_id"] in spoiled for envelope in request.json)
        if not bad:
            accepted.extend(ids(request.json))
        return Answer(status=status if bad else 200)

    accepted: list[str] = []
    async with hooks() as hook:
        hook.receiver.otherwise = answer
        messages = several(16)
        results = await hook.build(batch="array").send(messages)
    assert {number for number, result in enumerate(results) if isinstance(result, Rejected)} == spoiled
    assert [result for number, result in enumerate(results) if number not in spoiled] == [Delivered()] * (
        16 - len(spoiled)
    )
    assert sorted(accepted) == sorted(each.id for number, each in enumerate(messages) if number not in spoiled)


async def test_one_that_is_too_long_or_cannot_be_rendered_spoils_nothing(hook: Hooks) -> None:
    short = message(key="1", extra={"note": ("text", "x")})
    long = message(key="2", extra={"note": ("text", "x" * 500)})
    broken = message(key="3")
    channel = hook.build(batch="array", body={"note": "{{ row.note }}"}, max_body=200)
    results = await channel.send([short, long, broken])
    assert [getattr(result, "reason", None) for result in results] == [None, Reason.TOO_LARGE, Reason.TEMPLATE]
    assert hook.receiver.requests[0].json == [{"note": "x"}]


async def test_a_slow_receiver_does_not_make_a_call_endless(hook: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher waits for a call as long as for one request and a little more."""
    from tocsin.channels.webhook import batches as module

    monkeypatch.setattr(module, "_FURTHER", 0.0)
    channel = hook.build(batch="array", batch_bytes=1)
    first, *others = await channel.send(several(3))
    assert first == Delivered()
    assert others == [Retry(Reason.TIMEOUT, "not sent yet: what went before it took too long", 0.0, free=True)] * 2
    hook.receiver.otherwise = lambda _: Answer(status=400)
    results: Any = await hook.build(batch="array").send(several(2))
    assert results == [Retry(Reason.REJECTED, "rejected together with others: 400", 0.0)] * 2
