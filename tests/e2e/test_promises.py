"""The promises that a person relies on, each held by the whole process. Promise 1 is in test_nothing_lost.py, 3 in
test_promises_gauges.py, 6 in test_promises_visible.py, 7 in test_promises_secrets.py."""

import shutil
import time
from typing import Any

import pytest

from support.receiver import Answer, Received, Receiver
from support.tocsin import Harness, TocsinProcess, quick_channel
from support.waiting import SOON, until, until_some

pytestmark = pytest.mark.e2e

ANN, BOB, CYD = ("1", "Ann", "10"), ("2", "Bob", "20"), ("3", "Cyd", "30")
FIRST = ("fired", "1")


def ids(harness: Harness) -> list[str]:
    """The ids that the receiver saw, repeats included."""
    return [envelope["id"] for envelope in harness.envelopes()]


# 2. Same transition, same id; a new episode, a new one.


async def test_promise_2_pending_notification_keeps_id_across_crash(harness: Harness) -> None:
    """Catches an id that depends on the process, on a number or on the clock."""
    harness.receiver.script(Answer(hang=True))
    async with harness.run() as tocsin:
        await harness.receiver.arrived(1)
        await tocsin.kill()
    async with harness.run():
        await harness.receiver.arrived(2)
    first, second = harness.receiver.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == ids(harness)[0]
    assert first.body == second.body, "what is sent again is the same, byte for byte"


async def test_promise_2_transition_derived_again_keeps_id(harness: Harness) -> None:
    """The ledger is set back to an earlier copy, as from a backup: later transitions are derived from the source's
    history again. Catches an id made of anything but the content of the notification."""
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST)
        assert await tocsin.stop() == 0
    copy = harness.directory / "backup.db"
    shutil.copy(harness.ledger, copy)
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        harness.orders.insert(BOB)
        harness.orders.update(ANN, ("1", "Ann", "11"))
        harness.orders.delete(BOB)
        expected = [FIRST, ("fired", "2"), ("updated", "1"), ("resolved", "2")]
        await harness.until_notified(*expected)
        await tocsin.kill()
    before = ids(harness)
    for rest in harness.directory.glob("ledger.db*"):
        rest.unlink()
    shutil.copy(copy, harness.ledger)
    async with harness.run():
        await harness.receiver.arrived(7)
    assert sorted(ids(harness)) == sorted([before[0], *before[1:] * 2])
    await harness.until_notified(*expected)


async def test_promise_2_new_episode_has_new_id(harness: Harness) -> None:
    """Catches an id made of the row alone, with which a receiver would drop the second episode as a repeat."""
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST)
        for number in range(3):
            harness.orders.delete(ANN)
            harness.orders.insert(ANN)
            await harness.receiver.arrived(3 + 2 * number)
        harness.orders.delete(ANN)
        await harness.receiver.arrived(8)
        await tocsin.kill()
    harness.orders.insert(ANN)
    async with harness.run():
        await until(lambda: len(set(ids(harness))) >= 9, "nine different ids")
    assert len({envelope["fingerprint"] for envelope in harness.envelopes()}) == 1, "it is the same row every time"
    assert len({envelope["started_at"] for envelope in harness.envelopes()}) == 5


async def test_promise_2_restart_continues_the_episode(harness: Harness) -> None:
    """Catches a start that notifies existing rows as new, and one that forgets the time of its first start."""
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST)
        await tocsin.kill()
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.until_shown(tocsin)
        harness.orders.delete(ANN)
        await harness.until_notified(FIRST, ("resolved", "1"))
    fired, *_, resolved = harness.envelopes()  # the kill may precede the record of the first delivery
    assert fired["started_at"] == resolved["started_at"] < resolved["at"]


# 4. A gap is never silent.


def lose_history(harness: Harness) -> None:
    """Remove, insert and change rows, and insert one that is deleted again, beyond the history of the source."""
    harness.orders.delete(ANN)
    harness.orders.insert(CYD)
    harness.orders.update(BOB, ("2", "Bob", "21"))
    harness.orders.insert(("4", "Dan", "40"))
    harness.orders.delete(("4", "Dan", "40"))
    harness.double.compact(harness.orders)


DIFFERENCE = (("resolved", "1"), ("fired", "3"), ("updated", "2"))


async def gap(harness: Harness, tocsin: TocsinProcess, differences: int) -> None:
    """The gap was counted once and logged with its length."""
    await tocsin.until_metric("tocsin_alert_gaps_total", 1, alert="orders")
    line = await tocsin.until_logged("history does not reach back", f"differences={differences}", "alert=orders")
    assert "level=warning" in line
    assert float(line.partition(" seconds=")[2].split()[0]) > 0
    [alert] = (await tocsin.json("/api/v1/alerts"))["alerts"]
    assert alert["gaps"] == 1


async def test_promise_4_history_lost_while_down_is_diffed(harness: Harness) -> None:
    """Catches a resume without a comparison, one that notifies everything again, and a gap that is not reported."""
    harness.orders.insert(BOB)
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST, ("fired", "2"))
        await tocsin.kill()
    lose_history(harness)
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST, ("fired", "2"), *DIFFERENCE)
        await gap(harness, tocsin, 3)
        await tocsin.until_ready()
        await harness.until_shown(tocsin)
        assert not any(envelope["row"]["id"] == 4 for envelope in harness.envelopes()), "nothing is invented"
        updated = next(envelope for envelope in harness.envelopes() if envelope["status"] == "updated")
        assert (updated["previous"]["amount"], updated["row"]["amount"]) == ("20", "21")
        harness.orders.delete(CYD)
        await harness.until_notified(FIRST, ("fired", "2"), *DIFFERENCE, ("resolved", "3"))


async def test_promise_4_history_lost_while_server_down(harness: Harness) -> None:
    """The same within one process: the difference is against the rows in memory."""
    harness.orders.insert(BOB)
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST, ("fired", "2"))
        await tocsin.until_ready()
        await harness.double.kill()
        await tocsin.until_not_ready("refused")
        lose_history(harness)
        await harness.double.start()
        await harness.until_notified(FIRST, ("fired", "2"), *DIFFERENCE)
        await gap(harness, tocsin, 3)
        await tocsin.until_ready()
        await harness.until_shown(tocsin)


async def test_promise_4_gap_without_difference_is_counted(harness: Harness) -> None:
    """Rows may have appeared and disappeared in it."""
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST)
        await tocsin.kill()
    harness.orders.insert(BOB)
    harness.orders.delete(BOB)
    harness.double.compact(harness.orders)
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await gap(harness, tocsin, 0)
        assert harness.notified() == [FIRST]


async def test_promise_4_no_gap_if_nothing_missed(harness: Harness) -> None:
    """Catches a false warning: with enough history, rows that came and went are notified, and no gap is reported."""
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST)
        await tocsin.kill()
    harness.orders.insert(BOB)
    harness.orders.delete(BOB)
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST, ("fired", "2"), ("resolved", "2"))
        await tocsin.until_ready()
        assert await tocsin.metric("tocsin_alert_gaps_total", alert="orders") == 0
        assert not tocsin.logged("level=warning")


async def test_promise_4_ledger_of_another_view_warns(harness: Harness) -> None:
    """The view replaced another one with a longer history: no time is missing, yet the rows
    differ. The difference is notified, with a warning."""
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST)
        assert await tocsin.stop() == 0
    other = harness.double.create(
        "public.other", [("id", "int4"), ("name", "text"), ("amount", "numeric")], retain=None
    )
    other.since = 0
    harness.double.drop(harness.orders)
    harness.double.rename(other, "public.orders")
    harness.orders = other
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST, ("resolved", "1"))
        await tocsin.until_logged("snapshot differs from the ledger", "differences=1", "level=warning")


# 5. Isolation.


def never(_: Received) -> Answer:
    return Answer(hang=True)


def busy(_: Received) -> Answer:
    return Answer(status=429, headers={"retry-after": "30"})


@pytest.mark.parametrize("trouble", [never, busy, lambda _: Answer(status=401)])
async def test_promise_5_failing_channel_affects_no_other(harness: Harness, trouble: Any) -> None:
    """Catches channels that share a queue, a lock or a worker, and a stream that waits for deliveries. A request to the
    hanging channel may take a minute: code that waits for one fails the test."""
    async with Receiver(trouble) as bad:
        harness.config["channels"]["bad"] = quick_channel(f"{bad.url}/bad", timeout="60s", concurrency=2)
        harness.alert["notify"] = ["bad", "hook"]
        async with harness.run() as tocsin:
            await harness.until_notified(FIRST)
            await bad.arrived(1)
            expected = [FIRST]
            for number in range(2, 22):
                began = time.monotonic()
                harness.orders.insert((str(number), "more", "1"))
                expected.append(("fired", str(number)))
                await harness.until_notified(*expected)
                assert time.monotonic() - began < SOON / 2
            await harness.until_shown(tocsin)
            frontier = await tocsin.metric("tocsin_alert_frontier_timestamp_seconds", alert="orders") or 0.0

            async def moving() -> bool:
                now = await tocsin.metric("tocsin_alert_frontier_timestamp_seconds", alert="orders") or 0.0
                return now > frontier + 0.3

            await until_some(moving, "the frontier moves on")
            assert await tocsin.ready() == "", "a channel in trouble does not make the process unready"
            await tocsin.until_metric("tocsin_channel_pending", 21, channel="bad")
            await tocsin.until_metric("tocsin_channel_pending", 0, channel="hook")
            await tocsin.kill()


async def test_promise_5_recovered_channel_gets_everything_in_order(harness: Harness) -> None:
    """Trouble delays a channel's own notifications and loses none; those of one row stay in order."""
    async with Receiver(lambda _: Answer(status=503)) as bad:
        harness.config["channels"]["bad"] = quick_channel(f"{bad.url}/bad")
        harness.alert["notify"] = ["bad", "hook"]
        async with harness.run() as tocsin:
            await harness.until_notified(FIRST)
            for amount in range(11, 16):
                harness.orders.update(("1", "Ann", str(amount - 1)), ("1", "Ann", str(amount)))
                await harness.receiver.arrived(amount - 9)
            harness.orders.delete(("1", "Ann", "15"))
            await harness.receiver.arrived(7)
            turn = len(bad.requests)
            bad.otherwise = lambda _: Answer()
            await bad.arrived(turn + 7)
            later = [(one.json["status"], one.json["row"]["amount"]) for one in bad.requests[turn:]]
            expected = [("fired", "10"), *(("updated", str(n)) for n in range(11, 16)), ("resolved", "15")]
            assert later == expected
            await tocsin.until_metric("tocsin_channel_pending", 0, channel="bad")


async def test_promise_5_alert_in_error_affects_no_other(harness: Harness) -> None:
    other = harness.double.create("public.parcels", [("id", "int4")], retain=None, rows=[("7",)])
    harness.config["alerts"]["parcels"] = {
        "source": "mz",
        "relation": "public.parcels",
        "key": ["id"],
        "labels": ["id"],
    }
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        other.fail("division by zero")
        assert "alert orders" not in await tocsin.until_not_ready("alert parcels", "division by zero")
        harness.orders.insert(BOB)
        await harness.until_notified(FIRST, ("fired", "2"))
        await harness.until_shown(tocsin)
        assert await tocsin.metric("tocsin_alert_up", alert="orders") == 1
        assert await tocsin.metric("tocsin_alert_up", alert="parcels") == 0
