"""Promise 6, failures are visible: each fault of a source, a channel or the ledger shows wherever someone looks."""

import time

import pytest

from support.receiver import Answer
from support.tocsin import Harness
from support.waiting import SOON, until, until_some

pytestmark = pytest.mark.e2e

ANN, BOB = ("1", "Ann", "10"), ("2", "Bob", "20")
FIRST = ("fired", "1")


async def test_promise_6_stall_shows_and_withdraws_series(harness: Harness) -> None:
    """Catches a watchdog that is missing or late, and gauges that keep outdated values."""
    harness.source.update({"progress_timeout": "500ms", "snapshot_timeout": "500ms", "stale_after": "3s"})
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.until_shown(tocsin)
        harness.double.silence()
        began = time.monotonic()
        await tocsin.until_not_ready("no progress row for 0.5 s")
        assert time.monotonic() - began < SOON / 2
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
    harness.receiver.otherwise = lambda _: Answer(status=401)
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
        assert {envelope["id"] for envelope in harness.envelopes()} == {dead["id"]}
        await tocsin.until_metric("tocsin_channel_dead_letters", 0, channel="hook")
