"""The level output to a real Alertmanager."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from support.alertmanager import Alertmanager, alertmanager
from support.alertmanager_output import NOW, closing, output
from support.messages import VIEW, message, transition
from support.monitoring_programs import Generation
from support.receiver import Receiver
from support.waiting import until, until_some
from tocsin.backoff import Backoff
from tocsin.channels.base import Delivered
from tocsin.dispatch import ChannelStatus
from tocsin.dispatch.level import ActiveAlerts, LevelLoop
from tocsin.dispatch.receiver import LevelPolicy
from tocsin.envelope import build
from tocsin.exposition import Metrics
from tocsin.model import Transition


@pytest.fixture
async def people() -> AsyncIterator[Receiver]:
    """Whom Alertmanager notifies."""
    async with Receiver() as made:
        yield made


@pytest.fixture(params=get_args(Generation))
async def server(request: pytest.FixtureRequest, tmp_path: Path, people: Receiver) -> AsyncIterator[Alertmanager]:
    file = tmp_path / "alertmanager.yml"
    hook = f"{{url: '{people.url}', send_resolved: true}}"
    file.write_text(
        "route: {receiver: people, group_by: ['...'], group_wait: 0s, group_interval: 100ms, repeat_interval: 1h}\n"
        f"receivers: [{{name: people, webhook_configs: [{hook}]}}]\n"
    )
    async with alertmanager(tmp_path, file, generation=request.param) as made:
        yield made


BY_NAME = {"alertname": "Late{{ row.order_id }}", "labels": {"team": "ops"}}
"""A name for each row."""


@asynccontextmanager
async def loop(
    server: Alertmanager,
    firing: list[Transition],
    options: dict[str, Any] = BY_NAME,
    *,
    compare: float = 300.0,
) -> AsyncIterator[LevelLoop]:
    """Keeps Alertmanager up to date of what fires."""
    made = LevelLoop(
        "am",
        output(server.url, options=options),
        LevelPolicy(
            resend=60.0, backoff=Backoff(initial=0.05, maximum=0.2), limit=10_000, compare=compare, debounce=0.01
        ),
        current=lambda: {"late": list(firing)},
        shape=lambda one: build(one, "0" * 32, VIEW),
        metrics=Metrics("0").channel("am"),
        active=ActiveAlerts(),
    )
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def notified(people: Receiver) -> Sequence[tuple[str, str]]:
    """Status and name of each alert of which people were notified."""
    alerts = [alert for request in people.requests for alert in request.json["alerts"]]
    return sorted((alert["status"], alert["labels"]["alertname"]) for alert in alerts)


def knows(server: Alertmanager, *names: str) -> Callable[[], Awaitable[bool]]:
    """Return a check that exactly these fire there."""

    async def check() -> bool:
        assert sorted(await server.alerts()) == sorted(names)
        return True

    return check


async def test_people_are_notified_once_of_alert_and_its_end(server: Alertmanager, people: Receiver) -> None:
    """Also if the output restarts meanwhile."""
    at = int(time.time() * 1000) - 5000
    firing = [transition(key=key, started_at=at, at=at) for key in "12"]
    async with loop(server, firing) as first:
        await until_some(knows(server, "Late1", "Late2"))
        alert = (await server.alerts())["Late1"]
        assert alert["labels"] == {"alertname": "Late1", "customer": "Ann", "team": "ops"}
        assert alert["annotations"] == {"summary": "Order 1 of Ann is late"}
        started, ends = (datetime.fromisoformat(alert[name]).timestamp() for name in ("startsAt", "endsAt"))
        assert started == pytest.approx(at / 1000, abs=0.01)
        assert ends == pytest.approx(time.time() + 240, abs=20)
        await until(lambda: len(notified(people)) == 2)
        del firing[1]
        await first.caught_up()

    async def sent_again() -> bool:
        return bool((await server.alerts())["Late1"]["updatedAt"] > alert["updatedAt"])

    async with loop(server, firing):
        await until_some(sent_again)
        await until(lambda: len(notified(people)) == 3)
    assert notified(people) == [("firing", "Late1"), ("firing", "Late2"), ("resolved", "Late2")]


async def test_any_text_in_a_row_is_accepted(server: Alertmanager) -> None:
    texts = ["\0", "a\nb\r\x1b[2J\x7f\x85", "\ud800", "\ufffe\U0010ffff", '{"}<&\\', "x" * 300_000, " "]
    names = ["a-b", "0", "é", "__name__", "a b", "", "x" * 300]
    async with closing(output(server.url, options={"generator_url": "{{ row.url }}"})) as made:
        alerts = []
        for number, (text, name) in enumerate([(text, name) for text in texts for name in names]):
            what = message(started_at=2**64 - 1 if number % 2 else 0)
            what.envelope["labels"] |= {"number": str(number), name: text}
            what.envelope["annotations"] |= {name: text, "text": text}
            what.envelope["row"]["url"] = f"http://example.com/{text[:50]}"
            alerts.append(made.active(what.envelope, NOW))
        results = await made.push(server.url, alerts, time.time())
        assert [result for result in results if not isinstance(result, Delivered)] == []
        assert await made.verify() == []
        assert await made.known(server.url) == {alert.identity for alert in alerts}


async def test_alerts_dropped_with_200_are_counted(tmp_path: Path) -> None:
    """The output goes on as before."""
    firing = [transition(key=key) for key in "123456"]
    file = tmp_path / "alertmanager.yml"
    file.write_text("route: {receiver: people}\nreceivers: [{name: people}]\n")
    options = {"labels": {"order": "{{ row.order_id }}"}}
    limit = "--alerts.per-alertname-limit=3"
    async with (
        alertmanager(tmp_path, file, limit, generation="newest") as server,
        loop(server, firing, options, compare=0.2) as made,
    ):
        await until(lambda: made.missing == 3)
        assert made.message == f"{server.url}: 3 firing alerts were accepted, and are not known there"
        assert (made.status, made.pending, made.failed) == (ChannelStatus.UP, 0, 0)
        del firing[3:]
        made.changed("late")
        await until(lambda: made.missing == 0)
