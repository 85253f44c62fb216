"""The page of the inbox shows messages of any shape."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import aiohttp
import pytest

from support.novu import API_KEY, DELAYED_WORKFLOW, Clock, fake_novu
from tocsin_demo.inbox.inbox import Settings

DEMO = Settings(auto_workflows=True)
HEADERS = {"Authorization": f"ApiKey {API_KEY}"}
ENVELOPE: Mapping[str, Any] = {
    "id": "n-1",
    "alert": "organization_alert",
    "status": "updated",
    "fingerprint": "f00d",
    "started_at": "2026-11-21T10:40:00.000Z",
    "at": "2026-11-21T10:44:00.000Z",
    "labels": {"organization": "Contoso", "severity": "high"},
    "value": 57,
    "row": {"organization": "Contoso", "errors": 57},
    "previous": {"organization": "Contoso", "errors": 42},
    "annotations": {"summary": "Contoso has 57 errors", "description": "The limit is 40."},
}


async def shown(payload: Any) -> dict[str, Any]:
    """The card of a message with that payload."""
    clock = Clock()
    async with fake_novu(DEMO, clock=clock) as novu, aiohttp.ClientSession(novu.url, headers=HEADERS) as http:
        await trigger(http, "alert", payload=payload)
        clock.now += 1
        card: dict[str, Any] = (await page(http))["columns"][0]["cards"][0]
        return card


async def trigger(http: aiohttp.ClientSession, workflow: str, transaction_id: str = "t", payload: Any = None) -> None:
    body = {"name": workflow, "to": "sub-1", "payload": payload or {}, "transactionId": transaction_id}
    async with http.post("/v1/events/trigger", json=body) as answer:
        assert answer.status == 201, await answer.text()


async def page(http: aiohttp.ClientSession) -> Any:
    """The first event that the page gets."""
    async with http.get("/control/state"):
        pass  # lets the inbox do what is due by the test's clock
    async with http.get("/page/stream") as stream:
        assert stream.content_type == "text/event-stream"
        return json.loads((await stream.content.readuntil(b"\n\n")).removeprefix(b"data: "))


async def states(http: aiohttp.ClientSession) -> list[tuple[str, str]]:
    return [
        (card["transaction"], card["state"]) for column in (await page(http))["columns"] for card in column["cards"]
    ]


@pytest.mark.parametrize(
    ("payload", "title", "body", "severity"),
    [
        ({"title": "Late", "message": "By an hour.", "severity": "warning"}, "Late", "By an hour.", "warning"),
        ({"city": "Lisbon", "celsius": 39.4}, "alert", "", ""),
        (ENVELOPE, "Contoso has 57 errors", "The limit is 40.", "high"),
        ({**ENVELOPE, "annotations": {}}, "organization_alert", "", "high"),
    ],
)
async def test_card_takes_title_and_body_from_payload(payload: Any, title: str, body: str, severity: str) -> None:
    card = await shown(payload)
    assert (card["title"], card["body"], card["severity"]) == (title, body, severity)


async def test_other_fields_are_listed_with_previous_values() -> None:
    card = await shown({"title": "Hot", "celsius": 39.4, "sensor": {"id": 17}, "ok": True, "note": None, "more": ""})
    assert card["fields"] == [["celsius", "39.4", None], ["sensor", '{"id": 17}', None], ["ok", "true", None]]
    card = await shown(ENVELOPE)
    assert card["fields"] == [["value", "57", None], ["organization", "Contoso", None], ["errors", "57", "42"]]
    assert card["labels"] == [["organization", "Contoso"], ["severity", "high"]]


async def test_card_shows_state_of_its_message() -> None:
    clock = Clock()
    async with fake_novu(clock=clock) as novu, aiohttp.ClientSession(novu.url, headers=HEADERS) as http:
        await trigger(http, DELAYED_WORKFLOW, "waits")
        await trigger(http, DELAYED_WORKFLOW, "taken-back")
        await trigger(http, "inapp-alert", "wiped")
        clock.now += 1
        await http.delete("/v1/events/trigger/taken-back")
        await http.delete("/v1/messages/transaction/wiped")
        assert await states(http) == [
            ("wiped", "deleted"),
            ("taken-back", "cancelled"),
            ("waits", "waiting"),
        ]
        clock.now += 30
        assert dict(await states(http))["waits"] == "delivered"


async def test_resolved_marks_messages_of_its_episode_only() -> None:
    clock = Clock()
    async with fake_novu(clock=clock) as novu, aiohttp.ClientSession(novu.url, headers=HEADERS) as http:
        for name, changes in {
            "earlier-episode": {"started_at": "2026-11-20T00:00:00.000Z"},
            "fired": {"status": "fired"},
            "another": {"fingerprint": "beef"},
            "resolved": {"status": "resolved"},
        }.items():
            await trigger(http, "inapp-alert", name, {**ENVELOPE, **changes})
            clock.now += 1
        assert await states(http) == [
            ("resolved", "resolved"),
            ("another", "delivered"),
            ("fired", "resolved"),
            ("earlier-episode", "delivered"),
        ]


async def test_people_and_webhooks_have_separate_columns() -> None:
    clock = Clock()
    async with fake_novu(clock=clock) as novu, aiohttp.ClientSession(novu.url, headers=HEADERS) as http:
        await http.post("/webhook/ops", json=ENVELOPE)
        await http.post("/webhook/ops", json=ENVELOPE)
        await trigger(http, "inapp-alert")
        clock.now += 1
        seen = await page(http)
    assert [(each["name"], each["id"], each["kind"]) for each in seen["columns"]] == [
        ("Ann", "sub-1", "person"),
        ("ops", "POST /webhook/ops", "webhook"),
    ]
    assert [card["copies"] for card in seen["columns"][1]["cards"]] == [1, 0]


async def test_page_is_self_contained() -> None:
    async with fake_novu() as novu, aiohttp.ClientSession(novu.url) as http:
        async with http.get("/") as answer:
            assert answer.content_type == "text/html"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
            text = await answer.text()
        for path in {*re.findall(r'(?:src|href)="([^"]+)"', text)}:
            async with http.get(path) as answer:
                assert answer.status == 200, path
                text += await answer.text()
    outside = set(re.findall(r"https?://[^\s\"'`$]+", text)) - {"http://www.w3.org/2000/svg"}
    assert outside == set()


def test_page_never_sets_markup() -> None:
    script = files("tocsin_demo.inbox").joinpath("page", "page.js").read_text("utf-8")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script) == []


async def test_taken_port_is_a_one_line_error() -> None:
    async with fake_novu() as novu:
        port = novu.url.rsplit(":", 1)[1]
        command = [sys.executable, "-m", "tocsin_demo.inbox", "--port", port]
        ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
