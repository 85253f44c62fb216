"""The JSON API: status, rows, notifications, transitions, and events over HTTP."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientConnectionResetError, ClientResponse

from support.waiting import SOON, until
from support.web import ACME, DEAD, ENDED, FIRED, INSTANCE, PENDING, Client, FakeProcess, Start, error, firing
from tocsin.errors import LedgerError, LedgerReason
from tocsin.explain.keys import Asked
from tocsin.ledger.base import Attempt, Filter, Status
from tocsin.model import Kind
from tocsin.sources.http import RefusedRequest

# Status, rows, notifications.


async def test_status_has_everything_except_rows(start: Start, process: FakeProcess) -> None:
    process.reasons = ["alert lost: the view is gone"]
    process.notes = ["channel hook: paused: unauthorized: 401"]
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
    process.instance_list = [INSTANCE]
    assert (await (await client.get("/api/v1/instances")).json())["instances"] == [INSTANCE]
    assert (await (await client.get("/api/v1/status")).json())["instances"] == [INSTANCE]


async def test_firing_rows_have_columns_and_special_numbers(start: Start) -> None:
    client = await start()
    answer = await (await client.get("/api/v1/firing?alert=late")).json()
    assert answer["truncated"] == []
    assert answer["firing"][0] == {
        "alert": "late",
        "fingerprint": "1" * 32,
        "phase": "firing",
        "started_at": "2023-11-14T22:13:20.000Z",
        "labels": {"customer": "<b>Acme</b>"},
        "value": 1.5,
        "row": {"customer": "<b>Acme</b>", "iban": "DE89", "total": 1.5},
    }
    assert answer["firing"][1]["value"] == "Infinity"


async def test_summary_is_that_of_notifications(start: Start, process: FakeProcess) -> None:
    """Of rows, notifications and episodes, if the alert has one; as it fires, resolves, and with a template's error."""
    process.summary = "{{ status }}: {{ labels.customer | upper }} at {{ value }}"
    process.outbox.history = [ENDED, replace(ENDED, kind="fired", ended_at=None, firing=True)]
    client = await start()

    async def listed(path: str, name: str) -> list[str]:
        return [one["summary"] for one in (await (await client.get(f"/api/v1/{path}")).json())[name]]

    assert await listed("firing?alert=late", "firing") == [
        "fired: <B>ACME</B> at 1.5",
        "fired: <B>ACME</B> at Infinity",
    ]
    assert await listed("notifications", "notifications") == ["fired: <B>ACME</B> at 1.5"] * 2
    assert await listed("history/late", "episodes") == ["resolved: <B>ACME</B> at 1.5", "fired: <B>ACME</B> at 1.5"]
    process.summary = "{{ row.nonesuch }}"
    assert "<error: " in (await listed("firing?alert=late&limit=1", "firing"))[0]
    process.summary = None
    assert "summary" not in (await (await client.get("/api/v1/firing?alert=late")).json())["firing"][0]


async def test_firing_rows_are_limited_per_alert(start: Start, process: FakeProcess) -> None:
    process.fired = {"late": [firing(place) for place in range(5)], "lost": [firing(1)]}
    client = await start()
    answer = await (await client.get("/api/v1/firing?limit=3")).json()
    assert [row["alert"] for row in answer["firing"]] == ["late", "late", "late", "lost"]
    assert answer["truncated"] == ["late"]


async def test_notifications_are_filtered_and_paged(start: Start, process: FakeProcess) -> None:
    client = await start()

    async def listed(query: str) -> tuple[list[int], int | None, Filter]:
        answer = await (await client.get(f"/api/v1/{query}")).json()
        return [record["seq"] for record in answer["notifications"]], answer["before"], process.outbox.wanted[-1]

    pager = Filter(channel="people", limit=1, before=23)
    assert await listed("notifications") == ([7, 8], None, Filter(limit=100))
    assert await listed("notifications?limit=1&channel=people&before=23") == ([7], 7, pager)
    assert (await listed("notifications?status=pending&alert=lost"))[2] == Filter(
        status=Status.PENDING, alert="lost", limit=100
    )
    assert (await listed("dead-letters?channel=people"))[2] == Filter(status=Status.DEAD, channel="people", limit=100)


async def test_one_notification_has_fields_and_attempts(start: Start, process: FakeProcess) -> None:
    process.outbox.failed = {DEAD.id: [Attempt(at=1_700_000_001.5, reason="timeout", detail="no answer")]}
    client = await start()
    record = await (await client.get(f"/api/v1/notifications/{DEAD.id}")).json()
    assert (record["status"], record["reason"], record["detail"], record["attempts"]) == ("dead", "rejected", "422", 3)
    assert record["settled_at"] == "2023-11-14T22:13:22.000Z"
    assert record["not_before"] is None, "it never waited"
    assert record["failed_attempts"] == [{"at": "2023-11-14T22:13:21.500Z", "reason": "timeout", "detail": "no answer"}]
    assert [(one["outcome"], one["answer"]) for one in record["answers"]] == [("dead", "no answer")]
    assert (record["request"], record["route"]["channel"]) == ({"to": ["ann"]}, "people")
    assert "tocsin outbox retry" in record["next"]["text"]
    missing = await client.get("/api/v1/notifications/nothing")
    assert missing.status == 404
    assert "'nothing'" in await error(missing)


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("firing?alrt=late", 400, "unknown query parameter alrt; known: alert, limit"),
        ("alerts?limit=3", 400, "unknown query parameter limit; this path has none"),
        ("firing?limit=0", 400, "limit is '0'; it must be a whole number from 1 to 1000"),
        ("firing?limit=1001", 400, "a whole number from 1 to 1000"),
        ("firing?limit=²", 400, "a whole number from 1 to 1000"),
        ("firing?limit=1&limit=2", 400, "query parameter limit is repeated"),
        ("notifications?before=-1", 400, "before is '-1'"),
        ("notifications?before=99999999999999999999", 400, "before is"),
        ("notifications?status=done", 400, "status is 'done'; it must be one of pending, delivered, dead, dropped"),
        ("dead-letters?reason=bad", 400, "reason is 'bad'; it must be one of connection, timeout"),
        ("explain/late?id=17", 400, "unknown query parameter id; known: key, fingerprint"),
        ("firing?alert=lte", 404, "there is no alert 'lte'; there are: late, lost"),
        ("nothing", 404, "Not Found"),
    ],
)
async def test_bad_requests_get_a_reason(start: Start, path: str, status: int, expected: str) -> None:
    client = await start()
    response = await client.get(f"/api/v1/{path}")
    assert response.status == status
    assert expected in await error(response)


async def test_explanation_is_of_the_key_that_was_asked(start: Start, process: FakeProcess) -> None:
    client = await start()
    answer = await (await client.get("/api/v1/explain/late?key=17&key=region=eu")).json()
    assert (answer["verdict"], answer["summary"]) == ("unseen", "late 17 does not fire.")
    await client.get(f"/api/v1/explain/late?fingerprint={'f' * 32}")
    assert process.keys == [("late", Asked(values=("17", "region=eu"))), ("late", Asked(fingerprint="f" * 32))]


async def test_dead_letters_are_retried_and_dropped_by_filter(start: Start, process: FakeProcess) -> None:
    """Only by an administrator, and never what is pending."""
    other = replace(DEAD, seq=9, id="o" * 32, channel="pager", reason="timeout")
    process.outbox.records = [DEAD, other, PENDING]
    client = await start()
    for action in ("retry", "drop"):
        assert (await client.post(f"/api/v1/dead-letters/{action}")).status == 403
    client = await start(admin=True)
    wrong = await client.post("/api/v1/dead-letters/drop?status=pending")
    assert (wrong.status, "known: channel, alert, reason" in await error(wrong)) == (400, True)
    retried = await client.post("/api/v1/dead-letters/retry?channel=pager&reason=timeout")
    assert await retried.json() == {"retried": 1}
    assert (process.rescans, process.outbox.records) == (1, [DEAD, PENDING])
    dropped = await client.post("/api/v1/dead-letters/drop?alert=late")
    assert (await dropped.json(), process.outbox.records) == ({"dropped": 1}, [PENDING])


async def test_unreadable_ledger_fails_only_what_needs_it(start: Start, process: FakeProcess) -> None:
    process.outbox.fault = LedgerError("tocsin.db: the disk is full; make room", LedgerReason.FULL)
    client = await start()
    response = await client.get("/api/v1/dead-letters")
    assert (response.status, await error(response)) == (503, "tocsin.db: the disk is full; make room")
    for path in ("/metrics", "/api/v1/status", "/api/v1/firing"):
        assert (await client.get(path)).status == 200


async def test_defect_shows_neither_traceback_nor_secret(
    start: Start, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[dict[str, Any]]:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(process, "alerts", fail)
    client = await start()
    response = await client.get("/api/v1/alerts")
    assert response.status == 500
    assert await error(response) == "the request failed inside Tocsin; see its log"


# Transitions as they happen.


async def event(response: ClientResponse) -> Any:
    """The data of the next event."""
    async with asyncio.timeout(SOON):
        async for line in response.content:
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))
    return None


async def test_stream_sends_recent_transitions_then_new_ones(start: Start, process: FakeProcess) -> None:
    process.feed.publish([FIRED._replace(row=("Acme", None, "NaN"))])
    response = await (await start()).get("/api/v1/transitions")
    assert response.content_type == "text/event-stream"
    first = await event(response)
    assert (first["kind"], first["at"], first["value"]) == ("fired", "2023-11-14T22:13:20.000Z", "NaN")
    hostile = "line\nbreak\n\ndata: x"
    process.feed.publish([FIRED._replace(kind=Kind.RESOLVED, row=(hostile, None, "1"))])
    second = await event(response)
    assert (second["kind"], second["labels"]) == ("resolved", {"customer": hostile})


async def test_reader_that_falls_behind_is_closed(start: Start, process: FakeProcess) -> None:
    """It must not delay the pipeline, nor fill the memory."""
    response = await (await start()).get("/api/v1/transitions")
    await until(lambda: process.feed.readers == 1)
    process.feed.publish([FIRED] * 1_001)
    assert await event(response) is None


async def test_stream_is_closed_when_its_reader_leaves(start: Start, process: FakeProcess) -> None:
    response = await (await start()).get("/api/v1/transitions")
    await until(lambda: process.feed.readers == 1)
    response.close()

    def gone() -> bool:
        process.feed.publish([FIRED])
        return process.feed.readers == 0

    await until(gone)


async def test_open_streams_do_not_delay_shutdown(start: Start, process: FakeProcess) -> None:
    client = await start()
    response = await client.get("/api/v1/transitions")
    await until(lambda: process.feed.readers == 1)
    async with asyncio.timeout(SOON):
        await client.server.close()
    assert process.feed.readers == 0
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


async def test_events_pass_with_their_headers(start: Start, process: FakeProcess) -> None:
    client = await start()
    response = await client.post("/api/v1/events/posted", data=b'{"a": 1}', headers={"Authorization": "Bearer x"})
    assert (response.status, await response.json()) == (202, {"events": 1})
    [(alert, headers, body)] = process.received
    assert (alert, headers["authorization"], body) == ("posted", "Bearer x", b'{"a": 1}')


@pytest.mark.parametrize("status", [400, 401, 503])
async def test_refused_events_get_a_reason(start: Start, process: FakeProcess, status: int) -> None:
    process.refusal = RefusedRequest(status, "the token is wrong")
    response = await (await start()).post("/api/v1/events/posted", data=b"{}")
    assert (response.status, await response.json()) == (status, {"error": "the token is wrong"})
    assert ("Retry-After" in response.headers) == (status == 503)


async def test_expect_continue_is_answered_or_refused(start: Start, process: FakeProcess) -> None:
    client = await start()
    response = await client.post("/api/v1/events/posted", data=b"{}", expect100=True)
    assert (response.status, process.received[0][2]) == (202, b"{}")
    process.refusal = RefusedRequest(401, "the token is wrong")
    response = await client.post("/api/v1/events/posted", data=b"{}", expect100=True)
    assert (response.status, await error(response)) == (401, "the token is wrong")


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as a warning or worse; whether less is logged at all is up to the tests before this one."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_body_that_contradicts_its_headers_is_refused(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async with posting(await start(), **{"Content-Encoding": "gzip", "Content-Length": "8"}) as (reader, writer):
        writer.write(b"nonsense")
        answer = (await reader.read()).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    assert answer.endswith('{"error":"the body cannot be read as its headers say it was sent"}')
    assert warnings_in(caplog) == []


async def test_client_that_hangs_up_causes_no_warning(
    start: Start, process: FakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start()
    async with posting(client, **{"Content-Length": "8"}) as (_, writer):
        writer.write(b"{")
    assert (await client.post("/api/v1/events/posted", data=b"{}")).status == 202
    await until(lambda: process.reading == 0, "the other one is given up")
    assert [body for _, _, body in process.received] == [b"{}"]
    assert warnings_in(caplog) == []


async def test_client_that_is_gone_before_the_answer_causes_no_warning(
    start: Start, process: FakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """As a browser that leaves the page while its stream begins."""
    process.refusal = ClientConnectionResetError("Cannot write to closing transport")
    await (await start()).post("/api/v1/events/posted", data=b"{}")
    assert warnings_in(caplog) == []


async def test_history_has_times_and_deliveries(start: Start, process: FakeProcess) -> None:
    fired = replace(ENDED, ended_at=None, kind="fired")
    process.outbox.history = [replace(fired, firing=True), fired, replace(ENDED, row=(*ACME[:2], "Infinity"))]
    answer = await (await start()).get("/api/v1/history/late?limit=3")
    [firing, unexpected, found] = (await answer.json())["episodes"]
    assert (firing["ended_at"], firing["seconds"], firing["firing"]) == (None, None, True)
    assert (unexpected["ended_at"], unexpected["seconds"], unexpected["firing"]) == (None, None, False)
    assert (found["ended_at"], found["seconds"], found["value"]) == ("2023-11-14T22:13:22.500Z", 2.5, "Infinity")
    assert found["deliveries"] == [
        {"channel": "people", "status": "delivered", "count": 2},
        {"channel": "pager", "status": "dead", "count": 1},
    ]
