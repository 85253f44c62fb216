"""Promise 3: the gauges are the view at the frontier, at all times. A model changes the view at random while the page
is read; every single page must be a state that the view had, none older than the frontier it names."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.materialize import Relation
from support.tocsin import Harness, Series, TocsinProcess, new_harness
from support.waiting import until_some

pytestmark = pytest.mark.e2e

Gauge = dict[frozenset[tuple[str, str]], float]
Row = tuple[str | None, ...]
ALERTS = ("orders", "by_name")


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Beside `orders`, an alert `by_name` whose rows share labels: their values are added up."""
    async with new_harness(tmp_path) as made:
        made.config["alerts"]["by_name"] = {**made.alert, "labels": ["name"], "on_duplicate": "sum", "notify": []}
        yield made


def orders(contents: Counter[Row]) -> Gauge:
    """Series of the alert `orders` for these rows."""
    return {_labels(id=id_, name=name): float(amount or "nan") for id_, name, amount in contents}


def by_name(contents: Counter[Row]) -> Gauge:
    """Series of the alert `by_name` for these rows: each key once, however many copies it has."""
    shown: Gauge = {}
    for _, name, amount in contents:
        shown[_labels(name=name)] = shown.get(_labels(name=name), 0.0) + float(amount or "nan")
    return shown


def _labels(**values: str | None) -> frozenset[tuple[str, str]]:
    return frozenset((name, text) for name, text in values.items() if text)


SHOWN = {"orders": orders, "by_name": by_name}


class Model:
    """Random changes of a view. Keys are unique, so that every state has one right page."""

    def __init__(self, view: Relation, seed: int) -> None:
        self._view = view
        self._chance = random.Random(seed)
        self._times = [0]

    def step(self) -> None:
        """One change at one timestamp."""
        held = Counter(self._view.rows())
        chance = self._chance
        changes: dict[Row, int] = {}
        for number in chance.sample(range(12), chance.choice((1, 1, 1, 2, 5))):
            id_ = str(number)
            was = next((row for row in held if row[0] == id_), None)
            if was is not None:
                changes[was] = -held[was]
            if was is None or chance.random() < 0.6:
                row = (id_, chance.choice(("Ann", "Bob", None, 'q"\\\n')), str(chance.randrange(-3, 9)))
                copies = chance.choice((1, 1, 3))
                changes[row] = changes.get(row, 0) + copies
        self._times.append(self._view.change([(diff, row) for row, diff in changes.items()]))

    def states(self, since: int) -> list[Counter[Row]]:
        """Contents of the view just before `since`, and after each later change."""
        times = [since - 1, *(time for time in self._times if time >= since)]
        return [self._view.content(time) for time in times]


def gauge(page: Series, metric: str) -> Gauge:
    return {labels: value for (name, labels), value in page.items() if name == metric}


def own(page: Series, metric: str, alert: str) -> float | None:
    return page.get((metric, frozenset({("alert", alert)})))


async def consistent(tocsin: TocsinProcess, model: Model) -> None:
    """One page shows a state of the view that is not older than the frontier on the page."""
    page = await tocsin.metrics()
    for alert in ALERTS:
        shown, frontier = gauge(page, alert), own(page, "tocsin_alert_frontier_timestamp_seconds", alert)
        if not own(page, "tocsin_alert_up", alert) and not shown:
            continue  # it is not up yet
        possible = [SHOWN[alert](state) for state in model.states(round((frontier or 0) * 1000))]
        assert shown in possible, f"{alert} shows {shown} at {frontier}; possible are {possible[:3]}"


async def exact(harness: Harness, tocsin: TocsinProcess) -> None:
    """Without changes the page equals the view exactly."""

    async def page_is_view() -> bool:
        page = await tocsin.metrics()
        contents = Counter(harness.orders.rows())
        for alert in ALERTS:
            expected = SHOWN[alert](contents)
            assert gauge(page, alert) == expected
            assert own(page, "tocsin_alert_firing", alert) == len(contents)
            assert own(page, "tocsin_alert_series", alert) == len(expected)
        return True

    await until_some(page_is_view)


@pytest.mark.parametrize("seed", range(2))
async def test_promise_3_every_page_is_the_view(harness: Harness, seed: int) -> None:
    """Catches series that stay when a row goes or changes its labels, rows that are missed, and half a batch."""
    model = Model(harness.orders, seed)
    chance = random.Random(seed + 100)
    for _ in range(8):
        model.step()
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        for _ in range(12):
            for _ in range(chance.randrange(1, 12)):
                model.step()
                if chance.random() < 0.4:
                    await consistent(tocsin, model)
            await consistent(tocsin, model)
            if chance.random() < 0.3:
                await exact(harness, tocsin)
        await exact(harness, tocsin)


async def test_promise_3_page_is_right_after_restarts(harness: Harness) -> None:
    """Catches state carried over wrongly, from the ledger or from before a stream broke."""
    model = Model(harness.orders, 7)
    model.step()
    for ending in ("kill", "stop", "kill"):
        async with harness.run() as tocsin:
            await tocsin.until_ready()
            await exact(harness, tocsin)
            for trouble in (harness.double.disconnect, lambda: harness.double.compact(harness.orders), lambda: None):
                for _ in range(4):
                    model.step()
                trouble()
                model.step()
            await exact(harness, tocsin)
            model.step()
            await (tocsin.kill() if ending == "kill" else tocsin.stop())
        for _ in range(4):
            model.step()


async def test_promise_3_nothing_shown_before_snapshot_is_complete(harness: Harness) -> None:
    """Catches a page of half a snapshot, on which alerts seem resolved, and readiness that comes too early."""
    rows = [(str(number), "x" * 50, "1") for number in range(300)]
    harness.orders.insert(*rows)
    async with harness.run() as tocsin:  # they are in the ledger and were notified
        await tocsin.until_ready()
        await tocsin.kill()
    harness.double.bytes_per_second = 20_000  # the snapshot takes about a second
    ready, counts = False, set()
    async with harness.run() as tocsin:
        while not ready:
            ready = await tocsin.ready() == ""
            counts.add(len(await tocsin.gauge("orders")))
            await asyncio.sleep(0)
        assert counts <= {0, 300}, counts
        assert len(await tocsin.gauge("orders")) == 300


async def test_promise_3_not_ready_with_silent_server(harness: Harness) -> None:
    harness.orders.insert(("1", "Ann", "1"))
    harness.double.silence()
    async with harness.run() as tocsin:
        await harness.double.subscribed(harness.orders)
        assert "alert orders: no complete snapshot yet" in await tocsin.until_not_ready("alert orders")
        assert await tocsin.gauge("orders") == {}
        harness.double.resume()
        await tocsin.until_ready()
        assert await tocsin.gauge("orders") == orders(Counter(harness.orders.rows())), "ready means complete"


async def test_promise_3_series_lingers_as_configured(harness: Harness) -> None:
    harness.alert["linger"] = "1s"
    harness.orders.insert(("1", "Ann", "5"), ("2", "Bob", "6"))
    async with harness.run() as tocsin:
        await tocsin.until_metric("orders", 5.0, id="1", name="Ann")
        harness.orders.delete(("1", "Ann", "5"))
        await tocsin.until_metric("orders", 0.0, id="1", name="Ann")
        await tocsin.until_metric("orders", None, id="1", name="Ann")
        assert await tocsin.gauge("orders") == {_labels(id="2", name="Bob"): 6.0}
