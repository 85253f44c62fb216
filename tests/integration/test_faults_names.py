"""A whole process when names refer to other objects, and when a stream ends while its history is retained."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.tocsin import COLUMNS, Harness, new_harness
from support.waiting import SOON, until, until_some

pytestmark = pytest.mark.e2e

ANN = ("1", "Ann", "10")
BOB = ("2", "Bob", "20")
CYD = ("3", "Cyd", "30")
LIMIT = SOON / 2
"""Seconds from a swap on a healthy server until the rows of the other view are sent."""


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """With two alerts: `orders` on a relation, `asked` on a query."""
    async with new_harness(tmp_path) as made:
        made.orders.insert(ANN, BOB)
        made.config["alerts"]["asked"] = {
            **{name: value for name, value in made.alert.items() if name != "relation"},
            "query": "SELECT id, name, amount FROM public.orders",
        }
        yield made


def sent(harness: Harness, alert: str) -> list[tuple[str, str]]:
    """The notifications of an alert: status and id."""
    return [(one["status"], str(one["row"]["id"])) for one in harness.envelopes() if one["alert"] == alert]


async def until_sent(harness: Harness, *expected: tuple[str, str]) -> None:
    """Wait until both alerts sent exactly this, in any order."""

    async def check() -> bool:
        for alert in ("orders", "asked"):
            found = sorted(sent(harness, alert))
            assert found == sorted(expected), f"{alert} sent {found}"
        return True

    await until_some(check)


async def checks(harness: Harness, count: int) -> None:
    """Wait until all names were checked so many more times."""
    before = len(harness.double.statements)
    await until(lambda: sum("INSIGHTS" in text for text in harness.double.statements[before:]) >= count)


FIRST = (("fired", "1"), ("fired", "2"))


async def test_streams_follow_the_names_they_were_given(harness: Harness) -> None:
    """Through a replacement that is applied, a stream that the server cut off, and a blue/green deployment."""
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await until_sent(harness, *FIRST)
        sent = [*FIRST, ("resolved", "1"), ("fired", "3")]

        # The stream has the difference; the view is the same object, whatever its id.
        await checks(harness, 2)
        harness.double.apply_replacement(harness.orders, [BOB, CYD])
        await until_sent(harness, *sent)
        await checks(harness, 3)
        assert not await tocsin.ready()
        assert not tocsin.logged("source down")

        # A row came and went while the process did not read. The server has the history.
        harness.double.silence(harness.orders)
        harness.orders.insert(ANN)
        harness.orders.delete(ANN)
        harness.double.fall_behind(harness.orders)
        harness.double.resume(harness.orders)
        sent += [("fired", "1"), ("resolved", "1")]
        await until_sent(harness, *sent)
        await tocsin.until_ready()
        await tocsin.until_logged("source down", "reason=fell_behind", "SUBSCRIBE fell behind")
        for alert in ("orders", "asked"):
            assert await tocsin.metric("tocsin_alert_gaps_total", alert=alert) == 0

        # The old view still exists, under the other schema's name.
        harness.double.create("green.orders", COLUMNS, retain=None, rows=[ANN, CYD])
        began = time.monotonic()
        harness.double.swap_schemas("public", "green")
        await until_sent(harness, *sent, ("resolved", "2"), ("fired", "1"))
        assert time.monotonic() - began < LIMIT
        await tocsin.until_ready()
        for alert in ("orders", "asked"):
            assert await tocsin.metric("tocsin_alert_source_errors_total", alert=alert, reason="replaced") == 1


async def test_failing_check_shows_and_heals(harness: Harness) -> None:
    """Rows still come, but nothing could say that they are of another view: that is not ready."""
    harness.source["identity_check"] = "100ms"
    harness.double.create("green.orders", COLUMNS, retain=None, rows=[BOB, CYD])
    harness.double.connection_limit = 2  # one for each alert
    async with harness.run() as tocsin:
        await until_sent(harness, *FIRST)
        await tocsin.until_not_ready("alert orders: cannot check", "alert asked: cannot check", "max_connections")
        assert len(tocsin.logged("level=warning", "names cannot be checked")) == 1
        failures = await tocsin.metric("tocsin_alert_identity_check_failures_total", alert="orders")
        assert failures is not None
        assert failures >= 3
        assert await tocsin.metric("tocsin_alert_up", alert="orders") == 1
        harness.double.connection_limit = None
        await tocsin.until_ready()
        harness.double.swap_schemas("public", "green")
        await until_sent(harness, *FIRST, ("resolved", "1"), ("fired", "3"))
