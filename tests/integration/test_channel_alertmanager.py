"""The level output to a real Alertmanager."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.alertmanager import ALERTMANAGER, Alertmanager, alertmanager
from support.alertmanager_output import NOW, closing, output
from support.messages import VIEW, message, transition
from support.receiver import Receiver
from support.waiting import until, until_some
from tocsin.backoff import Backoff
from tocsin.channels.alertmanager import Config
from tocsin.channels.alertmanager import build as build_output
from tocsin.channels.base import Delivered
from tocsin.dispatch.level import ActiveAlerts, LevelLoop
from tocsin.dispatch.receiver import LevelPolicy
from tocsin.envelope import build
from tocsin.exposition import Metrics
from tocsin.model import Transition

pytestmark = pytest.mark.skipif(ALERTMANAGER is None, reason="alertmanager is not on the PATH")


class AlertmanagerHarness:
    """A loop whose firings a test sets, and Alertmanagers that notify a receiver, `people`."""

    def __init__(self, folder: Path, people: Receiver) -> None:
        self.folder = folder
        self.people = people
        self.firing: list[Transition] = []
        self.file = folder / "alertmanager.yml"
        hook = f"{{url: '{people.url}', send_resolved: true}}"
        self.file.write_text(
            "route: {receiver: people, group_by: ['...'], group_wait: 0s, group_interval: 100ms, repeat_interval: 1h}\n"
            f"receivers: [{{name: people, webhook_configs: [{hook}]}}]\n"
        )

    def server(self) -> Any:
        return alertmanager(self.folder, self.file)

    @asynccontextmanager
    async def loop(self, url: str, **settings: Any) -> AsyncIterator[LevelLoop]:
        config = Config.model_validate({"type": "alertmanager", "urls": [url], **settings})
        made = LevelLoop(
            "am",
            build_output("am", config, {"late": config}),
            LevelPolicy(resend=60.0, backoff=Backoff(initial=0.05, maximum=0.2), limit=10_000, debounce=0.01),
            current=lambda: {"late": list(self.firing)},
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

    def fires(self, loop: LevelLoop, *keys: str) -> None:
        at = int(time.time() * 1000) - 5000
        self.firing = [transition(key=key, started_at=at, at=at) for key in keys]
        loop.changed("late")

    def notified(self) -> list[tuple[str, str]]:
        """What people were notified of: status and name of each alert, in order."""
        return [
            (alert["status"], alert["labels"]["alertname"])
            for request in self.people.requests
            for alert in request.json["alerts"]
        ]


KEYED: dict[str, Any] = {"alertname": "Late{{ row.order_id }}"}


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[AlertmanagerHarness]:
    async with Receiver() as people:
        yield AlertmanagerHarness(tmp_path, people)


def knows(server: Alertmanager, *names: str) -> Callable[[], Awaitable[bool]]:
    """Return a check that exactly these fire there."""

    async def check() -> bool:
        assert sorted(await server.alerts()) == sorted(names)
        return True

    return check


async def test_people_are_notified_of_alert_and_its_end(harness: AlertmanagerHarness) -> None:
    async with harness.server() as server, harness.loop(server.url, **KEYED, labels={"team": "ops"}) as loop:
        harness.fires(loop, "1", "2")
        await until_some(knows(server, "Late1", "Late2"))
        alert = (await server.alerts())["Late1"]
        assert alert["labels"] == {"alertname": "Late1", "customer": "Ann", "team": "ops"}
        assert alert["annotations"] == {"summary": "Order 1 of Ann is late"}
        started, ends = (datetime.fromisoformat(alert[name]).timestamp() for name in ("startsAt", "endsAt"))
        assert started == pytest.approx(time.time() - 5, abs=4)
        assert ends == pytest.approx(time.time() + 240, abs=20)
        await until(lambda: len(harness.notified()) == 2)
        harness.fires(loop, "2")
        await until_some(knows(server, "Late2"))
        await until(lambda: ("resolved", "Late1") in harness.notified())
    assert sorted(harness.notified()) == [("firing", "Late1"), ("firing", "Late2"), ("resolved", "Late1")]


async def test_clean_restart_notifies_no_one_again(harness: AlertmanagerHarness) -> None:
    async with harness.server() as server:
        async with harness.loop(server.url, **KEYED) as loop:
            harness.fires(loop, "1", "2")
            await until_some(knows(server, "Late1", "Late2"))
            harness.firing = harness.firing[:1]
            await loop.settled()
        before = (await server.alerts())["Late1"]["updatedAt"]
        async with harness.loop(server.url, **KEYED):

            async def again() -> bool:
                return bool((await server.alerts())["Late1"]["updatedAt"] > before)

            await until_some(again)
        await until(lambda: len(harness.notified()) == 3)
        assert sorted(harness.notified()) == [("firing", "Late1"), ("firing", "Late2"), ("resolved", "Late2")]


async def test_any_text_in_a_row_is_accepted(harness: AlertmanagerHarness) -> None:
    texts = [
        "\0",
        "a\nb\r\x1b[2J\x7f\x85",
        "\ud800",
        "\N{GRINNING FACE}\ufffe\U0010ffff",
        '{"}<&\\',
        "x" * 300_000,
        " ",
    ]
    names = ["a-b", "0", "é", "__name__", "a b", "", "x" * 300]
    async with harness.server() as server, closing(output(server.url)) as made:
        alerts = []
        for number, (text, name) in enumerate([(text, name) for text in texts for name in names]):
            what = message(started_at=2**64 - 1 if number % 2 else 0)
            what.envelope["labels"] |= {"number": str(number), name: text}
            what.envelope["annotations"] |= {name: text, "text": text}
            generator = f"http://example.com/{text[:50]}"
            shaped = output("http://x", options={"generator_url": "{{ row.url }}"})
            what.envelope["row"]["url"] = generator
            alerts.append(shaped.active(what.envelope, NOW))
        results = await made.push(server.url, alerts, time.time())
        assert [result for result in results if not isinstance(result, Delivered)] == []
        assert await made.verify() == []


async def test_alert_ends_after_our_clock_was_set_back(harness: AlertmanagerHarness) -> None:
    began, back = time.time(), time.time() - 3600
    firing = output("http://x", options={"alertname": "Firing"}).active(message().envelope, began)
    ended = output("http://x", options={"alertname": "Ended"}).active(message().envelope, began)
    firing = replace(firing, started_at=began)
    async with harness.server() as server, closing(output(server.url, expiry="2h")) as made:
        assert await made.push(server.url, [firing, replace(ended, started_at=began)], began) == [Delivered()] * 2
        await until_some(knows(server, "Ended", "Firing"))
        ended = replace(ended, started_at=began, ended_at=began + 600)
        assert await made.push(server.url, [firing, ended], back) == [Delivered()] * 2
        await until_some(knows(server, "Firing"))
