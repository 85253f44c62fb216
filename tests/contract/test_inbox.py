"""The inbox beyond Novu's answers, which the recordings and the tests of the Novu channel check: settings, faults,
webhooks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from support.novu import API_KEY, WORKFLOW, Clock, FakeNovu, fake_novu
from tocsin_demo.inbox.inbox import Settings


@contextlib.asynccontextmanager
async def client(novu: FakeNovu) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(novu.url, headers={"Authorization": f"ApiKey {API_KEY}"}) as http:
        yield http


async def trigger(http: aiohttp.ClientSession, id_: str, workflow: str = WORKFLOW) -> int:
    """The status of the answer."""
    body = {"name": workflow, "to": "sub-1", "payload": {"msg": "m"}, "transactionId": id_}
    async with http.post("/v1/events/trigger", json=body, headers={"Idempotency-Key": id_}) as answer:
        return answer.status


@pytest.mark.parametrize(("idempotency", "messages"), [(True, 1), (False, 2)])
async def test_same_key_runs_once_unless_idempotency_is_off(idempotency: bool, messages: int) -> None:
    clock = Clock()
    settings = Settings(api_key=API_KEY, idempotency=idempotency)
    async with fake_novu(settings, clock=clock) as novu, client(novu) as http:
        assert [await trigger(http, "same") for _ in range(2)] == [201, 201]
        clock.now += 1
        assert len(novu.messages("same")) == messages


async def test_demo_creates_unknown_workflows() -> None:
    async with fake_novu(Settings(auto_workflows=True)) as novu, client(novu) as http:
        assert await trigger(http, "first", "never-seen") == 201
        await novu.until_delivered(1)
    assert "never-seen" in novu.inbox.engine.workflows


async def test_hanging_request_takes_effect_and_ends_when_cleared() -> None:
    async with fake_novu() as novu, client(novu) as http:
        novu.fault("hang")
        waiting = asyncio.create_task(trigger(http, "hang"))
        await novu.until_delivered(1)
        assert not waiting.done()
        novu.heal()
        with pytest.raises(aiohttp.ClientConnectionError):
            await waiting


async def test_faults_are_ordered_and_cleared_over_http() -> None:
    deletions = {"kind": "status", "status": 503, "path": "/v1/events/trigger", "method": "DELETE"}
    async with fake_novu() as novu, client(novu) as http:
        async with http.post("/control/faults", json={"faults": [deletions]}) as answer:
            assert (await answer.json())["faults"][0]["status"] == 503
        await trigger(http, "x")
        await http.delete("/v1/events/trigger/x")
        async with http.post("/control/faults", json={"faults": []}) as answer:
            assert await answer.json() == {"faults": [], "worker": "up"}
        await http.delete("/v1/events/trigger/x")
        async with http.get("/control/state") as answer:
            assert [each["status"] for each in (await answer.json())["requests"]] == [201, 503, 200]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [('{"faults": []}', "text/plain", 415), ('{"faults": [{"kind": "flood"}]}', "application/json", 400)],
)
async def test_invalid_order_is_refused(body: str, content_type: str, status: int) -> None:
    async with (
        fake_novu() as novu,
        client(novu) as http,
        http.post("/control/faults", data=body, headers={"Content-Type": content_type}) as answer,
    ):
        assert answer.status == status


async def test_webhook_accepts_any_json_and_counts_repeats() -> None:
    async with fake_novu() as novu, client(novu) as http:
        for text in ('{"id": "n-1"}', '{"id": "n-1"}', '["a"]', "null"):
            async with http.post("/webhook/ops/night", data=text) as answer:
                assert answer.status == 200
        async with http.post("/webhook/ops", data="{") as answer:
            assert answer.status == 400
    assert [(each.name, each.body, each.repeat) for each in novu.inbox.engine.deliveries.values()] == [
        ("ops/night", {"id": "n-1"}, 0),
        ("ops/night", {"id": "n-1"}, 1),
        ("ops/night", ["a"], 0),
        ("ops/night", None, 0),
    ]


async def test_hostile_bodies_do_no_harm() -> None:
    """Deep nesting, numbers beyond every range, lone surrogates: an answer comes, and the page works."""
    hostile = ["[" * 100_000, '{"n": 1e999}', '{"n": ' + "9" * 5000 + "}", '"\\ud800"', '{"n": NaN}']
    async with fake_novu() as novu, client(novu) as http:
        for text in hostile:
            async with http.post("/webhook/x", data=text.encode()) as answer:
                assert answer.status in {200, 400}
        async with http.get("/page/stream") as stream:
            assert (await stream.content.readuntil(b"\n\n")).startswith(b"data: {")
