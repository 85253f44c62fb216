"""Several notifications in one webhook."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.messages import message
from support.receiver import Answer
from support.webhooks import Hooks, hooks
from tocsin.channels.base import Delivered, Message, Paused, Rejected, Retry
from tocsin.channels.webhook.channel import BatchWebhook
from tocsin.errors import Reason


def several(count: int, note: str = "") -> list[Message]:
    return [message(key=str(number), extra={"note": ("text", note)}) for number in range(count)]


async def test_array_has_all_in_order(hook: Hooks) -> None:
    messages = several(5)
    channel = hook.build(batch="array")
    assert channel.batch_size(1000) == 100
    assert await channel.send(messages) == [Delivered()] * 5
    assert await channel.send(messages[:1]) == [Delivered()]
    several_, one = hook.receiver.requests
    assert several_.json == [each.envelope for each in messages]
    assert several_.headers["content-type"] == "application/json"
    assert (one.json, one.headers["idempotency-key"]) == ([messages[0].envelope], messages[0].id)


async def test_ndjson_has_a_line_each(hook: Hooks) -> None:
    messages = several(3, note="two\nlines\N{LINE SEPARATOR}")
    await hook.build(batch="ndjson").send(messages)
    [request] = hook.receiver.requests
    assert [json.loads(line) for line in request.body.split(b"\n")[:-1]] == [each.envelope for each in messages]
    assert request.body.endswith(b"}\n")
    assert request.headers["content-type"] == "application/x-ndjson"


async def test_same_batch_has_the_same_key(hook: Hooks) -> None:
    hook.receiver.script(Answer(status=500))
    channel = hook.build(batch="array")
    messages = several(3)
    assert await channel.send(messages) == [Retry(Reason.SERVER_ERROR, "500")] * 3
    await channel.send(messages)
    await channel.send(messages[:2])
    first, second, third = (request.headers["idempotency-key"] for request in hook.receiver.requests)
    assert first == second != third
    assert not {first, third} & {each.id for each in messages}


async def test_templates_render_each_notification(hook: Hooks) -> None:
    await hook.build(batch="ndjson", body={"n": "{{ row.order_id }}"}).send(several(3))
    await hook.build(batch="array", body_text='{"n":\n {{ row.order_id }}}').send(several(3))
    lines, array = hook.receiver.requests
    assert lines.body == b'{"n":0}\n{"n":1}\n{"n":2}\n'
    assert array.json == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_unsendable_notification_stays_out(hook: Hooks) -> None:
    """A text that is not JSON, whatever the content type says; a body that is too long; a template that fails."""
    channel = hook.build(batch="array", body_text="{{ row.note }}", content_type="text/plain", max_body=200)
    notes = ["[1]", "no json", f'"{"x" * 300}"']
    messages = [message(key=str(n), extra={"note": ("text", note)}) for n, note in enumerate(notes)]
    results = await channel.send([*messages, message(key="other")])
    reasons = [getattr(result, "reason", None) for result in results]
    assert reasons == [None, Reason.TEMPLATE, Reason.TOO_LARGE, Reason.TEMPLATE]
    assert [request.body for request in hook.receiver.requests] == [b"[[1]]"]


async def test_different_targets_get_different_requests(hook: Hooks) -> None:
    channel = hook.build(batch="array", url="/{{ row.order_id % 2 }}", headers={"X": "{{ row.order_id > 3 }}"})
    assert await channel.send(several(6)) == [Delivered()] * 6
    found = {(request.path, request.headers["x"]): len(request.json) for request in hook.receiver.requests}
    assert found == {("/0", "false"): 2, ("/1", "false"): 2, ("/0", "true"): 1, ("/1", "true"): 1}


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=20), most=st.integers(1, 600), size=st.integers(2, 7))
@settings(max_examples=30, deadline=None)
async def test_batches_are_within_their_limits(lengths: Sequence[int], most: int, size: int) -> None:
    async with hooks() as hook:
        messages = [message(key=str(n), extra={"note": ("text", "x" * length)}) for n, length in enumerate(lengths)]
        body = {"id": "{{ id }}", "x": "{{ row.note }}"}
        results = await hook.build(batch="array", batch_bytes=most, batch_size=size, body=body).send(messages)
    assert results == [Delivered()] * len(messages)
    requests = hook.receiver.requests
    assert [envelope["id"] for request in requests for envelope in request.json] == [each.id for each in messages]
    for request in requests:
        assert len(request.json) <= size
        assert len(request.body) <= most or len(request.json) == 1


@pytest.mark.parametrize("answer", [Answer(status=503), Answer(cut=True), Answer(status=403), Answer(status=413)])
async def test_answer_counts_for_all(hook: Hooks, answer: Answer) -> None:
    """What is rejected is halved by the dispatcher."""
    hook.receiver.otherwise = lambda _: answer
    channel, messages = hook.build(batch="array"), several(5)
    results = await channel.send(messages)
    assert len(set(map(repr, results))) == 1
    assert isinstance(results[0], Retry | Paused | Rejected)
    assert len(hook.receiver.requests) == 1
    assert isinstance(channel, BatchWebhook)
    [request] = channel.plan(messages).requests
    assert request.parts == (messages[:2], messages[2:])
