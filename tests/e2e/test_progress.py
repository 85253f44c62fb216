"""A view whose frontier advances without changes."""

from pathlib import Path

import pytest

from support.tocsin import TocsinProcess, new_harness
from support.waiting import until_some

pytestmark = pytest.mark.e2e


async def later(tocsin: TocsinProcess, than: float) -> float:
    """Wait until the frontier of the alert is later, and return it."""

    async def frontier() -> float:
        found = await tocsin.metric("tocsin_alert_frontier_timestamp_seconds", alert="orders") or 0.0
        assert found > than
        return found

    return await until_some(frontier)


async def test_batch_without_change_sends_nothing(tmp_path: Path) -> None:
    async with new_harness(tmp_path) as harness:
        harness.orders.insert(("1", "Ann", "10"))
        async with harness.run() as tocsin:
            await harness.until_notified(("fired", "1"))
            at = 0.0
            for _ in range(5):
                at = await later(tocsin, at)
            # A row that comes and goes at one moment was never there.
            harness.orders.change([(1, ("9", "Eve", "90")), (-1, ("9", "Eve", "90"))])
            await later(tocsin, at)
            # A later change is notified, so everything before it has been processed.
            harness.orders.insert(("2", "Bob", "20"))
            await harness.until_notified(("fired", "1"), ("fired", "2"))
            assert len(harness.receiver.requests) == 2
            counted = await tocsin.metric("tocsin_alert_transitions_total", alert="orders", kind="fired")
            assert counted == 2
