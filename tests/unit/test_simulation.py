"""A configuration in virtual time, with the real pipelines, ledger and dispatchers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from support.config import load_text
from tocsin.model import Column
from tocsin.simulation import virtual
from tocsin.simulation.engine import Simulation, only
from tocsin.simulation.receivers import Answer

START = 1_767_225_600.0
ANN = ("17", "Ann", "15")
COLUMNS = tuple(Column(name=name, oid=oid) for name, oid in (("order_id", 20), ("customer", 25), ("minutes", 20)))
CONFIG = """
sources:
  warehouse: {{type: {kind}, {where}}}
  shop: {{type: http, token: "0123456789abcdef0123456789abcdef"}}
channels:
  team: {{type: webhook, url: "http://receiver.example"}}
  other: {{type: webhook, url: "http://other.example"}}
alerts:
  late_orders: {{source: warehouse, relation: late_orders, labels: [order_id], value: minutes, notify: [team]{more}}}
  signup: {{source: shop, notify: [other]}}
"""

Script = Callable[[Simulation], Awaitable[None]]


@pytest.fixture
def simulate(tmp_path: Path) -> Callable[..., None]:
    def simulate(script: Script, kind: str = "materialize", **more: str) -> None:
        where = "dsn: postgresql://u@db.example/d" if kind == "postgres" else "host: db.example, user: u"
        settings = "".join(f", {name}: {value}" for name, value in more.items())
        config = load_text(tmp_path, CONFIG.format(kind=kind, where=where, more=settings))

        async def main() -> None:
            async with Simulation(config, tmp_path, start=START) as simulation:
                simulation.define("late_orders", COLUMNS)
                await simulation.begin()
                await script(simulation)

        virtual.run(main())

    return simulate


def sent(simulation: Simulation, channel: str = "team") -> list[tuple[float, str]]:
    return [(round(one.at, 3), one.kind.value) for one in simulation.receivers[channel].accepted]


def test_a_day_of_timers_takes_moments(simulate: Callable[..., None]) -> None:
    async def script(simulation: Simulation) -> None:
        await simulation.until(60)
        simulation.change("late_orders", [(1, ANN)])
        await simulation.until(86_400)
        simulation.change("late_orders", [(-1, ANN)])
        await simulation.until(90_000)
        assert sent(simulation) == [
            (660, "fired"),
            (29_460, "repeated"),
            (58_260, "repeated"),
            (86_700, "resolved"),
        ]

    began = time.monotonic()
    simulate(script, **{"for": "10m", "keep_firing_for": "5m", "repeat_interval": "8h"})
    assert time.monotonic() - began < 30


def test_retries_follow_the_answers_of_the_receiver(simulate: Callable[..., None]) -> None:
    async def script(simulation: Simulation) -> None:
        answers = [Answer(status=500), Answer(status=None), Answer(status=429, retry_after=60), Answer(refused=True)]
        simulation.receivers["team"].following.extend(answers)
        simulation.change("late_orders", [(1, ANN)])
        await simulation.until(300)
        attempts = simulation.receivers["team"].attempts
        assert [one.number for one in attempts] == [1, 2, 3, 4, 5]
        assert len({one.id for one in attempts}) == 1
        # Backoff of 1 s, a timeout of 10 s and backoff of 2 s, Retry-After and the backoff, 4 s as that did not count.
        assert [round(one.at) for one in attempts] == [0, 1, 13, 77, 81]

    simulate(script)


def test_a_notification_is_repeated_with_its_id_after_a_kill(simulate: Callable[..., None]) -> None:
    async def script(simulation: Simulation) -> None:
        simulation.receivers["team"].following.append(Answer(killed=True))
        simulation.change("late_orders", [(1, ANN)])
        await simulation.until(60)
        first, second = simulation.receivers["team"].accepted
        assert first.id == second.id
        assert 'late_orders{order_id="17"} 15' in await series(simulation)

    simulate(script)


async def series(simulation: Simulation) -> str:
    await simulation.settle()
    return simulation.series()


async def while_stopped(simulation: Simulation) -> None:
    """One order comes and goes while Tocsin is stopped, and one stays."""
    await simulation.until(60)
    await simulation.stop()
    simulation.change("late_orders", [(1, ANN)])
    await simulation.until(120)
    simulation.change("late_orders", [(-1, ANN), (1, ("18", "Bob", "20"))])


def test_history_has_what_came_and_went_meanwhile(simulate: Callable[..., None]) -> None:
    async def script(simulation: Simulation) -> None:
        await while_stopped(simulation)
        await simulation.begin()
        await simulation.until(180)
        assert sorted(kind for _, kind in sent(simulation)) == ["fired", "fired", "resolved"]

    simulate(script)


@pytest.mark.parametrize("kind", ["materialize", "postgres"])
def test_a_gap_leaves_only_what_is_still_there(simulate: Callable[..., None], kind: str) -> None:
    async def script(simulation: Simulation) -> None:
        await while_stopped(simulation)
        simulation.forget("warehouse")
        await simulation.begin()
        await simulation.until(180)
        assert [kind for _, kind in sent(simulation)] == ["fired"]
        assert [one.gaps for one in simulation.statuses() if one.name == "late_orders"] == [1]

    simulate(script, kind)


def test_a_source_that_is_down_delivers_later(simulate: Callable[..., None]) -> None:
    async def script(simulation: Simulation) -> None:
        await simulation.until(60)
        simulation.set_source("warehouse", up=False)
        simulation.set_source("shop", up=False)
        await simulation.settle()
        simulation.change("late_orders", [(1, ANN)])
        simulation.publish("signup", [{"customer": "Ann"}])
        await simulation.until(3600)
        assert simulation.attempts == []
        simulation.set_source("warehouse", up=True)
        simulation.set_source("shop", up=True)
        await simulation.until(3700)
        assert sent(simulation) == [(3600, "fired")]
        assert sent(simulation, "other") == [(3600, "event")]

    simulate(script)


def test_a_missing_column_is_a_fault(simulate: Callable[..., None]) -> None:
    async def script(simulation: Simulation) -> None:
        assert simulation.faults() == [
            "late_orders: the relation has no column nosuch; use one of order_id, customer, minutes"
        ]

    simulate(script, ignore="[nosuch]")


def test_a_configuration_of_one_alert_has_what_that_needs(tmp_path: Path) -> None:
    config = load_text(tmp_path, CONFIG.format(kind="materialize", where="host: db.example, user: u", more=""))
    one = only(config, ["signup"])
    assert (list(one.alerts), list(one.sources), list(one.channels)) == (["signup"], ["shop"], ["other"])


def test_virtual_time_stays_while_a_thread_works() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(1):
            await asyncio.to_thread(time.sleep, 0.05)
        early = loop.time()
        await asyncio.sleep(3600)
        assert loop.time() == pytest.approx(3600)
        return early

    assert virtual.run(main()) == 0.0
