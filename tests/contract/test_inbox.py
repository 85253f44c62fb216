"""The inbox of the demo: it answers as a real Novu did, of two releases. Its settings, faults, webhooks and page."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import aiohttp
import pytest

from support.novu import API_KEY, DELAYED_WORKFLOW, WORKFLOW, Clock, FakeNovu, fake_novu
from support.novu_recordings import FILES, RULES, Recording, compared, read, recordings, replay_all
from support.waiting import until
from tocsin_demo.inbox.inbox import Settings

# Answers.


def cases() -> list[Any]:
    """Each recording; those of a release are replayed once, in one process."""
    return [
        pytest.param(each, id=f"{release}-{each.name}", marks=pytest.mark.xdist_group(f"novu-recordings-{release}"))
        for release in FILES
        for each in compared(release)
    ]


@pytest.mark.parametrize("recording", cases())
def test_inbox_answers_as_novu_did(recording: Recording) -> None:
    """Status, headers, what a client reads of the body, and the effects."""
    expected, reply = recording.reply, replay_all(recording.release)[recording.name]
    assert reply.status == expected.status
    assert reply.headers == expected.headers
    if "_truncated_" not in (expected.body or ()):
        assert read(recording, reply) == read(recording, expected)
    if expected.seen is not None and recording.name not in RULES["effects_not_compared"][recording.release]:
        assert reply.seen == expected.seen


def test_only_named_recordings_are_left_out() -> None:
    names = {release: {each.name for each in recordings(release)} for release in FILES}
    assert {release: len(found) for release, found in names.items()} == {"2.0.0": 217, "3.15.0": 186}
    assert {*RULES["left_out"], *RULES["pauses"], *RULES["malformed"]} <= names["2.0.0"]
    for rule in ("answers_not_compared", "effects_not_compared"):
        assert all(RULES[rule][release].keys() <= found for release, found in names.items())


# Settings, faults and webhooks.


@dataclass(frozen=True, slots=True)
class Client:
    """An inbox in this process, its clock, and a client that has its key."""

    novu: FakeNovu
    http: aiohttp.ClientSession
    clock: Clock

    async def trigger(self, id_: str = "t", workflow: str = WORKFLOW, payload: Any = None, wait: float = 1.0) -> int:
        """Trigger a workflow for Ann, and let some time pass; the status of the answer."""
        body = {"name": workflow, "to": "sub-1", "payload": payload or {}, "transactionId": id_}
        async with self.http.post("/v1/events/trigger", json=body, headers={"Idempotency-Key": id_}) as answer:
            self.clock.now += wait
            return answer.status

    async def page(self) -> Any:
        """The first event that the page gets."""
        await self.http.get("/control/state")  # lets the inbox do what is due by the test's clock
        async with self.http.get("/page/stream") as stream:
            assert stream.content_type == "text/event-stream"
            return json.loads((await stream.content.readuntil(b"\n\n")).removeprefix(b"data: "))

    async def states(self) -> list[tuple[str, str]]:
        """The cards of the page: transaction and state."""
        columns = (await self.page())["columns"]
        return [(card["transaction"], card["state"]) for column in columns for card in column["cards"]]


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Client]:
    clock = Clock()
    async with (
        fake_novu(Settings(api_key=API_KEY, **settings), clock=clock) as novu,
        aiohttp.ClientSession(novu.url, headers={"Authorization": f"ApiKey {API_KEY}"}) as http,
    ):
        yield Client(novu, http, clock)


@pytest.fixture
async def inbox() -> AsyncIterator[Client]:
    async with serving() as client:
        yield client


@pytest.mark.parametrize(("idempotency", "messages"), [(True, 1), (False, 2)])
async def test_same_key_runs_once_unless_idempotency_is_off(idempotency: bool, messages: int) -> None:
    async with serving(idempotency=idempotency) as inbox:
        assert [await inbox.trigger("same", wait=wait) for wait in (0, 1)] == [201, 201]
        assert len(inbox.novu.messages("same")) == messages


async def test_demo_creates_unknown_workflows() -> None:
    async with serving(auto_workflows=True) as inbox:
        assert await inbox.trigger("first", "never-seen") == 201
        assert "never-seen" in inbox.novu.inbox.engine.workflows


async def test_hanging_request_takes_effect_and_ends_when_cleared(inbox: Client) -> None:
    inbox.novu.fault("hang")
    waiting = asyncio.create_task(inbox.trigger("hang"))

    def delivered() -> object:
        inbox.clock.now += 1
        return inbox.novu.messages("hang")

    await until(delivered)
    assert not waiting.done()
    inbox.novu.heal()
    with pytest.raises(aiohttp.ClientConnectionError):
        await waiting


async def test_faults_are_ordered_and_cleared_over_http(inbox: Client) -> None:
    http, deletions = inbox.http, {"kind": "status", "status": 503, "path": "/v1/events/trigger", "method": "DELETE"}
    async with http.post("/control/faults", json={"faults": [deletions]}) as answer:
        assert (await answer.json())["faults"][0]["status"] == 503
    await inbox.trigger("x")
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
async def test_invalid_order_is_refused(inbox: Client, body: str, content_type: str, status: int) -> None:
    async with inbox.http.post("/control/faults", data=body, headers={"Content-Type": content_type}) as answer:
        assert answer.status == status


async def test_webhook_accepts_any_json_and_counts_repeats(inbox: Client) -> None:
    for text, status in (('{"id": "n-1"}', 200), ('{"id": "n-1"}', 200), ('["a"]', 200), ("null", 200), ("{", 400)):
        async with inbox.http.post("/webhook/ops/night", data=text) as answer:
            assert answer.status == status
    assert [(each.name, each.body, each.repeat) for each in inbox.novu.inbox.engine.deliveries.values()] == [
        ("ops/night", {"id": "n-1"}, 0),
        ("ops/night", {"id": "n-1"}, 1),
        ("ops/night", ["a"], 0),
        ("ops/night", None, 0),
    ]


async def test_hostile_bodies_do_no_harm(inbox: Client) -> None:
    """Deep nesting, numbers beyond every range, lone surrogates: an answer comes, and the page works."""
    for text in ("[" * 100_000, '{"n": 1e999}', '{"n": ' + "9" * 5000 + "}", '"\\ud800"', '{"n": NaN}'):
        async with inbox.http.post("/webhook/x", data=text.encode()) as answer:
            assert answer.status in {200, 400}
    assert (await inbox.page())["columns"]


# The page.


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


async def shown(inbox: Client, payload: Any) -> dict[str, Any]:
    """The card of a message with that payload."""
    await inbox.trigger(str(id(payload)), payload=payload)
    card: dict[str, Any] = (await inbox.page())["columns"][0]["cards"][0]
    return card


@pytest.mark.parametrize(
    ("payload", "title", "body", "severity"),
    [
        ({"title": "Late", "message": "By an hour.", "severity": "warning"}, "Late", "By an hour.", "warning"),
        ({"city": "Lisbon", "celsius": 39.4}, WORKFLOW, "", ""),
        (ENVELOPE, "Contoso has 57 errors", "The limit is 40.", "high"),
        ({**ENVELOPE, "annotations": {}}, "organization_alert", "", "high"),
    ],
)
async def test_card_takes_title_and_body_from_payload(
    inbox: Client, payload: Any, title: str, body: str, severity: str
) -> None:
    card = await shown(inbox, payload)
    assert (card["title"], card["body"], card["severity"]) == (title, body, severity)


async def test_other_fields_are_listed_with_previous_values(inbox: Client) -> None:
    fields = {"celsius": 39.4, "sensor": {"id": 17}, "ok": True, "note": None, "more": ""}
    card = await shown(inbox, {"title": "Hot", **fields})
    assert card["fields"] == [["celsius", "39.4", None], ["sensor", '{"id": 17}', None], ["ok", "true", None]]
    card = await shown(inbox, ENVELOPE)
    assert card["fields"] == [["value", "57", None], ["organization", "Contoso", None], ["errors", "57", "42"]]
    assert card["labels"] == [["organization", "Contoso"], ["severity", "high"]]


async def test_card_shows_state_of_its_message(inbox: Client) -> None:
    await inbox.trigger("waits", DELAYED_WORKFLOW)
    await inbox.trigger("taken-back", DELAYED_WORKFLOW)
    await inbox.trigger("wiped")
    await inbox.http.delete("/v1/events/trigger/taken-back")
    await inbox.http.delete("/v1/messages/transaction/wiped")
    assert await inbox.states() == [("wiped", "deleted"), ("taken-back", "cancelled"), ("waits", "waiting")]
    inbox.clock.now += 30
    assert dict(await inbox.states())["waits"] == "delivered"


async def test_resolved_marks_messages_of_its_episode_only(inbox: Client) -> None:
    await inbox.trigger("earlier episode", payload={**ENVELOPE, "started_at": "2026-11-20T00:00:00.000Z"})
    await inbox.trigger("fired", payload={**ENVELOPE, "status": "fired"})
    await inbox.trigger("another", payload={**ENVELOPE, "fingerprint": "beef"})
    await inbox.trigger("resolved", payload={**ENVELOPE, "status": "resolved"})
    assert await inbox.states() == [
        ("resolved", "resolved"),
        ("another", "delivered"),
        ("fired", "resolved"),
        ("earlier episode", "delivered"),
    ]


async def test_page_is_self_contained_and_never_sets_markup(inbox: Client) -> None:
    async with inbox.http.get("/") as answer:
        assert answer.content_type == "text/html"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        text = await answer.text()
    for path in {*re.findall(r'(?:src|href)="([^"]+)"', text)}:
        async with inbox.http.get(path) as answer:
            assert answer.status == 200, path
            text += await answer.text()
    assert {*re.findall(r"https?://[^\s\"'`$]+", text)} == {"http://www.w3.org/2000/svg"}
    script = files("tocsin_demo.inbox").joinpath("page", "page.js").read_text("utf-8")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script) == []


async def test_taken_port_is_a_one_line_error(inbox: Client) -> None:
    port = inbox.novu.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "tocsin_demo.inbox", "--port", port]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
