"""A new configuration in a running process: by SIGHUP and by request, good and bad, and what keeps running
meanwhile."""

import asyncio
import copy
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.receiver import Answer, Received, Receiver
from support.tocsin import COLUMNS, Harness, TocsinProcess, new_harness, quick_channel
from support.waiting import until, until_some

pytestmark = pytest.mark.e2e
FIRST = ("fired", "1")


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        made.orders.insert(("1", "Ann", "10"))
        made.config["web"]["admin"] = True
        yield made


@asynccontextmanager
async def started(harness: Harness) -> AsyncIterator[TocsinProcess]:
    """Start the process and wait for the notification of the first row."""
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.until_notified(FIRST)
        yield tocsin
        assert tocsin.running, tocsin.log[-5:]
        assert not tocsin.logged("Traceback")


async def reloaded(tocsin: TocsinProcess, config: dict[str, Any]) -> None:
    """Reload with this configuration, which is good."""
    tocsin.write(config)
    status, text = await tocsin.post("/-/reload")
    assert (status, text) == (200, "The configuration was reloaded.\n")


def changed(harness: Harness) -> dict[str, Any]:
    """A copy of the configuration to change."""
    return copy.deepcopy(harness.config)


def second_alert(harness: Harness, config: dict[str, Any], **more: Any) -> None:
    """Another view and an alert `parcels` on it."""
    harness.double.create("public.parcels", COLUMNS, retain=None, rows=[("7", "Box", "70")])
    config["alerts"]["parcels"] = {**harness.alert, "relation": "public.parcels", **more}


@asynccontextmanager
async def without_a_gap(harness: Harness, tocsin: TocsinProcess) -> AsyncIterator[None]:
    """Assert that the alert `orders` keeps its series and its stream while the body runs."""
    before, connects = await tocsin.gauge("orders"), subscriptions(harness)
    done = False

    async def poll() -> int:
        scrapes = 0
        while not done or scrapes == 0:
            shown = await tocsin.metrics()
            assert {labels: value for (name, labels), value in shown.items() if name == "orders"} == before
            assert shown["tocsin_alert_up", frozenset({("alert", "orders")})] == 1
            scrapes += 1
        return scrapes

    polling = asyncio.create_task(poll())
    try:
        yield
    finally:
        done = True
        assert await polling > 0
    assert subscriptions(harness) == connects, "the stream of an alert that did not change was opened again"


def subscriptions(harness: Harness, relation: str = "orders") -> int:
    """How often a view was subscribed to."""
    return sum(text.startswith("COPY (SUBSCRIBE") and f'"{relation}"' in text for text in harness.double.statements)


# Asking for it.


BAD = {
    "no YAML": "alerts: [",
    "an unknown key": "alerts: {orders: {sorce: mz}}",
    "empty": "",
    "not there": None,
}


async def test_bad_file_changes_nothing_and_shows(harness: Harness) -> None:
    async with started(harness) as tocsin:
        for count, text in enumerate(BAD.values(), 1):
            good = await tocsin.metric("tocsin_config_last_reload_success_timestamp_seconds")
            assert await tocsin.metric("tocsin_config_last_reload_successful") == 1
            async with without_a_gap(harness, tocsin):
                if text is None:
                    tocsin.file.unlink()
                else:
                    tocsin.write(text)
                tocsin.signal(signal.SIGHUP)
                line = await tocsin.until_logged("configuration refused", "level=error", count=count)
                assert str(tocsin.file) in line
                await tocsin.until_metric("tocsin_config_last_reload_successful", 0)
                assert await tocsin.metric("tocsin_config_last_reload_success_timestamp_seconds") == good
                assert await tocsin.ready() == "", "the last good configuration works on"
            tocsin.write(harness.config)
            tocsin.signal(signal.SIGHUP)
            await tocsin.until_metric("tocsin_config_last_reload_successful", 1)
            assert (await tocsin.metric("tocsin_config_last_reload_success_timestamp_seconds") or 0) > (good or 0)
        harness.orders.insert(("2", "Bob", "20"))
        await harness.until_notified(FIRST, ("fired", "2"))


async def test_reload_request_needs_admin(harness: Harness) -> None:
    harness.config["web"]["admin"] = False
    async with started(harness) as tocsin:
        status, text = await tocsin.post("/-/reload")
        assert status == 403
        assert "admin" in text
        assert not tocsin.logged("configuration applied")


async def test_concurrent_reloads_are_serialized(harness: Harness) -> None:
    async with started(harness) as tocsin, without_a_gap(harness, tocsin):
        config = changed(harness)
        second_alert(harness, config)
        tocsin.write(config)
        for _ in range(5):
            tocsin.signal(signal.SIGHUP)
        answers = await asyncio.gather(*(tocsin.post("/-/reload") for _ in range(5)))
        assert {status for status, _ in answers} == {200}
        await tocsin.until_ready()
        assert subscriptions(harness, "parcels") == 1
    await harness.until_notified(FIRST, ("fired", "7"))


# What changes, and what does not.


async def test_alert_is_added_removed_and_restored(harness: Harness) -> None:
    """Its firings and its frontier stay in the ledger: no repeats, and missed changes are notified."""
    async with started(harness) as tocsin:
        config = changed(harness)
        second_alert(harness, config)
        async with without_a_gap(harness, tocsin):
            await reloaded(tocsin, harness.config)
            await reloaded(tocsin, config)
            await tocsin.until_metric("parcels", 70, id="7", name="Box")
            await harness.until_notified(FIRST, ("fired", "7"))
            await reloaded(tocsin, harness.config)
            # It leaves the page immediately, with all of its metrics.
            assert "parcels" not in (await tocsin.get("/metrics"))[1]
            assert [alert["name"] for alert in (await tocsin.json("/api/v1/alerts"))["alerts"]] == ["orders"]
            parcels = harness.double.relation("public.parcels")
            await harness.double.unsubscribed(parcels)
            parcels.insert(("8", "Bag", "80"))
            await reloaded(tocsin, config)
            await harness.until_notified(FIRST, ("fired", "7"), ("fired", "8"))
        harness.orders.insert(("2", "Bob", "20"))
        await harness.until_notified(FIRST, ("fired", "7"), ("fired", "8"), ("fired", "2"))


async def test_changed_labels_notify_nothing_twice(harness: Harness) -> None:
    """A changed key resolves the old firings."""
    second_alert(harness, harness.config)
    async with harness.run() as tocsin:
        await harness.until_notified(FIRST, ("fired", "7"))
        await tocsin.until_ready()
        config = changed(harness)
        config["alerts"]["parcels"] |= {"labels": {"parcel": "id"}, "static_labels": {"team": "mail"}, "value": None}
        async with without_a_gap(harness, tocsin):
            await reloaded(tocsin, config)
            await tocsin.until_metric("parcels", 1, parcel="7", team="mail")
            assert len(await tocsin.gauge("parcels")) == 1, "the series under the old labels are gone"
        harness.orders.insert(("2", "Bob", "20"))
        await harness.until_notified(FIRST, ("fired", "7"), ("fired", "2"))
        config["alerts"]["parcels"]["key"] = ["id", "name"]
        await reloaded(tocsin, config)
        await until(lambda: len(harness.notified()) >= 5, "the old firing resolved and the new one fired")
        of_parcels = [envelope for envelope in harness.envelopes() if envelope["alert"] == "parcels"]
        assert [envelope["status"] for envelope in of_parcels] == ["fired", "resolved", "fired"]
        prints = [envelope["fingerprint"] for envelope in of_parcels]
        assert prints[0] == prints[1] != prints[2]


async def test_added_channel_gets_only_later_transitions(harness: Harness) -> None:
    async with started(harness) as tocsin, Receiver() as other:
        config = changed(harness)
        config["channels"]["pager"] = quick_channel(f"{other.url}/page")
        config["alerts"]["orders"]["notify"] = ["hook", "pager"]
        await reloaded(tocsin, config)
        await tocsin.until_ready()
        harness.orders.insert(("2", "Bob", "20"))
        await harness.until_notified(FIRST, ("fired", "2"))
        await until(lambda: other.requests, "the pager was notified")
        assert [request.json["row"]["id"] for request in other.requests] == [2]
        ids = {request.json["id"] for request in (*other.requests, *harness.receiver.requests)}
        assert len(ids) == 3, "each channel has ids of its own"


async def test_moved_channel_keeps_pending_notifications(harness: Harness) -> None:
    """The receiver is down and its address changes: what waited goes to the new address, under the same id."""
    harness.receiver.otherwise = lambda _: Answer(status=503)
    async with harness.run() as tocsin, Receiver() as other:
        await tocsin.until_ready()
        await harness.receiver.arrived(1)
        config = changed(harness)
        config["channels"]["hook"] = quick_channel(f"{other.url}/new")
        async with without_a_gap(harness, tocsin):
            await reloaded(tocsin, config)
            await other.arrived(1)
        assert other.requests[0].json["id"] == harness.receiver.requests[0].json["id"]
        await tocsin.until_metric("tocsin_channel_pending", 0, channel="hook")


async def test_removed_channel_parks_pending_notifications(harness: Harness) -> None:
    """It can be restored and send them."""
    harness.receiver.otherwise = lambda _: Answer(status=503)
    harness.orders.insert(("2", "Bob", "20"))
    async with harness.run() as tocsin, Receiver() as other:
        await tocsin.until_ready()
        await tocsin.until_metric("tocsin_channel_pending", 2, channel="hook")
        config = changed(harness)
        config["channels"] = {"pager": quick_channel(f"{other.url}/page")}
        config["alerts"]["orders"]["notify"] = ["pager"]
        await reloaded(tocsin, config)
        await tocsin.until_logged(
            "notifications of removed channels became dead letters", "notifications=2", "level=warning"
        )
        dropped, dead = (await tocsin.json("/api/v1/dead-letters"))["notifications"]
        assert (dead["channel"], dead["reason"]) == ("hook", "unrouted")
        # It is listed as long as it has notifications; its counters are gone.
        await tocsin.until_metric("tocsin_channel_dead_letters", 2, channel="hook")
        for gone in ("up", "delivered_total", "attempts_total"):
            assert await tocsin.metric(f"tocsin_channel_{gone}", channel="hook") is None
        pager, hook = (await tocsin.json("/api/v1/status"))["channels"]
        assert (pager["name"], pager["state"], pager["dead"]) == ("pager", "up", 0)
        assert (hook["name"], hook["state"], hook["dead"], hook["pending"]) == ("hook", "removed", 2, 0)
        assert "no longer configured" in hook["message"]
        await tocsin.until_ready()
        harness.orders.insert(("3", "Cyd", "30"))
        await other.arrived(1)
        assert other.requests[0].json["row"]["id"] == 3

        assert (await tocsin.post(f"/api/v1/notifications/{dropped['id']}/drop"))[0] == 200
        assert (await tocsin.post(f"/api/v1/notifications/{dead['id']}/retry"))[0] == 200
        # It stays pending, visibly, as long as the channel is removed.
        await tocsin.until_metric("tocsin_channel_pending", 1, channel="hook")
        assert await tocsin.metric("tocsin_channel_dead_letters", channel="hook") == 0
        before = len(harness.receiver.requests)
        harness.receiver.otherwise = lambda _: Answer()
        await reloaded(tocsin, harness.config)
        await harness.receiver.arrived(before + 1)
        assert harness.receiver.requests[-1].json["id"] == dead["id"]
        await tocsin.until_metric("tocsin_channel_pending", 0, channel="hook")
        await reloaded(tocsin, config)
        await tocsin.until_metric("tocsin_channel_dead_letters", None, channel="hook")
        assert 'channel="hook"' not in (await tocsin.get("/metrics"))[1]
        assert [one["name"] for one in (await tocsin.json("/api/v1/status"))["channels"]] == ["pager"]


async def test_moved_source_counts_no_gap(harness: Harness) -> None:
    """It is read again; the view is the same. What needs a restart is logged."""
    async with started(harness) as tocsin:
        config = changed(harness)
        config["sources"]["mz"]["progress_timeout"] = "6s"
        config["web"]["listen"] = "127.0.0.1:1"
        config["ledger"]["path"] = str(harness.directory / "other.db")
        await reloaded(tocsin, config)
        await tocsin.until_logged("level=warning", "web.listen")
        await tocsin.until_logged("level=warning", "ledger.path")

        async def again() -> bool:
            return subscriptions(harness) == 2

        await until_some(again)
        await tocsin.until_ready()
        harness.orders.insert(("2", "Bob", "20"))
        await harness.until_notified(FIRST, ("fired", "2"))
        assert await tocsin.metric("tocsin_alert_gaps_total", alert="orders") == 0
        assert not (harness.directory / "other.db").exists()


async def test_stop_during_reload_ends_process(harness: Harness) -> None:
    async with Receiver() as alertmanager:
        harness.config["channels"]["am"] = {"type": "alertmanager", "urls": [alertmanager.url], "timeout": "60s"}
        harness.alert["notify"] = ["hook", "am"]
        async with harness.run() as tocsin:
            await tocsin.until_ready()
            await alertmanager.arrived(1)
            # The reload waits for the last request to Alertmanager, which does not answer.
            alertmanager.otherwise = lambda _: Answer(hang=True)
            config = changed(harness)
            del config["channels"]["am"]
            config["alerts"]["orders"]["notify"] = ["hook"]
            tocsin.write(config)
            tocsin.signal(signal.SIGHUP)
            await alertmanager.arrived(2)
            tocsin.signal(signal.SIGTERM)
            assert await tocsin.exited() == 0, tocsin.log[-5:]


async def test_pending_of_channel_turned_output_is_dead(harness: Harness) -> None:
    harness.receiver.otherwise = lambda _: Answer(status=503)
    async with Receiver() as alertmanager, harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.receiver.arrived(1)
        config = changed(harness)
        config["channels"]["hook"] = {"type": "alertmanager", "urls": [alertmanager.url]}
        await reloaded(tocsin, config)
        await tocsin.until_logged(
            "notifications of removed channels became dead letters", "notifications=1", "level=warning"
        )
        [dead] = (await tocsin.json("/api/v1/dead-letters"))["notifications"]
        assert (dead["channel"], dead["reason"]) == ("hook", "unrouted")
        await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="hook")
        [shown] = (await tocsin.json("/api/v1/channels"))["channels"]
        assert (shown["type"], shown["dead"]) == ("alertmanager", 1)


async def test_pending_notifications_use_renewed_token(harness: Harness) -> None:
    """The token had expired; its successor was written into the file. No reload is asked for."""
    old, new = "expired-token-0001", "renewed-token-0002"

    def renewed(request: Received) -> bool:
        return request.headers["authorization"] == f"Bearer {new}"

    harness.receiver.otherwise = lambda request: Answer(status=200 if renewed(request) else 401)
    file = harness.directory / "token"
    file.write_text(f"{old}\n")
    harness.config["channels"]["hook"] = quick_channel(
        f"{harness.receiver.url}/hook",
        headers={"Authorization": "Bearer {{ secrets.token }}"},
        secrets={"token_file": str(file)},
    )
    async with harness.run() as tocsin:
        await tocsin.until_metric("tocsin_channel_up", 0, channel="hook")
        await tocsin.until_logged("channel paused", "hook")
        harness.orders.insert(("2", "Bob", "20"))
        await tocsin.until_metric("tocsin_channel_pending", 2, channel="hook")

        file.write_text(f"{new}\n")
        await until(lambda: sum(map(renewed, harness.receiver.requests)) >= 2, "both are sent with the new token")
        await tocsin.until_metric("tocsin_channel_pending", 0, channel="hook")
        await tocsin.until_metric("tocsin_channel_up", 1, channel="hook")

        accepted = [request for request in harness.receiver.requests if renewed(request)]
        assert [request.json["row"]["id"] for request in accepted] == [1, 2]
        assert {old in request.headers["authorization"] for request in harness.receiver.requests[:-2]} == {True}
        first = harness.receiver.requests[0].headers["idempotency-key"]
        assert accepted[0].headers["idempotency-key"] == first, "it is the one that was refused"
        assert not tocsin.logged(old)
        assert not tocsin.logged(new)


async def test_source_uses_renewed_password(harness: Harness) -> None:
    file = harness.directory / "password"
    file.write_text("expired-password-0001\n")
    harness.source["password_file"] = str(file)
    harness.double.passwords["materialize"] = "renewed-password-0002"
    async with harness.run() as tocsin:
        await tocsin.until_not_ready("invalid password")
        file.write_text("renewed-password-0002\n")
        await tocsin.until_ready()
        assert not tocsin.logged("renewed-password-0002")
