"""Prometheus scrapes several processes with one ledger: `max without (instance)` of a gauge is the gauge of one process
that never ends."""

import time
from contextlib import AsyncExitStack

import pytest
import yaml

from support.monitoring_programs import Generation, each_generation
from support.ports import free_port
from support.prometheus import Prometheus, prometheus
from support.tocsin import Harness, TocsinProcess, running
from support.waiting import until_equal, until_some

pytestmark = pytest.mark.e2e

VIEWS = ("orders", "late")
STEP = 0.25
"""Seconds between scrapes, and between evaluations."""


@pytest.fixture
def harness(shared: Harness) -> Harness:
    shared.add_views("late")
    for name in VIEWS:
        shared.double.relation(f"public.{name}").insert(("1", "Ann", "10"))
    return shared


class Fleet:
    """Processes at known ports, and a Prometheus that scrapes all of these."""

    def __init__(self, harness: Harness, stack: AsyncExitStack, size: int) -> None:
        self.ports = [free_port() for _ in range(size)]
        self.started: list[TocsinProcess] = []
        self._harness, self._stack = harness, stack

    async def start(self) -> TocsinProcess:
        """Start one more process."""
        number = len(self.started)
        config = {**self._harness.config, "web": {"listen": f"127.0.0.1:{self.ports[number]}"}}
        made = running(self._harness.directory, config, file=f"tocsin-{number}.yaml")
        self.started.append(await self._stack.enter_async_context(made))
        return self.started[-1]

    async def watched(self, generation: Generation) -> Prometheus:
        """Start Prometheus, with a rule on each gauge."""
        folder = self._harness.directory
        rules = [{"alert": f"Rows_{name}", "expr": query(name)} for name in VIEWS]
        (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "rows", "rules": rules}]}))
        every = f"{STEP * 1000:.0f}ms"
        targets = [f"127.0.0.1:{port}" for port in self.ports]
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(folder / "rules.yml")],
            "scrape_configs": [{"job_name": "tocsin", "static_configs": [{"targets": targets}]}],
        }
        return await self._stack.enter_async_context(prometheus(folder, config, generation))

    async def until_led(self, *processes: TocsinProcess) -> TocsinProcess:
        """Wait until one of these leads `orders`, and return it."""

        async def found() -> list[TocsinProcess]:
            return [one for one in processes if await one.metric("tocsin_instance_leads", alert="orders")]

        return (await until_some(found, "a leader"))[0]


def query(name: str) -> str:
    """The query of the documentation."""
    return f"max without (instance, pod) ({name})"


async def until_counted(watching: Prometheus, expression: str, wanted: int) -> None:
    """Wait until Prometheus has so many series."""

    async def found() -> int:
        return len(await watching.query(expression))

    await until_equal(found, wanted, f"series of {expression}")


async def points(watching: Prometheus, expression: str, start: float, end: float) -> list[tuple[int, set[str]]]:
    """Of each series: how many evaluations have a value, and the values."""
    series = await watching.range(expression, start=start, end=end, step=STEP)
    return [(len(one["values"]), {value for _, value in one["values"]}) for one in series]


@each_generation
async def test_query_has_no_gap_while_processes_come_and_go(harness: Harness, generation: Generation) -> None:
    """One leader is killed, one process joins, one leader is stopped. The rules on the gauges fire all the time."""
    async with AsyncExitStack() as stack:
        fleet = Fleet(harness, stack, 4)
        watching = await fleet.watched(generation)
        for _ in range(3):
            await (await fleet.start()).until_ready()
        await until_counted(watching, "orders", 3)
        await until_counted(watching, 'ALERTS{alertstate="firing"}', 2)
        start = time.time()

        killed = await fleet.until_led(*fleet.started)
        await killed.kill()
        others = [one for one in fleet.started if one is not killed]
        await fleet.until_led(*others)
        await until_counted(watching, "orders", 2)
        await fleet.start()
        await until_counted(watching, "orders", 3)
        stopped = await fleet.until_led(*others)
        assert await stopped.stop() == 0
        await fleet.until_led(*(one for one in fleet.started if one.running))
        await until_counted(watching, "orders", 2)

        end = time.time() - STEP
        whole = int((end - start) / STEP) + 1
        for name in VIEWS:
            assert await points(watching, query(name), start, end) == [(whole, {"10"})]
            firing = f'ALERTS{{alertname="Rows_{name}",alertstate="firing"}}'
            assert await points(watching, firing, start, end) == [(whole, {"1"})]

        async def scraped() -> int:
            return len(await points(watching, "orders", start, time.time()))

        await until_equal(scraped, 4, "processes that were scraped")


async def test_process_that_started_later_counts_on_from_the_ledger(harness: Harness) -> None:
    """`late` notifies no channel, so the ledger has nothing of it: there the later process counts from its start."""
    del harness.config["alerts"]["late"]["notify"]
    for name in VIEWS:
        harness.config["alerts"][name] |= {"for": "1s", "keep_firing_for": "1h"}
    async with harness.run() as first:
        await first.until_metric("tocsin_alert_firing", 1, alert="late")
        await harness.until_notified(("fired", "1"))
        for name in VIEWS:
            harness.double.relation(f"public.{name}").delete(("1", "Ann", "10"))
            await first.until_metric("tocsin_alert_series", 0, alert=name)
        async with harness.run() as second:
            await second.until_ready()
            for one in (first, second):  # one of them is about to hand over the alert, and reads the ledger then
                await one.until_metric("tocsin_alert_firing", 1, alert="orders")
            assert await second.metric("tocsin_alert_firing", alert="late") == 0


async def test_lingering_series_end_when_the_leader_changes(harness: Harness) -> None:
    """A process that comes leads an alert from now on, and begins with what fires then. So does the one before it."""
    harness.alert["linger"] = "1h"
    async with harness.run() as first:
        await harness.until_shown(first)
        harness.orders.delete(("1", "Ann", "10"))
        await first.until_metric("orders", 0, id="1", name="Ann")
        async with harness.run() as second:
            assert await second.metric("tocsin_instance_leads", alert="orders") is not None
            await first.until_metric("tocsin_instance_leads", 0, alert="orders")
            await first.until_metric("orders", None, id="1", name="Ann")
            assert not await second.gauge("orders")
