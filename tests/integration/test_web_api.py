"""The JSON interface of the port: what stands, what was told, what happens, and events that come in."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientResponse

from support.overview import FakeOverview
from support.waiting import SOON, until
from support.web import DEAD, FIRED, ROW, Client, Start, error, filled, starting
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Attempt, Status
from tocsin.web import AlertStatus, Delivery, EpisodeRecord, Receipt


@pytest.fixture
def overview() -> FakeOverview:
    return filled()


@pytest.fixture
async def start(overview: FakeOverview) -> AsyncIterator[Start]:
    async with starting(overview) as begin:
        yield begin


# What stands, and what was told.


async def test_the_status_has_everything_but_rows(start: Start, overview: FakeOverview) -> None:
    overview.reasons = ["alert lost: the view is gone"]
    overview.notes = ["channel hook: paused: unauthorized: 401"]
    client = await start()
    status = await (await client.get("/api/v1/status")).json()
    assert (status["version"], status["admin"], status["ready"]) == ("1.2.3", False, False)
    assert status["time"] == "2023-11-14T22:13:23.000Z"
    assert status["reasons"] == ["alert lost: the view is gone"]
    assert status["warnings"] == ["channel hook: paused: unauthorized: 401"]
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


# Events, history, attempts.


@asynccontextmanager
async def posting(client: Client, **headers: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which the server wants the body of a request with events."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    given = {"Host": "tocsin", "Connection": "close", "Expect": "100-continue", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    writer.write(f"POST /api/v1/events/posted HTTP/1.1\r\n{lines}\r\n".encode())
    try:
        async with asyncio.timeout(SOON):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


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


async def test_who_waits_with_the_body_until_it_is_wanted_is_asked_for_it_or_refused(
    start: Start, overview: FakeOverview
) -> None:
    client = await start()
    response = await client.post("/api/v1/events/posted", data=b"{}", expect100=True)
    assert (response.status, overview.received[0][2]) == (202, b"{}")
    overview.receipt = Receipt(status=401, error="the token is wrong")
    response = await client.post("/api/v1/events/posted", data=b"{}", expect100=True)
    assert (response.status, await error(response)) == (401, "the token is wrong")


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as a warning or worse; whether less is logged at all is up to the tests before this one."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_body_that_is_not_what_its_headers_say_is_refused_in_one_sentence(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async with posting(await start(), **{"Content-Encoding": "gzip", "Content-Length": "8"}) as (reader, writer):
        writer.write(b"nonsense")
        answer = (await reader.read()).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    assert answer.endswith('{"error":"the body cannot be read as its headers say it was sent"}')
    assert complaints(caplog) == []


async def test_who_hangs_up_in_the_middle_of_a_body_is_no_fault(
    start: Start, overview: FakeOverview, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start()
    async with posting(client, **{"Content-Length": "8"}) as (_, writer):
        writer.write(b"{")
    assert (await client.post("/api/v1/events/posted", data=b"{}")).status == 202
    await until(lambda: overview.reading == 0, "the other one is given up")
    assert [body for _, _, body in overview.received] == [b"{}"]
    assert complaints(caplog) == []


async def test_an_alert_that_takes_no_events_is_not_found(start: Start) -> None:
    response = await (await start()).post("/api/v1/events/late", data=b"{}")
    assert (response.status, await error(response)) == (404, "no alert 'late' takes events over HTTP")


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
        firing=False,
        kind="resolved",
        labels={"customer": "Acme"},
        value=math.inf,
        row={"customer": "Acme"},
        deliveries=[Delivery(channel="people", status=Status.DELIVERED, count=2)],
    )
    fired = replace(ended, ended_at=None, kind="fired")
    overview.history = [replace(fired, firing=True), fired, ended]
    answer = await (await start()).get("/api/v1/history/late?limit=3")
    [firing, untold, found] = (await answer.json())["episodes"]
    assert (firing["ended_at"], firing["seconds"], firing["firing"]) == (None, None, True)
    assert (untold["ended_at"], untold["seconds"], untold["firing"]) == (None, None, False)
    assert (found["ended_at"], found["seconds"], found["value"]) == ("2023-11-14T22:13:22.500Z", 2.5, "Infinity")
    assert found["deliveries"] == [{"channel": "people", "status": "delivered", "count": 2}]
