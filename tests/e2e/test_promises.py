"""The promises that a person relies on, each held by the whole process. Promise 1 is in test_nothing_lost.py, 3 in
test_promises_gauges.py, 7 in test_promises_secrets.py."""

import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.receiver import Answer, Received, Receiver
from support.tocsin import Harness, TocsinProcess, new_harness, quick_channel
from support.waiting import SOON, until, until_some

pytestmark = pytest.mark.e2e

ANN, BOB, CYD = ("1", "Ann", "10"), ("2", "Bob", "20"), ("3", "Cyd", "30")
FIRST = ("fired", "1")


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        made.orders.insert(ANN)
        yield made


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


def forbidden(_: Received) -> Answer:
    return Answer(status=401)


@pytest.mark.parametrize("trouble", [never, busy, forbidden])
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
                assert time.monotonic() - began < SOON / 4
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


# 6. Visible failure.


async def test_promise_6_stall_shows_and_withdraws_series(harness: Harness) -> None:
    """Catches a watchdog that is missing or late, and gauges that keep outdated values."""
    harness.source.update({"progress_timeout": "500ms", "snapshot_timeout": "500ms", "stale_after": "3s"})
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.until_shown(tocsin)
        harness.double.silence()
        began = time.monotonic()
        await tocsin.until_not_ready("no progress row for 0.5 s")
        assert time.monotonic() - began < SOON / 4
        shown = await tocsin.metrics()
        if time.monotonic() - began < 2.0:  # on a machine that is not too busy to see it
            assert any(name == "orders" for name, _ in shown), "a short fault withdraws nothing"
        assert shown["tocsin_alert_up", frozenset({("alert", "orders")})] == 0

        async def withdrawn() -> bool:
            return not await tocsin.gauge("orders")

        await until_some(withdrawn, "the series are withdrawn")
        assert 2.0 < time.monotonic() - began < SOON / 2
        [alert] = (await tocsin.json("/api/v1/alerts"))["alerts"]
        assert alert["state"] == "stale"
        assert alert["series"] == 0
        assert await tocsin.metric("tocsin_alert_firing", alert="orders") == 1, "it is not known to have ended"
        assert harness.notified() == [FIRST], "an outage of the source does not end a firing"
        harness.double.resume()
        await tocsin.until_ready()
        await harness.until_shown(tocsin)


async def test_promise_6_dead_server_shows_and_withdraws_series(harness: Harness) -> None:
    harness.source.update({"progress_timeout": "500ms", "stale_after": "1s"})
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.double.kill()
        await tocsin.until_not_ready("refused")

        async def withdrawn() -> bool:
            return not await tocsin.gauge("orders")

        await until_some(withdrawn, "the series are withdrawn")
        harness.orders.update(ANN, ("1", "Ann", "11"))
        await harness.double.start()
        await tocsin.until_ready()
        await harness.until_shown(tocsin)


async def test_promise_6_ledger_is_not_shown_without_source(harness: Harness) -> None:
    """Catches a start that shows yesterday's rows as today's."""
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST)
        await tocsin.kill()
    await harness.double.kill()
    async with harness.run() as tocsin:
        await tocsin.until_not_ready("refused")
        assert await tocsin.gauge("orders") == {}
        await harness.double.start()
        await tocsin.until_ready()
        await harness.until_shown(tocsin)


async def test_promise_6_failing_channel_is_shown_everywhere(harness: Harness) -> None:
    harness.receiver.otherwise = forbidden
    async with harness.run() as tocsin:
        await tocsin.until_metric("tocsin_channel_up", 0, channel="hook")
        await tocsin.until_logged("channel paused", "reason=unauthorized", "channel=hook", "level=error")
        [channel] = (await tocsin.json("/api/v1/channels"))["channels"]
        assert channel["state"] == "paused"
        assert channel["message"].startswith("unauthorized: 401")
        await tocsin.until_metric("tocsin_channel_pending", 1, channel="hook")
        assert await tocsin.metric("tocsin_channel_oldest_pending_timestamp_seconds", channel="hook")


async def test_promise_6_refused_channel_is_not_up(harness: Harness) -> None:
    """A revoked webhook: the state is reported everywhere, and logged once."""
    harness.orders.change([(1, (str(number), "Ann", "3")) for number in range(100, 200)])
    harness.receiver.otherwise = lambda _: Answer(status=404, body=b"no such hook")
    async with harness.run() as tocsin:
        await tocsin.until_metric("tocsin_channel_state", 1, channel="hook", state="refusing")
        assert await tocsin.metric("tocsin_channel_up", channel="hook") == 0
        await tocsin.until_metric("tocsin_channel_dead_letters", 101, channel="hook")
        status, text = await tocsin.get("/readyz")
        assert status == 200
        assert "channel hook: refusing: the last 101 notifications were given up on" in text
        assert "not_found: 404" in text
        [channel] = (await tocsin.json("/api/v1/channels"))["channels"]
        assert (channel["state"], channel["delivered"]) == ("refusing", 0)
        assert len(tocsin.logged("notification dead-lettered")) == 1
        harness.receiver.otherwise = lambda _: Answer()
        harness.orders.change([(1, ("300", "Ann", "3"))])
        await tocsin.until_metric("tocsin_channel_state", 1, channel="hook", state="up")
        await tocsin.until_logged("notification dead-lettered", "repeats=100")


async def test_promise_6_unneeded_ledger_is_not_down(harness: Harness) -> None:
    """With gauges alone there is no ledger, so no rule may report that it is down."""
    harness.config["channels"] = {}
    harness.alert["notify"] = []
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await tocsin.until_metric("tocsin_ledger_up", 1)
    assert not harness.ledger.exists()


async def test_dead_letter_has_reason_and_can_be_retried(harness: Harness) -> None:
    """It is listed with its reason, and a retry sends it under its old id."""
    harness.config["web"]["admin"] = True
    harness.receiver.otherwise = lambda _: Answer(status=404, body=b"no such hook")
    async with harness.run() as tocsin:
        await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="hook")
        [dead] = (await tocsin.json("/api/v1/dead-letters"))["notifications"]
        assert dead["reason"] == "not_found"
        assert "no such hook" in dead["detail"]
        harness.receiver.otherwise = lambda _: Answer()
        assert (await tocsin.post(f"/api/v1/notifications/{dead['id']}/retry"))[0] == 200
        await until(lambda: len(harness.receiver.requests) == 2, "sent again")
        assert set(ids(harness)) == {dead["id"]}
        await tocsin.until_metric("tocsin_channel_dead_letters", 0, channel="hook")
