"""What Alertmanager itself does with what the output sends, as docs/channels/alertmanager.md says."""

import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.alertmanager import Alertmanager, alertmanager
from support.alertmanager_output import active, closing, output
from support.monitoring_programs import Generation, each_generation
from support.receiver import Receiver
from support.waiting import until
from tocsin.channels.base import ActiveAlert, Delivered

pytestmark = each_generation


@pytest.fixture
async def people() -> AsyncIterator[Receiver]:
    """Whom Alertmanager notifies."""
    async with Receiver() as made:
        yield made


def written(folder: Path, people: Receiver, route: str) -> Path:
    """A configuration that notifies people of starts and ends. `route`: its settings of time and groups."""
    file = folder / "alertmanager.yml"
    hook = f"{{url: '{people.url}', send_resolved: true}}"
    file.write_text(f"route: {{receiver: people, {route}}}\nreceivers: [{{name: people, webhook_configs: [{hook}]}}]\n")
    return file


def alert(name: str, *, age: float = 0.0, over: bool = False) -> ActiveAlert:
    """An alert whose row appeared so many seconds ago."""
    now = time.time()
    made = active("1", alertname=name.partition("/")[0], labels={"part": name.partition("/")[2]})
    return ActiveAlert(
        identity=made.identity, content=made.content, started_at=now - age, ended_at=now if over else None
    )


async def push(server: Alertmanager, *alerts: ActiveAlert, expiry: str | None = None) -> None:
    settings: dict[str, Any] = {"expiry": expiry, "resend_interval": "1s"} if expiry else {}
    async with closing(output(server.url, **settings)) as made:
        assert {type(result) for result in await made.push(server.url, alerts, time.time())} == {Delivered}


async def ends_in(server: Alertmanager, name: str) -> float:
    """Seconds until the alert ends there."""
    return datetime.fromisoformat((await server.alerts())[name]["endsAt"]).timestamp() - time.time()


def notified(people: Receiver) -> list[tuple[str, str]]:
    """Status and name of each alert in each message."""
    return [
        (one["status"], one["labels"]["alertname"]) for request in people.requests for one in request.json["alerts"]
    ]


async def test_shorter_expiry_brings_no_end_nearer(tmp_path: Path, people: Receiver, generation: Generation) -> None:
    file = written(tmp_path, people, "group_by: [alertname]")
    async with alertmanager(tmp_path, file, generation=generation) as server:
        before = alert("before")
        await push(server, before, expiry="1h")
        await push(server, before, alert("after"), expiry="1m")
        assert await ends_in(server, "before") > 3000
        assert await ends_in(server, "after") < 61
        await push(server, alert("after"), expiry="1h")
        assert await ends_in(server, "after") > 3000


async def test_group_wait_counts_from_the_start(tmp_path: Path, people: Receiver, generation: Generation) -> None:
    """The first message of older rows comes at once; the rest follows after group_interval."""
    file = written(tmp_path, people, "group_by: [alertname], group_wait: 1m, group_interval: 1s")
    async with alertmanager(tmp_path, file, generation=generation) as server:
        old = [alert(f"old/{number}", age=120) for number in range(100)]
        await push(server, alert("new"), *old[:50])
        await until(lambda: people.requests, "the old ones")
        assert len(people.requests[0].json["alerts"]) <= 50
        await push(server, *old[50:])
        await until(lambda: len(people.requests[-1].json["alerts"]) == 100, "all of the old ones")
        assert {name for _, name in notified(people)} == {"old"}


@pytest.mark.parametrize("orderly", [True, False])
async def test_restart_forgets_alerts_and_after_a_kill_ends(
    tmp_path: Path, people: Receiver, generation: Generation, orderly: bool
) -> None:
    """An end that comes while Alertmanager is away is notified only after an orderly stop. After a kill, what fires is
    notified again."""
    file = written(tmp_path, people, "group_by: [alertname], group_wait: 0s, group_interval: 100ms")
    async with alertmanager(tmp_path, file, generation=generation) as server:
        await push(server, alert("ends", age=60), alert("stays", age=60))
        await until(lambda: len(notified(people)) == 2, "both fire")
        # Another one, so that it has recorded the answers to the first two.
        await push(server, alert("later", age=60))
        await until(lambda: len(notified(people)) == 3, "all fire")
        if orderly:
            server.process.terminate()
            await server.process.wait()
    people.requests.clear()
    async with alertmanager(tmp_path, file, generation=generation) as server:
        assert await server.alerts() == {}
        await push(server, alert("ends", age=60, over=True), alert("stays", age=60), alert("more", age=60))
        wanted = {("resolved", "ends"), ("firing", "more")} if orderly else {("firing", "stays"), ("firing", "more")}
        await until(lambda: set(notified(people)) >= wanted, "what is new to Alertmanager")
        assert set(notified(people)) == wanted
