"""The official SDK works with the inbox as with Novu, and faults can be injected. The recordings check the rest."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import pytest
from novu_py import Novu, models
from novu_py.utils import BackoffStrategy, RetryConfig

from support.novu import DELAYED_WORKFLOW, WORKFLOW, Clock, FakeNovu, fake_novu
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


def bulk(*events: models.TriggerEventRequestDto) -> models.BulkTriggerEventDto:
    return models.BulkTriggerEventDto(events=list(events))


async def test_sdk_triggers_events_alone_and_in_bulk() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        one = await client.trigger_async(trigger_event_request_dto=event("one"), idempotency_key="one")
        many = await client.trigger_bulk_async(
            bulk_trigger_event_dto=bulk(event("good"), event("bad", "no-such-workflow")), idempotency_key="bulk"
        )
        await novu.until_delivered(2)
    assert (one.result.status, one.result.transaction_id) == ("processed", "one")
    assert one.headers["idempotency-key"] == ["one"]
    assert [(each.status, each.transaction_id, each.error) for each in many.result] == [
        ("processed", "good", None),
        ("error", None, ["workflow_not_found"]),
    ]
    assert [each.channel for each in novu.messages("one")] == ["in_app"]


async def test_sdk_cancels_and_deletes() -> None:
    clock = Clock()
    in_app = models.MessagesControllerDeleteMessagesByTransactionIDQueryParamChannel.IN_APP
    async with fake_novu(clock=clock) as novu, sdk(novu) as client:
        await client.trigger_async(trigger_event_request_dto=event("later", DELAYED_WORKFLOW))
        await client.trigger_async(trigger_event_request_dto=event("gone"))
        too_early = await client.cancel_async(transaction_id="later")
        with pytest.raises(models.ErrorDto) as not_delivered:
            await client.messages.delete_by_transaction_id_async(transaction_id="gone")
        clock.now += 1
        cancelled = await client.cancel_async(transaction_id="later")
        again = await client.cancel_async(transaction_id="later")
        await client.messages.delete_by_transaction_id_async(transaction_id="gone", channel=in_app)
    assert (too_early.result, cancelled.result, again.result) == (False, True, False)
    assert not_delivered.value.status_code == 404
    assert [each.state for each in (*novu.notifications("later"), *novu.notifications("gone"))] == [
        "cancelled",
        "deleted",
    ]


async def test_sdk_reads_a_workflow() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        known = await client.workflows.get_async(workflow_id=DELAYED_WORKFLOW)
        with pytest.raises(models.ErrorDto) as unknown:
            await client.workflows.get_async(workflow_id="no-such-workflow")
    assert known.result.workflow_id == DELAYED_WORKFLOW
    assert [each.type for each in known.result.steps] == ["delay", "in_app"]
    assert unknown.value.status_code == 404


async def test_same_key_runs_once_unless_idempotency_is_off() -> None:
    async def delivered(settings: Settings) -> int:
        clock = Clock()
        async with fake_novu(settings, clock=clock) as novu, sdk(novu) as client:
            for _ in range(2):
                await client.trigger_async(trigger_event_request_dto=event("same"), idempotency_key="same")
            clock.now += 1
            return len(novu.messages("same"))

    assert await delivered(Settings(idempotency=True)) == 1
    assert await delivered(Settings(idempotency=False)) == 2


async def test_demo_creates_unknown_workflows() -> None:
    async with fake_novu(Settings(auto_workflows=True)) as novu, sdk(novu) as client:
        await client.trigger_async(trigger_event_request_dto=event("first", "never-seen"))
        await novu.until_delivered(1)
    assert "never-seen" in novu.inbox.engine.workflows


# Faults; tests/integration/channel_novu uses them all


async def test_stored_error_is_replayed_under_its_key() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("status", status=500, stored=True, times=1)
        for _ in range(2):
            with pytest.raises(models.NovuError) as refused:
                await client.trigger_async(trigger_event_request_dto=event("x"), idempotency_key="x")
            assert refused.value.status_code == 500
        assert [each.replayed for each in novu.requests()] == [False, True]


async def test_hanging_request_takes_effect_and_ends_when_cleared() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("hang")
        waiting = asyncio.create_task(client.trigger_async(trigger_event_request_dto=event("hang")))
        await novu.until_delivered(1)
        assert not waiting.done()
        novu.heal()
        with pytest.raises(httpx.TransportError):
            await waiting


async def test_key_is_in_progress_while_server_is_slow() -> None:
    async with fake_novu() as novu, sdk(novu) as client:
        novu.fault("delay", seconds=0.3, times=1)
        slow = asyncio.create_task(client.trigger_async(trigger_event_request_dto=event("x"), idempotency_key="x"))
        await novu.until(lambda: not novu.inbox.faults.active)
        with pytest.raises(models.NovuError) as refused:
            await client.trigger_async(trigger_event_request_dto=event("x"), idempotency_key="x")
        assert (refused.value.status_code, refused.value.headers["retry-after"]) == (409, "1")
        assert (await slow).result.status == "processed"


async def test_faults_are_ordered_and_cleared_over_http() -> None:
    bulks = {"kind": "status", "status": 503, "path": "/v1/events/trigger/bulk", "method": "POST"}
    async with fake_novu() as novu, sdk(novu) as client, aiohttp.ClientSession(novu.url) as http:
        async with http.post("/control/faults", json={"faults": [bulks]}) as answer:
            assert (await answer.json())["faults"][0]["status"] == 503
        await client.trigger_async(trigger_event_request_dto=event("x"))
        with pytest.raises(models.NovuError):
            await client.trigger_bulk_async(bulk_trigger_event_dto=bulk(event("y")))
        async with http.post("/control/faults", json={"faults": []}) as answer:
            assert await answer.json() == {"faults": [], "worker": "up"}
        await client.trigger_bulk_async(bulk_trigger_event_dto=bulk(event("y")))
        async with http.get("/control/state") as answer:
            assert [each["status"] for each in (await answer.json())["requests"]] == [201, 503, 201]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [('{"faults": []}', "text/plain", 415), ('{"faults": [{"kind": "flood"}]}', "application/json", 400)],
)
async def test_invalid_order_is_refused(body: str, content_type: str, status: int) -> None:
    headers = {"Content-Type": content_type}
    async with (
        fake_novu() as novu,
        aiohttp.ClientSession(novu.url, headers=headers) as http,
        http.post("/control/faults", data=body) as answer,
    ):
        assert answer.status == status


# Webhooks


async def test_webhook_accepts_any_json_and_counts_repeats() -> None:
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


async def test_hostile_bodies_do_no_harm() -> None:
    """Deep nesting, numbers beyond every range, lone surrogates: an answer comes, and the page works."""
    hostile = ["[" * 100_000, '{"n": 1e999}', '{"n": ' + "9" * 5000 + "}", '"\\ud800"', '{"n": NaN}']
    async with fake_novu() as novu, aiohttp.ClientSession(novu.url) as http:
        for text in hostile:
            async with http.post("/webhook/x", data=text.encode()) as answer:
                assert answer.status in {200, 400}
        async with http.get("/page/stream") as stream:
            assert (await stream.content.readuntil(b"\n\n")).startswith(b"data: {")
