"""What a whole process does when names come to refer to other objects, and when a stream ends while its history is
retained."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.tocsin import COLUMNS, Stage, Tocsin, staged
from support.waiting import SOON, until, until_some

pytestmark = pytest.mark.e2e

ANN = ("1", "Ann", "10")
BOB = ("2", "Bob", "20")
CYD = ("3", "Cyd", "30")
LIMIT = 2.0
"""Seconds from a swap on a healthy server until the rows of the other view are sent."""


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """With two alerts: `orders` on a relation, `asked` on a query."""
    async with staged(tmp_path) as made:
        made.orders.insert(ANN, BOB)
        made.config["alerts"]["asked"] = {
            **{name: value for name, value in made.alert.items() if name != "relation"},
            "query": "SELECT id, name, amount FROM public.orders",
        }
        yield made


def sent(stage: Stage, alert: str) -> list[tuple[str, str]]:
    """What was sent of an alert: status and id."""
    return [(one["status"], str(one["row"]["id"])) for one in stage.envelopes() if one["alert"] == alert]


async def until_sent(stage: Stage, *expected: tuple[str, str]) -> None:
    """Wait until both alerts sent exactly this, in any order."""

    async def look() -> bool:
        for alert in ("orders", "asked"):
            found = sorted(sent(stage, alert))
            assert found == sorted(expected), f"{alert} sent {found}"
        return True

    await until_some(look)


async def checks(stage: Stage, count: int) -> None:
    """Wait until all names were checked so many more times."""
    before = len(stage.double.statements)
    await until(lambda: sum("INSIGHTS" in text for text in stage.double.statements[before:]) >= count)


FIRST = (("fired", "1"), ("fired", "2"))


async def started(stage: Stage, tocsin: Tocsin) -> None:
    await tocsin.until_ready()
    await until_sent(stage, *FIRST)


async def test_swapped_schemas_are_followed_within_two_seconds(stage: Stage) -> None:
    """What a blue/green deployment does: the old view still exists, under the other schema's name."""
    stage.double.create("green.orders", COLUMNS, retain=None, rows=[BOB, CYD])
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        began = time.monotonic()
        stage.double.swap_schemas("public", "green")
        await until_sent(stage, *FIRST, ("resolved", "1"), ("fired", "3"))
        assert time.monotonic() - began < LIMIT
        await tocsin.until_ready()
        for alert in ("orders", "asked"):
            assert await tocsin.metric("tocsin_alert_source_errors_total", alert=alert, reason="replaced") == 1


async def test_applied_replacement_is_no_fault_and_no_gap(stage: Stage) -> None:
    """The stream has the difference; the view is the same object, whatever its id."""
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        await checks(stage, 2)
        stage.double.apply_replacement(stage.orders, [BOB, CYD])
        await until_sent(stage, *FIRST, ("resolved", "1"), ("fired", "3"))
        await checks(stage, 3)
        assert not await tocsin.ready()
        assert not tocsin.logged("source down")
        for alert in ("orders", "asked"):
            assert await tocsin.metric("tocsin_alert_gaps_total", alert=alert) == 0


async def test_rows_sent_although_stream_fell_behind(stage: Stage) -> None:
    """A row came and went while the process did not read. The server cut it off, and has the history."""
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.double.silence(stage.orders)
        stage.orders.insert(CYD)
        stage.orders.delete(CYD)
        stage.double.fall_behind(stage.orders)
        stage.double.resume(stage.orders)
        await until_sent(stage, *FIRST, ("fired", "3"), ("resolved", "3"))
        await tocsin.until_ready()
        await tocsin.until_logged("source down", "reason=fell_behind", "SUBSCRIBE fell behind")
        assert await tocsin.metric("tocsin_alert_gaps_total", alert="orders") == 0


async def test_rows_sent_after_size_limit_is_lifted(stage: Stage) -> None:
    """The resume is refused again and again; the history stays worth asking for."""
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.orders.oversized = True
        stage.orders.wake()
        await tocsin.until_not_ready("alert orders: ", "result exceeds max size")
        stage.orders.insert(CYD)
        stage.orders.delete(CYD)
        stage.orders.oversized = False
        await until_sent(stage, *FIRST, ("fired", "3"), ("resolved", "3"))
        await tocsin.until_ready()
        assert await tocsin.metric("tocsin_alert_gaps_total", alert="orders") == 0


async def test_failing_check_shows_and_heals(stage: Stage) -> None:
    """Rows still come, but nothing could say that they are of another view: that is not ready."""
    stage.source["identity_check"] = "100ms"
    stage.double.create("green.orders", COLUMNS, retain=None, rows=[BOB, CYD])
    stage.double.connection_limit = 2  # one for each alert
    async with stage.run() as tocsin:
        await until_sent(stage, *FIRST)
        await tocsin.until_not_ready("alert orders: cannot check", "alert asked: cannot check", "max_connections")
        assert len(tocsin.logged("level=warning", "names cannot be checked")) == 1
        failures = await tocsin.metric("tocsin_alert_identity_check_failures_total", alert="orders")
        assert failures is not None
        assert failures >= 3
        assert await tocsin.metric("tocsin_alert_up", alert="orders") == 1
        stage.double.connection_limit = None
        await tocsin.until_ready()
        stage.double.swap_schemas("public", "green")
        await until_sent(stage, *FIRST, ("resolved", "1"), ("fired", "3"))


async def test_slow_catalog_delays_no_subscription(stage: Stage) -> None:
    """The view is dropped and made again while queries on the server's catalog take minutes."""
    stage.double.catalog_delay = 10 * SOON
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.renew(BOB, CYD)
        await until_sent(stage, *FIRST, ("resolved", "1"), ("fired", "3"))
        await tocsin.until_ready()
