"""The stream of changes of the status page."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.port import listening
from support.waiting import SOON, until
from support.web import ENDED, FIRED, LATE, PEOPLE, Client, FakeProcess, Start, error, firing
from tocsin.web.connections import Limits
from tocsin.web.live import Live


async def messages(client: Client) -> AsyncGenerator[dict[str, Any], None]:
    """What the stream sends."""
    async with client.get("/api/v1/live") as response:
        assert response.content_type == "text/event-stream"
        async for line in response.content:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


async def test_stream_begins_with_everything_and_goes_on_with_changes(start: Start, process: FakeProcess) -> None:
    client = await start(admin=True)
    async with asyncio.timeout(SOON), aclosing(messages(client)) as stream:
        first = await anext(stream)
        assert (first["version"], first["admin"]) == ("1.2.3", True)
        assert first["parts"]["alerts"] == ["late", "lost"]
        assert first["parts"]["alert:late"]["firing"] == 2
        assert first["parts"]["channel:people"] == PEOPLE
        process.alert_list[0] = {**LATE, "firing": 3}
        changed = {"alert:late": {**LATE, "firing": 3, "frontier": None, "last_progress": None}}
        assert (await anext(stream))["parts"] == changed
        process.feed.publish([FIRED])
        following = await anext(stream)
        assert following["parts"] == {"transitions": 1}
        assert [one["fingerprint"] for one in following["transitions"]] == [FIRED.fingerprint]
        process.fired = {"late": []}
        assert [*(await anext(stream))["parts"]] == ["rows:late"]


async def test_progress_of_a_healthy_alert_is_no_change(process: FakeProcess) -> None:
    """It goes on with the clock. Without a change there is a sign of life."""
    live = Live(process, clock=lambda: 0.0)
    task = asyncio.create_task(live.run())
    async with asyncio.timeout(SOON), aclosing(live.follow(first={}, beat=0.5)) as stream:
        assert json.loads(await anext(stream))["parts"]
        process.alert_list[0] = {**LATE, "last_progress": "2030-01-01T00:00:00.000Z"}
        assert json.loads(await anext(stream)) == {"time": "1970-01-01T00:00:00.000Z", "parts": {}, "transitions": []}
    task.cancel()
    assert live.readers == 0


async def test_reader_that_falls_behind_gets_the_latest_state(process: FakeProcess) -> None:
    """Nothing is kept for it: one message has all that it missed, and of transitions the latest."""
    live = Live(process, clock=lambda: 0.0)
    task = asyncio.create_task(live.run())
    async with asyncio.timeout(SOON), aclosing(live.follow(first={})) as stream:
        await anext(stream)
        asked = process.asked
        for firing in range(5):
            process.alert_list[0] = {**LATE, "firing": firing}
            process.feed.publish([FIRED] * 500)
            await until(lambda: process.asked > asked)  # noqa: B023
            asked = process.asked
        message = json.loads(await anext(stream))
        assert message["parts"]["alert:late"]["firing"] == 4
        assert message["parts"]["transitions"] == 2_500
        assert len(message["transitions"]) == 40
    task.cancel()


async def test_reader_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    """Once the buffers of its connection are full; they are all that it holds."""
    async with listening(tmp_path, None, Limits(write=0.5)) as port:
        _, writer = await port.connect(read=False)
        connections = port.port._connections._open
        writer.write(b"GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        changes = iter(range(1_000_000))

        def gone() -> bool:
            """Another large change; whether there is no connection any more."""
            port.process.notes = [f"{next(changes)} {'x' * 500_000}"]
            return not connections

        await until(lambda: connections, "the connection")
        await until(gone, "its end", longest=0.1)
        writer.transport.abort()


async def test_time_before_the_start_is_filled_from_the_ledger(process: FakeProcess) -> None:
    """With firings that ended, and with rows that still fire; of alerts whose rows are known."""
    started = 1_700_000_040.0
    past, still = (round((started - seconds) * 1000) for seconds in (290, 70))
    process.outbox.history = [replace(ENDED, started_at=past, ended_at=past + 40_000)]
    process.fired["late"] = [replace(firing(1), started_at=still)]
    live = Live(process, clock=lambda: started)
    task = asyncio.create_task(live.run())
    await until(lambda: live.timelines.lacking() == ["lost"])
    task.cancel()
    shown = live.timelines.shown(started, 1)["alerts"]
    assert shown["late"]["marks"][-7:] == "0400444"
    assert shown["lost"]["marks"][-7:] == "0000003"


async def test_stream_goes_on_after_a_defect(process: FakeProcess) -> None:
    live = Live(process, clock=lambda: 0.0)
    task = asyncio.create_task(live.run())
    async with asyncio.timeout(SOON), aclosing(live.follow(first={})) as stream:
        await anext(stream)
        healthy, process.alert_list = process.alert_list, [{"name": "late"}]
        asked = process.reads
        await until(lambda: process.reads > asked + 1)
        process.alert_list = [{**healthy[0], "firing": 8}]
        assert json.loads(await anext(stream))["parts"]["alert:late"]["firing"] == 8
    task.cancel()


@pytest.mark.parametrize("query", ["sort=up", "limit=0", "limit=1001", "offset=-1", "nothing=1", "q=a&q=b"])
async def test_wrong_parameters_are_named(start: Start, query: str) -> None:
    response = await (await start()).get(f"/api/v1/rows?{query}")
    assert response.status == 400
    assert query.partition("=")[0] in await error(response)


async def test_timelines_are_of_the_last_hours(start: Start) -> None:
    client = await start()
    answer = await (await client.get("/api/v1/timeline?hours=24")).json()
    assert len(answer["alerts"]["late"]["marks"]) == 120
    assert answer["step"] == 720
    assert (await client.get("/api/v1/timeline?hours=25")).status == 400
