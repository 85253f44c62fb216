"""What a person sees when a source fails under a whole process, and that it heals: readiness, metrics, log, gauges and
notifications."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.tocsin import COLUMNS, Stage, Tocsin, staged
from support.waiting import SOON, until_some

pytestmark = pytest.mark.e2e


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        made.orders.insert(("1", "Ann", "10"), ("2", "Bob", "20"))
        yield made


FIRST = (("fired", "1"), ("fired", "2"))


async def started(stage: Stage, tocsin: Tocsin) -> None:
    """All is well, and the two rows were told."""
    await tocsin.until_ready()
    await stage.until_told(*FIRST)
    await stage.until_shown(tocsin)


async def broken(tocsin: Tocsin, reason: str, *parts: str) -> None:
    """Readiness, the log and the metrics all name the fault."""
    text = await tocsin.until_not_ready("alert orders: ", *parts)
    assert len(text.splitlines()) == 1
    line = await tocsin.until_logged("source down", "alert=orders", f"reason={reason}", *parts)
    assert "level=warning" in line
    assert await tocsin.metric("tocsin_alert_up", alert="orders") == 0
    failed = await tocsin.metric("tocsin_alert_source_errors_total", alert="orders", reason=reason)
    assert failed is not None
    assert failed >= 1


async def healed(stage: Stage, tocsin: Tocsin, *told: tuple[str, str]) -> None:
    """All is well again; besides the two first rows, exactly this was told."""
    await tocsin.until_ready()
    await stage.until_shown(tocsin)
    await stage.until_told(*FIRST, *told)
    await tocsin.until_metric("tocsin_alert_up", 1, alert="orders")
    assert await tocsin.stop() == 0


async def test_a_source_that_is_down_at_the_start(stage: Stage) -> None:
    await stage.double.kill()
    async with stage.run() as tocsin:
        await broken(tocsin, "connect", f"127.0.0.1:{stage.double.port}", "refused")
        assert await tocsin.gauge("orders") == {}, "nothing is known, so nothing is shown"
        assert (await tocsin.get("/healthz"))[0] == 200
        await stage.double.start()
        await healed(stage, tocsin)


async def test_a_server_that_accepts_and_never_answers(stage: Stage) -> None:
    stage.source["connect_timeout"] = "200ms"
    stage.double.deaf = True
    async with stage.run() as tocsin:
        await broken(tocsin, "connect", "127.0.0.1")
        stage.double.deaf = False
        stage.double.disconnect()
        await healed(stage, tocsin)


async def test_a_wrong_password(stage: Stage) -> None:
    stage.double.passwords["materialize"] = "right"
    stage.source["password"] = "SECRET-wrong"
    async with stage.run() as tocsin:
        await broken(tocsin, "auth", "invalid password", "materialize@127.0.0.1")
        assert not tocsin.logged("SECRET")
        stage.double.passwords["materialize"] = "SECRET-wrong"
        await healed(stage, tocsin)


async def test_a_missing_privilege(stage: Stage) -> None:
    stage.orders.denied.add("materialize")
    async with stage.run() as tocsin:
        await broken(tocsin, "permission", "permission denied", "needs SELECT privileges")
        stage.orders.denied.clear()
        await healed(stage, tocsin)


async def test_a_missing_view(stage: Stage) -> None:
    stage.double.rename(stage.orders, "public.elsewhere")
    async with stage.run() as tocsin:
        await broken(tocsin, "missing", "public.orders")
        stage.double.rename(stage.orders, "public.orders")
        await healed(stage, tocsin)


async def test_an_unknown_cluster(stage: Stage) -> None:
    stage.source["cluster"] = "side"
    async with stage.run() as tocsin:
        await broken(tocsin, "missing", "unknown cluster 'side'")
        stage.double.create_cluster("side")
        await healed(stage, tocsin)


async def test_a_dropped_view_that_is_made_again(stage: Stage) -> None:
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.double.drop(stage.orders)
        await tocsin.until_logged("source down", "reason=dropped", "was dropped")
        await broken(tocsin, "missing", "public.orders")
        assert await tocsin.gauge("orders"), "a fault shorter than stale_after leaves the series as they were"
        stage.renew(("2", "Bob", "20"), ("3", "Cyd", "30"))
        # What the old view held and the new one does not is over; nothing is forgotten.
        await healed(stage, tocsin, ("resolved", "1"), ("fired", "3"))


async def test_a_replaced_view(stage: Stage) -> None:
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.renew(("1", "Ann", "10"), ("2", "Bob", "21"), ("3", "Cyd", "30"))
        await tocsin.until_logged("source down", "reason=dropped")
        await healed(stage, tocsin, ("updated", "2"), ("fired", "3"))


async def test_a_view_renamed_away_and_another_in_its_place(stage: Stage) -> None:
    stage.source["identity_check"] = "100ms"
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.double.rename(stage.orders, "public.old")
        stage.renew(("2", "Bob", "20"), ("3", "Cyd", "30"))
        await tocsin.until_logged("source down", "reason=replaced", "another object")
        await healed(stage, tocsin, ("resolved", "1"), ("fired", "3"))


async def test_a_row_error_that_comes_and_goes(stage: Stage) -> None:
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.orders.fail("division by zero")
        await broken(tocsin, "row_error", "division by zero")
        stage.orders.heal()
        stage.orders.insert(("3", "Cyd", "30"))
        # An AS OF across the error would fail for ever: to be ready again shows that it was not asked for.
        await healed(stage, tocsin, ("fired", "3"))


async def test_a_row_error_across_a_restart(stage: Stage) -> None:
    """The new process finds a frontier in the ledger whose history touches the error; it must not insist on it."""
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        assert await tocsin.stop() == 0
    stage.orders.fail("division by zero")
    stage.orders.heal()
    stage.orders.delete(("1", "Ann", "10"))
    async with stage.run() as tocsin:
        await healed(stage, tocsin, ("resolved", "1"))
        assert tocsin.logged("history does not reach back"), "what was missed across the error is a gap, and told"


async def test_a_label_column_that_is_gone_is_named(stage: Stage) -> None:
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.renew(("1", "10"), ("2", "20"), columns=[column for column in COLUMNS if column[0] != "name"])
        await broken(tocsin, "shape", "the relation has no column name", "it has id, amount")
        stage.renew(("1", "Ann", "10"), ("2", "Bob", "20"))
        await healed(stage, tocsin)


async def test_a_new_column_causes_no_false_transitions(stage: Stage) -> None:
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.renew(("1", "Ann", "10", None), ("2", "Bob", "20", None), columns=[*COLUMNS, ("town", "text")])
        await tocsin.until_logged("source down", "reason=dropped")
        await tocsin.until_ready()
        stage.orders.insert(("3", "Cyd", "30", "Ulm"))
        await stage.until_told(*FIRST, ("fired", "3"))
        assert stage.envelopes()[-1]["row"] == {"id": 3, "name": "Cyd", "amount": "30", "town": "Ulm"}
        assert sorted((await tocsin.gauge("orders")).values()) == [10, 20, 30]


async def test_a_new_column_that_is_filled_at_once_is_an_update(stage: Stage) -> None:
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.renew(("1", "Ann", "10", "Ulm"), ("2", "Bob", "20", None), columns=[*COLUMNS, ("town", "text")])
        await stage.until_told(*FIRST, ("updated", "1"))
        await tocsin.until_ready()


async def test_silence_shows_within_the_progress_timeout_and_heals(stage: Stage) -> None:
    stage.source.update({"progress_timeout": "500ms", "snapshot_timeout": "500ms"})
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.double.silence()
        began = time.monotonic()
        await broken(tocsin, "stalled", "for 0.5 s")
        assert time.monotonic() - began < SOON / 2
        stage.double.resume()
        stage.orders.insert(("3", "Cyd", "30"))
        await healed(stage, tocsin, ("fired", "3"))


async def test_a_stall_ends_the_process_where_the_configuration_says_so(stage: Stage) -> None:
    stage.source.update({"progress_timeout": "500ms", "on_stall": "exit"})
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        stage.double.silence()
        assert await tocsin.exited() == 124
        assert tocsin.log[-1].startswith("tocsin: alert orders: "), tocsin.log[-3:]
        assert "no progress row for 0.5 s" in tocsin.log[-1]
    stage.double.resume()
    stage.orders.insert(("3", "Cyd", "30"))
    async with stage.run() as tocsin:
        await healed(stage, tocsin, ("fired", "3"))


async def test_a_stream_cut_in_the_middle_of_a_row(stage: Stage) -> None:
    for after in (150, 90, 30):
        stage.double.cuts.append(after)
    async with stage.run() as tocsin:
        await tocsin.until_logged("source down", "reason=disconnected", "connection lost")
        stage.orders.insert(("3", "Cyd", "30"))
        await healed(stage, tocsin, ("fired", "3"))


async def test_a_server_that_is_killed_and_comes_back_with_its_history(stage: Stage) -> None:
    async with stage.run() as tocsin:
        await started(stage, tocsin)
        await stage.double.kill()
        await broken(tocsin, "connect", "refused")
        stage.orders.insert(("3", "Cyd", "30"))
        stage.orders.delete(("3", "Cyd", "30"))
        await stage.double.start()
        await healed(stage, tocsin, ("fired", "3"), ("resolved", "3"))
        assert not tocsin.logged("history does not reach back")


async def test_a_first_progress_row_in_the_future(stage: Stage) -> None:
    stage.double.ahead = 3_600_000
    async with stage.run() as tocsin:
        await broken(tocsin, "future", "ahead of this machine's clock")
        stage.double.ahead = 0
        await healed(stage, tocsin)


async def test_the_same_fault_again_and_again_is_logged_once(stage: Stage) -> None:
    await stage.double.kill()
    async with stage.run() as tocsin:

        async def often() -> bool:
            return (await tocsin.metric("tocsin_alert_source_errors_total", alert="orders", reason="connect") or 0) > 5

        await broken(tocsin, "connect", "refused")
        await until_some(often)
        assert len(tocsin.logged("source down")) == 1
