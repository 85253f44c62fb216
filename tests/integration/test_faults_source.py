"""A whole process whose source fails and recovers: readiness, metrics, log, gauges and notifications."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.tocsin import COLUMNS, Harness, TocsinProcess, new_harness

pytestmark = pytest.mark.e2e


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        made.orders.insert(("1", "Ann", "10"), ("2", "Bob", "20"))
        yield made


FIRST = (("fired", "1"), ("fired", "2"))


async def started(harness: Harness, tocsin: TocsinProcess) -> None:
    """The process is ready, and the two rows were notified."""
    await tocsin.until_ready()
    await harness.until_notified(*FIRST)
    await harness.until_shown(tocsin)


async def broken(tocsin: TocsinProcess, reason: str, *parts: str) -> None:
    """Readiness, the log and the metrics all name the fault."""
    text = await tocsin.until_not_ready("alert orders: ", *parts)
    assert len(text.splitlines()) == 1
    line = await tocsin.until_logged("source down", "alert=orders", f"reason={reason}", *parts)
    assert "level=warning" in line
    assert await tocsin.metric("tocsin_alert_up", alert="orders") == 0
    failed = await tocsin.metric("tocsin_alert_source_errors_total", alert="orders", reason=reason)
    assert failed is not None
    assert failed >= 1


async def healed(harness: Harness, tocsin: TocsinProcess, *more: tuple[str, str]) -> None:
    """The process is ready again; besides the first two rows, exactly this was notified."""
    await tocsin.until_ready()
    await harness.until_shown(tocsin)
    await harness.until_notified(*FIRST, *more)
    await tocsin.until_metric("tocsin_alert_up", 1, alert="orders")


async def test_source_down_at_start_shows_and_heals(harness: Harness) -> None:
    """It returns with a clock that is ahead of this machine's."""
    await harness.double.kill()
    async with harness.run() as tocsin:
        await broken(tocsin, "connect", f"127.0.0.1:{harness.double.port}", "refused")
        assert await tocsin.gauge("orders") == {}, "nothing is known, so nothing is shown"
        assert (await tocsin.get("/healthz"))[0] == 200
        harness.double.ahead = 3_600_000
        await harness.double.start()
        await broken(tocsin, "future", "ahead of this machine's clock")
        harness.double.ahead = 0
        await healed(harness, tocsin)


async def test_faults_of_running_source_show_and_heal(harness: Harness) -> None:
    """One after the other in one process."""
    double = harness.double
    double.create_cluster("side")
    harness.source.update({"cluster": "side", "password": "SECRET-wrong", "connect_timeout": "200ms"})
    async with harness.run() as tocsin:
        await started(harness, tocsin)

        double.deaf = True
        double.disconnect()
        await broken(tocsin, "connect", "127.0.0.1", "no answer within")
        double.deaf = False
        double.disconnect()
        await healed(harness, tocsin)

        double.passwords["materialize"] = "right"
        double.disconnect()
        await broken(tocsin, "auth", "invalid password", "materialize@127.0.0.1")
        double.passwords.clear()
        await healed(harness, tocsin)

        harness.orders.denied.add("materialize")
        double.disconnect()
        await broken(tocsin, "permission", "permission denied", "needs SELECT privileges")
        harness.orders.denied.clear()
        await healed(harness, tocsin)

        double.rename(harness.orders, "public.elsewhere")
        double.disconnect()
        await broken(tocsin, "missing", "public.orders")
        double.rename(harness.orders, "public.orders")
        await healed(harness, tocsin)

        double.drop_cluster("side")
        await broken(tocsin, "missing", "unknown cluster 'side'")
        double.create_cluster("side")
        await healed(harness, tocsin)

        await double.kill()
        await broken(tocsin, "connect", "refused")
        harness.orders.insert(("3", "Cyd", "30"))
        harness.orders.delete(("3", "Cyd", "30"))
        await double.start()
        await healed(harness, tocsin, ("fired", "3"), ("resolved", "3"))
        assert not tocsin.logged("history does not reach back")
        assert not tocsin.logged("SECRET")
        assert await tocsin.stop() == 0


async def test_recreated_view_notifies_the_difference(harness: Harness) -> None:
    """Rows of the old view that the new one lacks are resolved; a new column is no change of a row."""
    async with harness.run() as tocsin:
        await started(harness, tocsin)
        harness.double.drop(harness.orders)
        await tocsin.until_logged("source down", "reason=dropped", "was dropped")
        await broken(tocsin, "missing", "public.orders")
        assert await tocsin.gauge("orders"), "a fault shorter than stale_after leaves the series as they were"
        rows = (("2", "Bob", "21", None), ("3", "Cyd", "30", None))
        harness.replace_view(*rows, columns=[*COLUMNS, ("town", "text")])
        changes = (("resolved", "1"), ("updated", "2"), ("fired", "3"))
        await tocsin.until_ready()
        await harness.until_notified(*FIRST, *changes)
        harness.orders.insert(("4", "Dan", "40", "Ulm"))
        await harness.until_notified(*FIRST, *changes, ("fired", "4"))
        assert harness.envelopes()[-1]["row"] == {"id": 4, "name": "Dan", "amount": "40", "town": "Ulm"}
        assert sorted((await tocsin.gauge("orders")).values()) == [21, 30, 40]


async def test_row_error_ends_and_view_is_read_again(harness: Harness) -> None:
    async with harness.run() as tocsin:
        await started(harness, tocsin)
        harness.orders.fail("division by zero")
        await broken(tocsin, "row_error", "division by zero")
        harness.orders.heal()
        harness.orders.insert(("3", "Cyd", "30"))
        # An AS OF across the error would fail for ever, so readiness shows that it was not used.
        await healed(harness, tocsin, ("fired", "3"))


async def test_row_error_across_restart_is_a_gap(harness: Harness) -> None:
    """The new process finds a frontier in the ledger whose history contains the error; it starts without history."""
    async with harness.run() as tocsin:
        await started(harness, tocsin)
        assert await tocsin.stop() == 0
    harness.orders.fail("division by zero")
    harness.orders.heal()
    harness.orders.delete(("1", "Ann", "10"))
    async with harness.run() as tocsin:
        await healed(harness, tocsin, ("resolved", "1"))
        assert tocsin.logged("history does not reach back"), "what was missed across the error is a gap"


async def test_missing_label_column_is_named(harness: Harness) -> None:
    async with harness.run() as tocsin:
        await started(harness, tocsin)
        harness.replace_view(("1", "10"), ("2", "20"), columns=[column for column in COLUMNS if column[0] != "name"])
        await broken(tocsin, "shape", "the relation has no column name", "use one of id, amount")
        harness.replace_view(("1", "Ann", "10"), ("2", "Bob", "20"))
        await healed(harness, tocsin)


async def test_stall_ends_process_with_on_stall_exit(harness: Harness) -> None:
    harness.source.update({"progress_timeout": "500ms", "on_stall": "exit"})
    async with harness.run() as tocsin:
        await started(harness, tocsin)
        harness.double.silence()
        assert await tocsin.exited() == 124
        assert tocsin.log[-1].startswith("tocsin: alert orders: "), tocsin.log[-3:]
        assert "no progress row for 0.5 s" in tocsin.log[-1]
    harness.double.resume()
    harness.orders.insert(("3", "Cyd", "30"))
    async with harness.run() as tocsin:
        await healed(harness, tocsin, ("fired", "3"))
