"""A process with another configuration on the same ledger in PostgreSQL waits until the others have ended."""

import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from support.postgres import shared_postgres
from support.tocsin import COLUMNS, Harness, TocsinProcess, command, write
from support.waiting import SOON, until, until_equal

pytestmark = pytest.mark.e2e

PROMPT = SOON / 2
"""Seconds in which a standby takes over after a kill; one in good order leaves at once."""


@pytest.fixture
def harness(shared: Harness) -> Harness:
    return shared


@pytest.fixture
async def both(harness: Harness) -> AsyncIterator[tuple[TocsinProcess, TocsinProcess]]:
    """The one that runs the alerts, and the standby."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(harness.run())
        await first.until_ready()
        harness.alert["annotations"] = {"summary": "another"}
        second = await stack.enter_async_context(harness.run())
        await second.until_not_ready(
            "standing by", f"process {first.pid} on ", "runs another configuration (alerts.orders differs)"
        )
        yield first, second


async def test_standby_takes_over_after_a_kill(harness: Harness, both: tuple[TocsinProcess, TocsinProcess]) -> None:
    first, second = both
    harness.orders.insert(("1", "Ann", "10"))
    await harness.until_notified(("fired", "1"))
    await first.kill()
    harness.orders.delete(("1", "Ann", "10"))
    began = time.monotonic()
    await second.until_ready()
    assert time.monotonic() - began < PROMPT
    await harness.until_notified(("fired", "1"), ("resolved", "1"))


async def test_standby_takes_over_at_once_from_one_that_is_stopped(both: tuple[TocsinProcess, TocsinProcess]) -> None:
    first, second = both
    assert await first.stop() == 0
    began = time.monotonic()
    await second.until_ready()
    assert time.monotonic() - began < PROMPT


async def test_reload_waits_until_the_others_have_reloaded(
    harness: Harness, both: tuple[TocsinProcess, TocsinProcess]
) -> None:
    """Then both run the new configuration."""
    first, second = both
    async with harness.run() as third:
        await third.until_not_ready("standing by")
        first.signal(signal.SIGHUP)  # its file is that of the others
        await first.until_logged("configuration applied")
        await second.until_ready()
        await third.until_ready()
        harness.orders.insert(("1", "Ann", "10"))
        await harness.until_notified(("fired", "1"))


async def test_one_that_reloads_leaves_the_alerts_to_the_others(harness: Harness) -> None:
    async with harness.run() as first, harness.run() as second:
        await first.until_ready()
        await second.until_ready()
        harness.alert["annotations"] = {"summary": "another"}
        first.write(harness.config)
        first.signal(signal.SIGHUP)
        await first.until_not_ready("standing by", f"process {second.pid} on ", "(alerts.orders differs)")
        harness.orders.insert(("1", "Ann", "10"))
        await harness.until_notified(("fired", "1"))
        second.signal(signal.SIGHUP)
        await first.until_ready()
        await second.until_ready()
        harness.orders.insert(("2", "Bob", "20"))
        await harness.until_notified(("fired", "1"), ("fired", "2"))


async def test_reload_leads_what_another_one_has_just_left(harness: Harness) -> None:
    """Also an alert that it followed and that did not change, before it has met the others again."""
    harness.config["ledger"]["lease"] = "20s"
    harness.double.create("public.late", COLUMNS, retain=None)
    harness.config["alerts"]["late"] = {**harness.alert, "relation": "public.late"}
    async with harness.run() as first, harness.run() as second:

        async def led() -> list[float | None]:
            return [await second.metric("tocsin_instance_leads", alert=name) for name in ("late", "orders")]

        await until_equal(led, [0, 1], "its share")
        await first.stop()
        second.signal(signal.SIGHUP)
        await until_equal(led, [1, 1], "its share")


async def test_standby_is_alive_and_its_configuration_loaded(both: tuple[TocsinProcess, TocsinProcess]) -> None:
    """What probes of Kubernetes and the shipped rules ask of it."""
    _, second = both
    assert (await second.get("/healthz"))[0] == 200
    assert await second.metric("tocsin_config_last_reload_successful") == 1
    await second.until_metric("tocsin_ledger_up", 0)


async def test_standby_has_senders_of_events_try_again(both: tuple[TocsinProcess, TocsinProcess]) -> None:
    """404 would have them give up."""
    _, second = both
    status, body = await second.post("/api/v1/events/orders", b"{}")
    assert status == 503
    assert "is a standby" in body


async def test_standby_takes_over_with_what_it_last_read(
    harness: Harness, both: tuple[TocsinProcess, TocsinProcess]
) -> None:
    """The configuration of its start could turn notifications of new channels into dead letters."""
    first, second = both
    harness.config["alerts"]["renamed"] = harness.config["alerts"].pop("orders")
    second.write(harness.config)
    second.signal(signal.SIGHUP)
    await second.until_logged("the alerts will start with it")
    second.write("alerts: []")
    second.signal(signal.SIGHUP)
    await second.until_logged("the last good one stays")
    await first.kill()
    await second.until_ready()
    assert [one["name"] for one in (await second.json("/api/v1/alerts"))["alerts"]] == ["renamed"]
    assert not second.logged("alert=orders")


async def test_standby_ends_when_it_is_stopped(both: tuple[TocsinProcess, TocsinProcess]) -> None:
    _, second = both
    assert await second.stop() == 0


async def test_other_database_and_other_receiver_are_named(harness: Harness) -> None:
    """Two installations with one file and different environments. No address is printed; passwords do not count."""
    [settings] = harness.config["channels"].values()
    receiver, settings["url"] = settings["url"], "${HOOK}"
    harness.source["dsn"] += "&password=${PASSWORD}"
    async with harness.run(HOOK=receiver, PASSWORD="one") as first:
        await first.until_ready()
        async with harness.run(HOOK=receiver, PASSWORD="two") as second:
            await second.until_ready()
        staging = receiver.replace("/hook", "/staging-hook")
        async with harness.run(HOOK=staging, PASSWORD="one") as third:
            who = f"process {first.pid} on {socket.gethostname()}"
            await third.until_not_ready(f"{who} runs another configuration (channels.hook.url differs)")
            assert not third.logged("staging-hook")
        harness.source["dsn"] = harness.source["dsn"].replace("/materialize?", "/staging?")
        file = write(harness.directory / "tocsin.yaml", harness.config)
        environment = {"HOOK": staging, "PASSWORD": "one"}
        status, output, errors = await command(harness.directory, "check", "--online", "-c", str(file), **environment)
        assert (status, "the servers agree" in output) == (0, True)
        assert (
            f": ledger.url: {who} runs another configuration (channels.hook.url and sources.mz.dsn"
            " differ); `tocsin run` waits until they run this one or have ended. Set another ledger.namespace"
        ) in errors


async def test_check_does_not_warn_of_the_same_configuration(harness: Harness) -> None:
    async with harness.run() as first:
        await first.until_ready()
        status, _, errors = await command(harness.directory, "check", "--online", "-c", str(first.file))
        assert (status, "warning" in errors) == (0, False)


async def test_ledger_survives_a_restart_of_its_database(harness: Harness) -> None:
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        server = shared_postgres()
        server.stop()
        harness.orders.insert(("1", "Ann", "10"))
        await tocsin.until_not_ready("ledger")
        server.start()
        began = time.monotonic()
        await harness.until_notified(("fired", "1"))
        assert time.monotonic() - began < PROMPT
        await until(lambda: tocsin.logged("the ledger works again"), "the ledger works again")
