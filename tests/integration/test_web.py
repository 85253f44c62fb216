"""The port, over real connections: metrics, probes, orders, the JSON interface and the page."""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from aiohttp import ClientResponse, ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from support.overview import FakeOverview
from support.waiting import until
from tocsin.errors import LedgerError, LedgerReason
from tocsin.exposition import Gauges, GaugeSpec, Metrics, Page
from tocsin.ledger import Attempt, Status
from tocsin.web import (
    AlertStatus,
    ChannelStatus,
    Delivery,
    EpisodeRecord,
    FiringRow,
    NotificationRecord,
    Receipt,
    TransitionRecord,
    build,
)

Client: TypeAlias = TestClient[web.Request, web.Application]
Start: TypeAlias = Callable[..., Awaitable[Client]]

LATE = AlertStatus(
    name="late", source="materialize", state="up", firing=2, frontier=1_700_000_000_123, last_progress=5.5
)
ROW = FiringRow(
    alert="late",
    fingerprint="f" * 32,
    phase="firing",
    started_at=1_700_000_000_000,
    labels={"customer": "<b>Acme</b>"},
    value=1.5,
    row={"customer": "<b>Acme</b>", "iban": "DE89"},
)
DEAD = NotificationRecord(
    seq=7,
    id="d" * 32,
    alert="late",
    channel="people",
    kind="fired",
    status=Status.DEAD,
    fingerprint="f" * 32,
    started_at=1_700_000_000_000,
    at=1_700_000_000_000,
    attempts=3,
    created_at=1_700_000_001.0,
    not_before=0.0,
    settled_at=1_700_000_002.0,
    reason="rejected",
    detail="422",
    labels={"customer": "Acme"},
    row={"customer": "Acme"},
)
FIRED = TransitionRecord(
    alert="late",
    fingerprint="f" * 32,
    kind="fired",
    started_at=1_700_000_000_000,
    at=1_700_000_000_000,
    labels={"customer": "Acme"},
    value=math.nan,
    row={"customer": "Acme"},
)


@pytest.fixture
def overview() -> FakeOverview:
    overview = FakeOverview()
    overview.alert_list = [LATE, replace(LATE, name="lost", state="error", message="the view is gone", firing=0)]
    overview.channel_list = [ChannelStatus(name="people", type="novu", state="up", oldest_pending=12.0)]
    overview.rows = [ROW, replace(ROW, fingerprint="e" * 32, value=math.inf)]
    overview.records = [DEAD, replace(DEAD, seq=8, id="p" * 32, status=Status.PENDING, settled_at=None)]
    return overview


@pytest.fixture
async def start(overview: FakeOverview) -> AsyncIterator[Start]:
    clients: list[Client] = []

    async def begin(*, admin: bool = False) -> Client:
        page = Page(Metrics("1.2.3"))
        gauges = Gauges(GaugeSpec(alert="late", metric="late_orders", labels=(("customer", 0),)))
        gauges.install(gauges.render({"1": ("Acme",)}), 0.0)
        page.add(gauges)
        application = build(overview, page, admin=admin, version="1.2.3", clock=lambda: 1_700_000_003.0)
        client = TestClient(TestServer(application))
        await client.start_server()
        clients.append(client)
        return client

    yield begin
    for client in clients:
        await client.close()


async def error(response: ClientResponse) -> str:
    assert response.content_type == "application/json"
    return str((await response.json())["error"])


# Prometheus and probes.


async def test_metrics_are_served_in_the_format_that_prometheus_asks_for(start: Start) -> None:
    client = await start()
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    text = await response.text()
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert 'late_orders{customer="Acme"} 1\n' in text
    assert text.endswith("# EOF\n")


async def test_metrics_are_compressed_and_have_a_length(start: Start) -> None:
    client = await start()
    async with ClientSession(auto_decompress=False) as session:
        response = await session.get(client.make_url("/metrics"), headers={"Accept-Encoding": "gzip"})
        body = await response.read()
    assert response.headers["Content-Encoding"] == "gzip"
    assert int(response.headers["Content-Length"]) == len(body)
    assert body.startswith(b"\x1f\x8b")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/", "/api/v1/status", "/api/v1/transitions"])
async def test_head_answers_without_a_body(start: Start, path: str) -> None:
    client = await start()
    response = await client.head(path)
    assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize("path", ["/healthz", "/-/healthy"])
async def test_it_is_healthy_while_it_runs_though_it_is_not_ready(
    start: Start, overview: FakeOverview, path: str
) -> None:
    overview.reasons = ["alert lost: the view is gone"]
    client = await start()
    assert (await client.get(path)).status == 200


@pytest.mark.parametrize("path", ["/readyz", "/-/ready"])
async def test_it_is_ready_or_says_line_by_line_why_not(start: Start, overview: FakeOverview, path: str) -> None:
    client = await start()
    assert (await client.get(path)).status == 200
    overview.reasons = ["alert lost: the view is gone", "ledger: the disk is full"]
    response = await client.get(path)
    assert response.status == 503
    assert await response.text() == "alert lost: the view is gone\nledger: the disk is full\n"


# Orders.

ORDERS = ["/-/reload", f"/api/v1/notifications/{DEAD.id}/retry", f"/api/v1/notifications/{DEAD.id}/drop"]


@pytest.mark.parametrize("path", ORDERS)
async def test_orders_are_refused_unless_they_are_switched_on(start: Start, overview: FakeOverview, path: str) -> None:
    client = await start()
    response = await client.post(path)
    assert response.status == 403
    assert "web: {admin: true}" in await response.text()
    assert (overview.reloads, len(overview.records)) == (0, 2)


@pytest.mark.parametrize("path", ORDERS)
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=["other origin", "no origin to speak of", "other site"],
)
async def test_orders_from_the_pages_of_other_sites_are_refused(
    start: Start, overview: FakeOverview, path: str, headers: dict[str, str]
) -> None:
    client = await start(admin=True)
    assert (await client.post(path, headers=headers)).status == 403
    assert (overview.reloads, len(overview.records)) == (0, 2)


async def test_an_order_from_its_own_page_behind_a_proxy_is_taken(start: Start, overview: FakeOverview) -> None:
    client = await start(admin=True)
    headers = {"Origin": "https://tocsin.example", "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/-/reload", headers=headers)).status == 200
    assert overview.reloads == 1


async def test_a_reload_is_done_or_says_what_is_wrong(start: Start, overview: FakeOverview) -> None:
    client = await start(admin=True)
    origin = {"Origin": str(client.make_url("/").origin()), "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/-/reload", headers=origin)).status == 200
    overview.problems = ["tocsin.yaml:3: alerts.late.key: no such column"]
    response = await client.post("/-/reload")
    assert response.status == 500
    assert "tocsin.yaml:3: alerts.late.key: no such column\n" in await response.text()
    assert overview.reloads == 2


async def test_a_reload_is_an_order_and_no_page(start: Start) -> None:
    client = await start(admin=True)
    response = await client.get("/-/reload")
    assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_a_dead_letter_is_retried_and_a_pending_notification_dropped(
    start: Start, overview: FakeOverview
) -> None:
    client = await start(admin=True)
    retried = await client.post(f"/api/v1/notifications/{DEAD.id}/retry")
    assert await retried.json() == {"retried": [DEAD.id]}
    refused = await client.post(f"/api/v1/notifications/{'p' * 32}/retry")
    assert refused.status == 409
    assert "neither dead nor dropped" in await error(refused)
    assert (await client.post(f"/api/v1/notifications/{'p' * 32}/drop")).status == 200
    missing = await client.post(f"/api/v1/notifications/{DEAD.id}/drop")
    assert missing.status == 404
    assert DEAD.id in await error(missing)
    assert overview.records == []


# The JSON interface.


async def test_the_status_has_everything_but_rows(start: Start, overview: FakeOverview) -> None:
    overview.reasons = ["alert lost: the view is gone"]
    client = await start()
    status = await (await client.get("/api/v1/status")).json()
    assert (status["version"], status["admin"], status["ready"]) == ("1.2.3", False, False)
    assert status["time"] == "2023-11-14T22:13:23.000Z"
    assert status["reasons"] == ["alert lost: the view is gone"]
    assert [alert["name"] for alert in status["alerts"]] == ["late", "lost"]
    assert status["alerts"][0]["frontier"] == "2023-11-14T22:13:20.123Z"
    assert status["alerts"][0]["last_progress"] == "1970-01-01T00:00:05.500Z"
    assert status["channels"][0]["oldest_pending"] == "1970-01-01T00:00:12.000Z"
    assert (await (await client.get("/api/v1/alerts")).json())["alerts"] == status["alerts"]
    assert (await (await client.get("/api/v1/channels")).json())["channels"] == status["channels"]


async def test_firing_rows_come_with_their_row_and_with_numbers_that_json_lacks_as_text(start: Start) -> None:
    client = await start()
    answer = await (await client.get("/api/v1/firing?alert=late")).json()
    assert answer["truncated"] == []
    assert answer["firing"][0] == {
        "alert": "late",
        "fingerprint": "f" * 32,
        "phase": "firing",
        "started_at": "2023-11-14T22:13:20.000Z",
        "labels": {"customer": "<b>Acme</b>"},
        "value": 1.5,
        "row": {"customer": "<b>Acme</b>", "iban": "DE89"},
    }
    assert answer["firing"][1]["value"] == "Infinity"


async def test_firing_rows_are_limited_for_each_alert_and_the_cut_is_told(start: Start, overview: FakeOverview) -> None:
    overview.rows = [replace(ROW, fingerprint=str(place)) for place in range(5)] + [replace(ROW, alert="lost")]
    client = await start()
    answer = await (await client.get("/api/v1/firing?limit=3")).json()
    assert [row["alert"] for row in answer["firing"]] == ["late", "late", "late", "lost"]
    assert answer["truncated"] == ["late"]


async def test_notifications_are_filtered_and_paged(start: Start, overview: FakeOverview) -> None:
    overview.records += [replace(DEAD, seq=seq, id=str(seq), channel="pager") for seq in range(20, 25)]
    client = await start()

    async def listed(query: str) -> tuple[list[int], int | None]:
        answer = await (await client.get(f"/api/v1/{query}")).json()
        return [record["seq"] for record in answer["notifications"]], answer["before"]

    assert await listed("notifications") == ([24, 23, 22, 21, 20, 8, 7], None)
    assert await listed("notifications?status=pending") == ([8], None)
    assert await listed("notifications?limit=2&channel=pager") == ([24, 23], 23)
    assert await listed("notifications?limit=2&channel=pager&before=23") == ([22, 21], 21)
    assert await listed("notifications?alert=lost") == ([], None)
    assert await listed("dead-letters?channel=people") == ([7], None)


async def test_one_notification_is_shown_with_all_that_is_known(start: Start) -> None:
    client = await start()
    record = await (await client.get(f"/api/v1/notifications/{DEAD.id}")).json()
    assert (record["status"], record["reason"], record["detail"], record["attempts"]) == ("dead", "rejected", "422", 3)
    assert record["settled_at"] == "2023-11-14T22:13:22.000Z"
    missing = await client.get("/api/v1/notifications/nothing")
    assert missing.status == 404
    assert "'nothing'" in await error(missing)


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("firing?alrt=late", 400, "unknown query parameter alrt; the known ones are alert, limit"),
        ("alerts?limit=3", 400, "unknown query parameter limit; there are none here"),
        ("firing?limit=0", 400, "limit is '0'; it must be a whole number from 1 to 1000"),
        ("firing?limit=1001", 400, "a whole number from 1 to 1000"),
        ("firing?limit=²", 400, "a whole number from 1 to 1000"),
        ("firing?limit=1&limit=2", 400, "query parameter limit is given more than once"),
        ("notifications?before=-1", 400, "before is '-1'"),
        ("notifications?before=99999999999999999999", 400, "before is"),
        ("notifications?status=done", 400, "status is 'done'; it must be one of pending, delivered, dead, dropped"),
        ("firing?alert=lte", 404, "there is no alert 'lte'; there are: late, lost"),
        ("nothing", 404, "Not Found"),
    ],
)
async def test_a_mistaken_request_is_told_what_would_be_right(start: Start, path: str, status: int, told: str) -> None:
    client = await start()
    response = await client.get(f"/api/v1/{path}")
    assert response.status == status
    assert told in await error(response)


async def test_a_ledger_that_cannot_be_read_costs_only_what_needs_it(start: Start, overview: FakeOverview) -> None:
    overview.fault = LedgerError("tocsin.db: the disk is full; make room", LedgerReason.FULL)
    client = await start()
    response = await client.get("/api/v1/dead-letters")
    assert (response.status, await error(response)) == (503, "tocsin.db: the disk is full; make room")
    for path in ("/metrics", "/api/v1/status", "/api/v1/firing"):
        assert (await client.get(path)).status == 200


async def test_a_fault_nobody_foresaw_shows_neither_traceback_nor_secret(
    start: Start, overview: FakeOverview, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[AlertStatus]:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(overview, "alerts", fail)
    client = await start()
    response = await client.get("/api/v1/alerts")
    assert response.status == 500
    assert await error(response) == "the request failed inside Tocsin; its log says why"


# Transitions as they happen.


async def event(response: ClientResponse) -> Any:
    """The data of the next event."""
    async with asyncio.timeout(10.0):
        async for line in response.content:
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))
    return None


async def test_the_stream_tells_recent_transitions_and_then_each_as_it_happens(
    start: Start, overview: FakeOverview
) -> None:
    overview.recent = [FIRED]
    client = await start()
    response = await client.get("/api/v1/transitions")
    assert response.content_type == "text/event-stream"
    first = await event(response)
    assert (first["kind"], first["at"], first["value"]) == ("fired", "2023-11-14T22:13:20.000Z", "NaN")
    overview.coming.put_nowait(replace(FIRED, kind="resolved", labels={"customer": "line\nbreak\n\ndata: x"}))
    second = await event(response)
    assert (second["kind"], second["labels"]) == ("resolved", {"customer": "line\nbreak\n\ndata: x"})


async def test_the_stream_ends_when_its_source_does(start: Start, overview: FakeOverview) -> None:
    client = await start()
    response = await client.get("/api/v1/transitions")
    overview.coming.put_nowait(None)
    assert await event(response) is None
    await until(lambda: overview.readers == 0)


async def test_a_reader_that_goes_away_is_let_go(start: Start, overview: FakeOverview) -> None:
    client = await start()
    response = await client.get("/api/v1/transitions")
    await until(lambda: overview.readers == 1)
    response.close()

    def gone() -> bool:
        overview.coming.put_nowait(FIRED)
        return overview.readers == 0

    await until(gone)


async def test_open_streams_do_not_hold_up_the_end_of_the_process(start: Start, overview: FakeOverview) -> None:
    client = await start()
    response = await client.get("/api/v1/transitions")
    await until(lambda: overview.readers == 1)
    async with asyncio.timeout(5.0):
        await client.server.close()
    assert overview.readers == 0
    response.close()


# The page.


async def test_every_answer_carries_the_headers_that_keep_browsers_safe(start: Start) -> None:
    client = await start()
    for path in ("/", "/static/page.js", "/api/v1/status", "/metrics", "/nothing", "/api/v1/nothing"):
        headers = (await client.get(path)).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"], path
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


async def test_the_page_needs_nothing_from_elsewhere(start: Start) -> None:
    client = await start()
    page = await (await client.get("/")).text()
    own = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {"static/page.js", "static/page.css", "static/icon.svg"} <= set(own)
    for path in own:
        response = await client.get(f"/{path.removeprefix('./')}")
        assert response.status == 200, path
        if response.content_type in {"text/css", "text/javascript", "text/html"}:
            assert "//" not in re.sub(r"(?m)^\s*//.*$|\s// .*$", "", await response.text()), (
                f"{path} names another server"
            )


async def test_the_page_holds_no_script_or_style_of_its_own(start: Start) -> None:
    """The content security policy would refuse them."""
    client = await start()
    page = await (await client.get("/")).text()
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", page)


async def test_text_from_outside_never_becomes_markup(start: Start) -> None:
    client = await start()
    script = await (await client.get("/static/page.js")).text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


# Events, history, attempts.


async def test_events_are_handed_on_with_their_headers_and_answered_with_what_became_of_them(
    start: Start, overview: FakeOverview
) -> None:
    client = await start()
    response = await client.post("/api/v1/events/posted", data=b'{"a": 1}', headers={"Authorization": "Bearer x"})
    assert (response.status, await response.json()) == (202, {"events": 1})
    [(alert, headers, body)] = overview.received
    assert (alert, headers["authorization"], body) == ("posted", "Bearer x", b'{"a": 1}')


@pytest.mark.parametrize("status", [400, 401, 503])
async def test_refused_events_are_told_why(start: Start, overview: FakeOverview, status: int) -> None:
    overview.receipt = Receipt(status=status, error="the token is wrong")
    response = await (await start()).post("/api/v1/events/posted", data=b"{}")
    assert (response.status, await response.json()) == (status, {"error": "the token is wrong"})
    assert ("Retry-After" in response.headers) == (status == 503)


async def test_too_long_a_body_is_not_read_to_its_end(start: Start, overview: FakeOverview) -> None:
    response = await (await start()).post("/api/v1/events/posted", data=b"x" * 1001)
    assert (response.status, await response.json()) == (413, {"error": "more than 1000 bytes"})
    assert overview.received == []


async def test_an_alert_that_takes_no_events_is_not_found(start: Start) -> None:
    response = await (await start()).post("/api/v1/events/late", data=b"{}")
    assert response.status == 404


async def test_a_notification_has_its_failed_attempts(start: Start, overview: FakeOverview) -> None:
    overview.records = [DEAD]
    overview.failed = {DEAD.id: [Attempt(at=1_700_000_001.5, reason="timeout", detail="no answer")]}
    found = await (await (await start()).get(f"/api/v1/notifications/{DEAD.id}")).json()
    assert found["failed_attempts"] == [{"at": "2023-11-14T22:13:21.500Z", "reason": "timeout", "detail": "no answer"}]


async def test_the_history_of_an_alert_has_times_and_deliveries(start: Start, overview: FakeOverview) -> None:
    ended = EpisodeRecord(
        alert="late",
        fingerprint="f" * 32,
        started_at=1_700_000_000_000,
        ended_at=1_700_000_002_500,
        kind="resolved",
        labels={"customer": "Acme"},
        value=math.inf,
        row={"customer": "Acme"},
        deliveries=[Delivery(channel="people", status=Status.DELIVERED, count=2)],
    )
    overview.history = [replace(ended, ended_at=None, kind="fired"), ended]
    [firing, found] = (await (await (await start()).get("/api/v1/history/late?limit=2")).json())["episodes"]
    assert (firing["ended_at"], firing["seconds"]) == (None, None)
    assert (found["ended_at"], found["seconds"], found["value"]) == ("2023-11-14T22:13:22.500Z", 2.5, "Infinity")
    assert found["deliveries"] == [{"channel": "people", "status": "delivered", "count": 2}]
