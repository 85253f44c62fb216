"""A real Alertmanager, and the loop that keeps it up to date."""

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
from support.prometheus import free_port
from support.receiver import Receiver
from support.waiting import until, until_some
from tocsin.backoff import Backoff
from tocsin.channels.alertmanager import Config
from tocsin.channels.alertmanager import build as build_output
from tocsin.channels.base import Delivered
from tocsin.dispatch import Condition
from tocsin.dispatch.level import LevelLoop
from tocsin.dispatch.policy import LevelPolicy
from tocsin.envelope import build
from tocsin.exposition import Metrics
from tocsin.model import Transition

pytestmark = pytest.mark.skipif(ALERTMANAGER is None, reason="alertmanager is not on the PATH")


class Bell:
    """A loop whose firings a test sets, and Alertmanagers that send on what they are told to a receiver."""

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

    def server(self, name: str = "one", port: int | None = None) -> Any:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return alertmanager(folder, self.file, port=port)

    @asynccontextmanager
    async def loop(self, *urls: str, resend: float = 60.0, **settings: Any) -> AsyncIterator[LevelLoop]:
        config = Config.model_validate({"type": "alertmanager", "urls": urls, **settings})
        made = LevelLoop(
            "am",
            build_output("am", config, {"late": config}),
            LevelPolicy(resend=resend, backoff=Backoff(initial=0.05, maximum=0.2), limit=10_000, debounce=0.01),
            current=lambda: {"late": list(self.firing)},
            shape=lambda one: build(one, "0" * 32, VIEW),
            metrics=Metrics("0").channel("am"),
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

    def told(self) -> list[tuple[str, str]]:
        """What people were told: status and name of each alert, in order."""
        return [
            (alert["status"], alert["labels"]["alertname"])
            for request in self.people.requests
            for alert in request.json["alerts"]
        ]


KEYED: dict[str, Any] = {"alertname": "Late{{ row.order_id }}"}


@pytest.fixture
async def bell(tmp_path: Path) -> AsyncIterator[Bell]:
    async with Receiver() as people:
        yield Bell(tmp_path, people)


def knows(server: Alertmanager, *names: str) -> Callable[[], Awaitable[bool]]:
    """Whether exactly these fire there."""

    async def look() -> bool:
        assert sorted(await server.alerts()) == sorted(names)
        return True

    return look


async def test_what_fires_reaches_people_and_so_does_its_end(bell: Bell) -> None:
    async with bell.server() as server, bell.loop(server.url, **KEYED, labels={"team": "ops"}) as loop:
        bell.fires(loop, "1", "2")
        await until_some(knows(server, "Late1", "Late2"))
        alert = (await server.alerts())["Late1"]
        assert alert["labels"] == {"alertname": "Late1", "customer": "Ann", "team": "ops"}
        assert alert["annotations"] == {"summary": "Order 1 of Ann is late"}
        started, ends = (datetime.fromisoformat(alert[name]).timestamp() for name in ("startsAt", "endsAt"))
        assert started == pytest.approx(time.time() - 5, abs=4)
        assert ends == pytest.approx(time.time() + 240, abs=20)
        await until(lambda: len(bell.told()) == 2)
        bell.fires(loop, "2")
        await until_some(knows(server, "Late2"))
        await until(lambda: ("resolved", "Late1") in bell.told())
    assert sorted(bell.told()) == [("firing", "Late1"), ("firing", "Late2"), ("resolved", "Late1")]


async def test_an_alertmanager_that_restarts_knows_everything_again(bell: Bell) -> None:
    port = free_port()
    async with bell.loop(f"http://127.0.0.1:{port}", **KEYED, resend=0.5) as loop:
        async with bell.server(port=port) as server:
            bell.fires(loop, "1", "2")
            await until_some(knows(server, "Late1", "Late2"))
        await until(lambda: loop.condition is Condition.FAILING)
        bell.fires(loop, "2", "3")
        async with bell.server(port=port) as server:
            await until_some(knows(server, "Late2", "Late3"))
            await until(lambda: (loop.condition, loop.message, loop.pending) == (Condition.UP, "", 0))


async def test_an_alertmanager_that_is_down_delays_no_other_and_gets_everything_when_it_is_back(bell: Bell) -> None:
    port = free_port()
    down = f"http://127.0.0.1:{port}"
    async with bell.server() as up, bell.loop(down, up.url, **KEYED) as loop:
        bell.fires(loop, "1")
        await until_some(knows(up, "Late1"))
        bell.fires(loop, "2", "3")
        await until_some(knows(up, "Late2", "Late3"))
        assert loop.condition is Condition.FAILING
        assert loop.message.startswith(f"{down}: connection: ")
        async with bell.server("two", port) as server:
            await until_some(knows(server, "Late2", "Late3"))
            await until(lambda: loop.condition is Condition.UP)


async def test_what_nobody_tells_any_more_ends_by_itself(bell: Bell) -> None:
    async with bell.server() as server:
        async with bell.loop(server.url, **KEYED, resend_interval="1s", expiry="2s", resend=0.5) as loop:
            bell.fires(loop, "1")
            await until_some(knows(server, "Late1"))
            until_now = datetime.fromisoformat((await server.alerts())["Late1"]["endsAt"])

            async def later() -> bool:
                return datetime.fromisoformat((await server.alerts())["Late1"]["endsAt"]) > until_now

            await until_some(later)
        await until_some(knows(server))
        await until(lambda: bell.told() == [("firing", "Late1"), ("resolved", "Late1")])


async def test_after_a_clean_restart_of_ours_what_fires_is_told_at_once_and_nobody_hears_of_it(bell: Bell) -> None:
    async with bell.server() as server:
        async with bell.loop(server.url, **KEYED) as loop:
            bell.fires(loop, "1", "2")
            await until_some(knows(server, "Late1", "Late2"))
            bell.firing = bell.firing[:1]
            await loop.settled()
        before = (await server.alerts())["Late1"]["updatedAt"]
        async with bell.loop(server.url, **KEYED):

            async def again() -> bool:
                return bool((await server.alerts())["Late1"]["updatedAt"] > before)

            await until_some(again)
        await until(lambda: len(bell.told()) == 3)
        assert sorted(bell.told()) == [("firing", "Late1"), ("firing", "Late2"), ("resolved", "Late2")]


async def test_a_thousand_firings_arrive_whole(bell: Bell) -> None:
    async with bell.server() as server, bell.loop(server.url, **KEYED) as loop:
        bell.fires(loop, *map(str, range(1000)))
        await until_some(knows(server, *[f"Late{key}" for key in range(1000)]))
        assert loop.failed == 0


async def test_an_alertmanager_takes_whatever_a_row_holds(bell: Bell) -> None:
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
    async with bell.server() as server, closing(output(server.url)) as made:
        standings = []
        for number, (text, name) in enumerate([(text, name) for text in texts for name in names]):
            what = message(started_at=2**64 - 1 if number % 2 else 0)
            what.envelope["labels"] |= {"number": str(number), name: text}
            what.envelope["annotations"] |= {name: text, "text": text}
            generator = f"http://example.com/{text[:50]}"
            shaped = output("http://x", options={"generator_url": "{{ row.url }}"})
            what.envelope["row"]["url"] = generator
            standings.append(shaped.standing(what.envelope, NOW))
        results = await made.push(server.url, standings, time.time())
        assert [result for result in results if not isinstance(result, Delivered)] == []
        assert await made.verify() == []


async def test_after_our_clock_was_set_back_alertmanager_takes_what_began_and_ended_later(bell: Bell) -> None:
    began, back = time.time(), time.time() - 3600
    firing = output("http://x", options={"alertname": "Firing"}).standing(message().envelope, began)
    ended = output("http://x", options={"alertname": "Ended"}).standing(message().envelope, began)
    firing = replace(firing, started_at=began)
    async with bell.server() as server, closing(output(server.url, expiry="2h")) as made:
        assert await made.push(server.url, [firing, replace(ended, started_at=began)], began) == [Delivered()] * 2
        await until_some(knows(server, "Ended", "Firing"))
        ended = replace(ended, started_at=began, ended_at=began + 600)
        assert await made.push(server.url, [firing, ended], back) == [Delivered()] * 2
        await until_some(knows(server, "Firing"))
