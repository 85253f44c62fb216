"""The official SDK takes the inbox for a real Novu."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import pytest
from novu_py import Novu, models
from novu_py.utils import BackoffStrategy, RetryConfig

from support.novu import DELAYED_WORKFLOW, REQUIRED_WORKFLOW, WORKFLOW, Clock, FakeNovu, fake_novu
from tocsin_demo.inbox.inbox import Settings


@contextlib.asynccontextmanager
async def sdk(novu: FakeNovu) -> AsyncIterator[Novu]:
    """The official client as Tocsin uses it: retries off."""
    once = RetryConfig("none", BackoffStrategy(0, 0, 0, 0), False)
    async with Novu(secret_key=novu.api_key, server_url=novu.url, retry_config=once, timeout_ms=5000) as client:
        yield client


def event(transaction_id: str, workflow: str = WORKFLOW, **payload: Any) -> models.TriggerEventRequestDto:
    return models.TriggerEventRequestDto(
        workflow_id=workflow, to="sub-1", payload={"msg": "m", **payload}, transaction_id=transaction_id
    )


async def test_the_sdk_triggers_one_event() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        answer = await client.trigger_async(trigger_event_request_dto=event("one"), idempotency_key="one")
        await novu.until_delivered(1)
    assert answer.result.status == "processed"
    assert answer.result.transaction_id == "one"
    assert answer.headers["idempotency-key"] == ["one"]
    assert [each.content for each in novu.messages("one")] == ["Hello m"]


async def test_the_sdk_reads_the_answer_for_each_event_of_a_bulk() -> None:
    events = [event("good"), event("bad", "no-such-workflow"), event("also-good")]
    async with fake_novu() as novu, sdk(novu) as client:
        answer = await client.trigger_bulk_async(
            bulk_trigger_event_dto=models.BulkTriggerEventDto(events=events), idempotency_key="bulk"
        )
        await novu.until_delivered(2)
    assert [(each.status, each.transaction_id, each.error) for each in answer.result] == [
        ("processed", "good", None),
        ("error", None, ["workflow_not_found"]),
        ("processed", "also-good", None),
    ]


async def test_the_sdk_cancels_what_waits_and_only_once() -> None:
    clock = Clock()
    async with fake_novu(clock=clock) as novu, sdk(novu) as client:
        await client.trigger_async(trigger_event_request_dto=event("later", DELAYED_WORKFLOW))
        too_early = await client.cancel_async(transaction_id="later")
        clock.now += 1
        cancelled = await client.cancel_async(transaction_id="later")
        again = await client.cancel_async(transaction_id="later")
    assert (too_early.result, cancelled.result, again.result) == (False, True, False)
    assert [each.state for each in novu.notifications("later")] == ["cancelled"]


async def test_the_sdk_deletes_a_message_once_it_is_delivered() -> None:
    clock = Clock()
    async with fake_novu(clock=clock) as novu, sdk(novu) as client:
        await client.trigger_async(trigger_event_request_dto=event("gone"))
        with pytest.raises(models.ErrorDto) as too_early:
            await client.messages.delete_by_transaction_id_async(transaction_id="gone")
        clock.now += 1
        await client.messages.delete_by_transaction_id_async(
            transaction_id="gone",
            channel=models.MessagesControllerDeleteMessagesByTransactionIDQueryParamChannel.IN_APP,
        )
    assert too_early.value.status_code == 404
    assert [each.state for each in novu.notifications("gone")] == ["deleted"]


async def test_a_hasty_repeat_is_delivered_twice() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        both = [client.trigger_async(trigger_event_request_dto=event("hasty")) for _ in range(2)]
        answers = await asyncio.gather(*both)
        await novu.until_delivered(2)
    assert [each.result.status for each in answers] == ["processed", "processed"]
    assert novu.inbox.engine.counters.doubles == 1


async def test_a_repeat_after_a_second_is_dropped() -> None:
    clock = Clock()
    async with fake_novu(clock=clock) as novu, sdk(novu) as client:
        await client.trigger_async(trigger_event_request_dto=event("calm"))
        clock.now += 1
        answer = await client.trigger_async(trigger_event_request_dto=event("calm"))
        clock.now += 1
        assert len(novu.messages("calm")) == 1
    assert answer.result.status == "processed"


async def test_a_repeat_under_the_same_key_runs_once_unless_idempotency_is_off() -> None:
    async def delivered(settings: Settings) -> int:
        clock = Clock()
        async with fake_novu(settings, clock=clock) as novu, sdk(novu) as client:
            for _ in range(2):
                await client.trigger_async(trigger_event_request_dto=event("same"), idempotency_key="same")
            clock.now += 1
            return len(novu.messages("same"))

    assert await delivered(Settings(idempotency=True)) == 1
    assert await delivered(Settings(idempotency=False)) == 2


async def test_the_sdk_learns_whether_a_workflow_exists() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        known = await client.workflows.get_async(workflow_id=DELAYED_WORKFLOW)
        with pytest.raises(models.ErrorDto) as unknown:
            await client.workflows.get_async(workflow_id="no-such-workflow")
        listed = await client.workflows.list_async()
    assert known.result.workflow_id == DELAYED_WORKFLOW
    assert [each.type for each in known.result.steps] == ["delay", "in_app"]
    assert unknown.value.status_code == 404
    assert {each.workflow_id for each in listed.result.workflows} >= {WORKFLOW, REQUIRED_WORKFLOW}


async def test_the_sdk_makes_workflows_and_subscribers() -> None:
    workflow = {
        "name": "Queue lag",
        "workflow_id": "queue-lag",
        "active": True,  # the SDK says false where nothing is said
        "steps": [
            {"type": "delay", "name": "wait", "control_values": {"type": "regular", "amount": 2, "unit": "minutes"}},
            {"type": "in_app", "name": "tell", "control_values": {"subject": "{{payload.title}}", "body": "{{x.y}}"}},
        ],
    }
    async with fake_novu(clock=(clock := Clock())) as novu, sdk(novu) as client:
        await client.workflows.create_async(create_workflow_dto=models.CreateWorkflowDto.model_validate(workflow))
        await client.subscribers.create_async(
            create_subscriber_request_dto={"subscriber_id": "sub-1", "first_name": "Bea"}
        )
        person = await client.subscribers.retrieve_async(subscriber_id="sub-1")
        await client.trigger_async(trigger_event_request_dto=event("lag", "queue-lag", title="Late", x={"y": 7}))
        clock.now += 119
        assert [each.state for each in novu.notifications("lag")] == ["waiting"]
        clock.now += 2
        assert [(each.subject, each.content) for each in novu.messages("lag")] == [("Late", "7")]
    assert person.result.first_name == "Bea"


async def test_an_unknown_workflow_is_made_in_the_demo() -> None:
    async with fake_novu(Settings(auto_workflows=True)) as novu, sdk(novu) as client:
        await client.trigger_async(trigger_event_request_dto=event("first", "never-seen"))
        await novu.until_delivered(1)
    assert "never-seen" in novu.inbox.engine.workflows


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 429, 500, 503])
async def test_a_status_can_be_ordered_for_some_requests(status: int) -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("status", status=status, retry_after=7, times=2)
        for _ in range(2):
            with pytest.raises(models.NovuError) as refused:
                await client.trigger_async(trigger_event_request_dto=event("x"), idempotency_key="x")
            assert (refused.value.status_code, refused.value.headers["retry-after"]) == (status, "7")
        await client.trigger_async(trigger_event_request_dto=event("x"), idempotency_key="x")
        await novu.until_delivered(1)
    assert len(novu.messages("x")) == 1


async def test_a_stored_error_is_replayed_under_its_key() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("status", status=500, stored=True, times=1)
        for _ in range(2):
            with pytest.raises(models.NovuError) as refused:
                await client.trigger_async(trigger_event_request_dto=event("x"), idempotency_key="x")
            assert refused.value.status_code == 500
        assert [each.replayed for each in novu.requests()] == [False, True]


@pytest.mark.parametrize(("processed", "messages"), [(False, 0), (True, 1)])
async def test_a_connection_is_cut_before_or_after_the_work(processed: bool, messages: int) -> None:
    clock = Clock()
    async with fake_novu(clock=clock) as novu, sdk(novu) as client:
        novu.fault("cut", processed=processed, times=1)
        with pytest.raises(httpx.TransportError):
            await client.trigger_async(trigger_event_request_dto=event("cut"), idempotency_key="cut")
        clock.now += 1
        assert len(novu.messages("cut")) == messages
        await client.trigger_async(trigger_event_request_dto=event("cut"), idempotency_key="cut")
        clock.now += 1
        assert len(novu.messages("cut")) == 1
        assert [each.status for each in novu.requests()] == [None, 201]


async def test_a_request_that_hangs_takes_effect_and_ends_when_it_is_called_off() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("hang")
        waiting = asyncio.create_task(client.trigger_async(trigger_event_request_dto=event("hang")))
        await novu.until_delivered(1)
        assert not waiting.done()
        novu.heal()
        with pytest.raises(httpx.TransportError):
            await waiting


async def test_a_key_is_in_progress_while_the_server_is_slow() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("delay", seconds=0.3, times=1)
        slow = asyncio.create_task(client.trigger_async(trigger_event_request_dto=event("x"), idempotency_key="x"))
        await novu.until(lambda: not novu.inbox.faults.active)
        with pytest.raises(models.NovuError) as refused:
            await client.trigger_async(trigger_event_request_dto=event("x"), idempotency_key="x")
        assert (refused.value.status_code, refused.value.headers["retry-after"]) == (409, "1")
        assert (await slow).result.status == "processed"


async def test_a_body_that_is_no_json_comes_with_a_201() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("garbage", times=1)
        with pytest.raises(models.NovuError) as unread:
            await client.trigger_async(trigger_event_request_dto=event("garbage"))
        await novu.until_delivered(1)
    assert unread.value.status_code == 201


async def test_a_201_may_say_that_nothing_was_done() -> None:
    bulk = models.BulkTriggerEventDto(events=[event("a"), event("b")])
    clock = Clock()
    async with fake_novu(clock=clock) as novu, sdk(novu) as client:
        novu.fault("event_status", event_status="no_workflow_active_steps_defined", times=2)
        one = await client.trigger_async(trigger_event_request_dto=event("c"))
        many = await client.trigger_bulk_async(bulk_trigger_event_dto=bulk)
        clock.now += 1
        assert novu.notifications() == ()
    assert {each.status for each in (one.result, *many.result)} == {"no_workflow_active_steps_defined"}


async def test_one_event_of_a_bulk_fails_and_the_others_run() -> None:
    bulk = models.BulkTriggerEventDto(events=[event("a"), event("b"), event("c")])
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("bad_event", index=1, times=1)
        answer = await client.trigger_bulk_async(bulk_trigger_event_dto=bulk)
        await novu.until_delivered(2)
    assert [each.status for each in answer.result] == ["processed", "error", "processed"]


async def test_a_fault_is_for_the_requests_it_names() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("status", status=500, path="/v1/events/trigger/bulk", method="POST")
        await client.trigger_async(trigger_event_request_dto=event("single"))
        with pytest.raises(models.NovuError):
            await client.trigger_bulk_async(bulk_trigger_event_dto=models.BulkTriggerEventDto(events=[event("bulk")]))


async def test_the_cloud_refuses_a_payload_above_its_limit() -> None:
    async with fake_novu(Settings(payload_limit=512 * 1024)) as novu, sdk(novu) as client:
        await client.trigger_async(trigger_event_request_dto=event("small", blob="x" * 500_000))
        with pytest.raises(models.NovuError) as refused:
            await client.trigger_async(trigger_event_request_dto=event("large", blob="x" * 525_000))
        await novu.until_delivered(1)
    assert refused.value.status_code == 413


async def test_faults_are_ordered_over_http_and_called_off() -> None:
    async with fake_novu() as novu, sdk(novu) as client, aiohttp.ClientSession(novu.url) as http:
        async with http.post("/control/faults", json={"faults": [{"kind": "status", "status": 503}]}) as answer:
            assert (await answer.json())["faults"][0]["status"] == 503
        with pytest.raises(models.NovuError):
            await client.trigger_async(trigger_event_request_dto=event("x"))
        async with http.post("/control/faults", json={"faults": []}) as answer:
            assert await answer.json() == {"faults": [], "worker": "up"}
        await client.trigger_async(trigger_event_request_dto=event("x"))
        async with http.get("/control/state") as answer:
            assert [each["status"] for each in (await answer.json())["requests"]] == [503, 201]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [('{"faults": []}', "text/plain", 415), ('{"faults": [{"kind": "flood"}]}', "application/json", 400)],
)
async def test_an_order_that_is_not_understood_is_refused(body: str, content_type: str, status: int) -> None:
    headers = {"Content-Type": content_type}
    async with (
        fake_novu() as novu,
        aiohttp.ClientSession(novu.url, headers=headers) as http,
        http.post("/control/faults", data=body) as answer,
    ):
        assert answer.status == status


async def test_a_plain_webhook_takes_any_json_and_counts_repeats() -> None:
    async with fake_novu() as novu, aiohttp.ClientSession(novu.url) as http:
        for text in ('{"id": "n-1"}', '{"id": "n-1"}', '["a"]', '"text"', "null"):
            async with http.post("/webhook/ops/night", data=text) as answer:
                assert answer.status == 200
        async with http.post("/webhook/ops", data="{") as answer:
            assert answer.status == 400
    assert [(each.name, each.body, each.repeat) for each in novu.inbox.engine.deliveries.values()] == [
        ("ops/night", {"id": "n-1"}, 0),
        ("ops/night", {"id": "n-1"}, 1),
        ("ops/night", ["a"], 0),
        ("ops/night", "text", 0),
        ("ops/night", None, 0),
    ]


async def test_a_message_that_nobody_can_make_sense_of_does_no_harm() -> None:
    """Deep nesting, numbers beyond every range, lone surrogates: a sentence for an answer, and the page goes on."""
    hostile = [
        "[" * 100_000,
        '{"n": 1e999}',
        '{"n": ' + "9" * 5000 + "}",
        '"\\ud800"',
        '{"n": NaN}',
        '{"tenant": [[]]}',
    ]
    async with fake_novu() as novu, aiohttp.ClientSession(novu.url) as http:
        for text in hostile:
            async with http.post("/webhook/x", data=text.encode()) as answer:
                assert answer.status in {200, 400}
        trigger = {"name": WORKFLOW, "to": "sub-1", "payload": {}, "tenant": ["x"]}
        headers = {"Authorization": f"ApiKey {novu.api_key}"}
        async with http.post("/v1/events/trigger", json=trigger, headers=headers) as answer:
            assert (await answer.json())["data"]["status"] == "no_tenant_found"
        async with http.get("/page/stream") as stream:
            assert (await stream.content.readuntil(b"\n\n")).startswith(b"data: {")
