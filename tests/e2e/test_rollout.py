"""A new configuration in several processes with one ledger, as a Deployment of Kubernetes does it: a new process is
alive before one of the old ones ends."""

import signal
import time
from contextlib import AsyncExitStack

import pytest

from support.receiver import Answer
from support.tocsin import Harness, TocsinProcess, running
from support.waiting import until, until_some

pytestmark = pytest.mark.e2e

PROMPT = 5.0
"""Seconds until the new processes run the alerts, once the last old one is asked to stop."""
GRACE = 30.0
"""`terminationGracePeriodSeconds` of the chart, `TimeoutStopSec` of the units, `stop_grace_period` of Compose."""


@pytest.fixture
def harness(shared: Harness) -> Harness:
    shared.config["ledger"]["lease"] = "2s"
    return shared


async def start(stack: AsyncExitStack, harness: Harness, name: str) -> TocsinProcess:
    """A process that is alive, as the probes of the chart ask."""
    one = await stack.enter_async_context(running(harness.directory, harness.config, file=f"{name}.yaml"))
    assert (await one.get("/healthz"))[0] == 200
    return one


async def test_rollout_ends_and_the_alerts_pause_for_a_moment(harness: Harness) -> None:
    """The new ones stand by until the last old one ends, so there is one configuration at a time; each row is notified
    once."""
    async with AsyncExitStack() as stack:
        old = [await start(stack, harness, f"old-{number}") for number in range(3)]
        for one in old:
            await one.until_ready()
        harness.alert["annotations"] = {"summary": "new"}
        new = []
        for number, ending in enumerate(old):
            new.append(await start(stack, harness, f"new-{number}"))
            await new[-1].until_not_ready("standing by")
            harness.orders.insert((f"{number}", "Ann", "10"))
            await harness.until_notified(*(("fired", f"{before}") for before in range(number + 1)))
            began = time.monotonic()
            assert await ending.stop() == 0
        harness.orders.insert(("3", "Ann", "10"))
        await until(lambda: len(harness.notified()) == 4, "the next row", PROMPT)
        paused = time.monotonic() - began
        assert paused < PROMPT
        for one in new:
            await one.until_ready()
            await harness.until_shown(one)
        assert {one["annotations"]["summary"] for one in harness.envelopes()[3:]} == {"new"}


async def test_new_ones_begin_while_an_old_one_waits_for_its_receiver(harness: Harness) -> None:
    """What it does not send is sent by the new ones."""
    harness.config["channels"]["hook"]["timeout"] = "1m"
    async with AsyncExitStack() as stack:
        old = await start(stack, harness, "old")
        await old.until_ready()
        harness.receiver.otherwise = lambda _: Answer(hang=True)
        harness.orders.insert(("1", "Ann", "10"))
        await until(lambda: harness.receiver.requests, "a request")
        harness.receiver.otherwise = lambda _: Answer()
        harness.alert["annotations"] = {"summary": "new"}
        new = await start(stack, harness, "new")
        await new.until_not_ready("standing by")
        began = time.monotonic()
        old.signal(signal.SIGTERM)
        await new.until_ready()
        assert time.monotonic() - began < PROMPT
        harness.orders.insert(("2", "Bob", "20"))
        await until(lambda: len(harness.receiver.requests) == 2, "the next row")
        assert harness.envelopes()[1]["annotations"] == {"summary": "new"}
        assert old.running
        await until(lambda: not old.running, "its end", GRACE)
        await until(lambda: len(harness.receiver.requests) == 3, "the first row again")
        assert harness.envelopes()[2]["id"] == harness.envelopes()[0]["id"]


async def test_senders_of_events_try_again_while_a_process_ends(harness: Harness) -> None:
    """404 would have them give up."""
    harness.config["sources"]["posted"] = {"type": "http", "token": "a-secret-of-many-characters"}
    harness.config["alerts"]["event"] = {"source": "posted", "notify": ["hook"]}
    async with AsyncExitStack() as stack:
        one = await start(stack, harness, "one")
        await one.until_ready()
        harness.receiver.otherwise = lambda _: Answer(hang=True)
        harness.orders.insert(("1", "Ann", "10"))
        await until(lambda: harness.receiver.requests, "a request")
        one.signal(signal.SIGTERM)
        await until(lambda: one.logged("stopping"), "the signal")

        async def answer() -> tuple[int, str]:
            return await one.post("/api/v1/events/event", b"{}", Authorization="Bearer a-secret-of-many-characters")

        async def refused() -> bool:
            status, body = await answer()
            assert status in (202, 503), body
            return status == 503 and "is ending; try again" in body

        await until_some(refused, "an answer")
