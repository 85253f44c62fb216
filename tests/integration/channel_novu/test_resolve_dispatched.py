"""A row that fires and stops firing at once, from the ledger through the dispatcher to Novu."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from support.dispatching import DispatcherHarness, compose
from support.ledger import transition
from support.novu import API_KEY, DELAYED_WORKFLOW, FakeNovu, fake_novu, novu_channel
from tocsin.channels.base import Message, Rejected
from tocsin.ledger.base import Status
from tocsin.model import Notification
from tocsin_demo.inbox.inbox import Settings

TEN = [f"person-{number}" for number in range(10)]


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[DispatcherHarness]:
    outbox = DispatcherHarness(tmp_path / "ledger")
    yield outbox
    await outbox.close()


@pytest.fixture
async def server(outbox: DispatcherHarness) -> AsyncIterator[FakeNovu]:
    settings = Settings(api_key=API_KEY, recipient_delay=0.2)
    async with fake_novu(settings, clock=outbox.clock, delay_s=5.0) as running:
        yield running


def start(outbox: DispatcherHarness, server: FakeNovu) -> None:
    def aged(together: Sequence[Notification]) -> Message | Rejected:
        made = compose(together)
        assert isinstance(made, Message)
        return replace(made, age=outbox.clock() - together[0].created_at)

    channel = novu_channel(
        server.url,
        monotonic=outbox.clock,
        workflow=DELAYED_WORKFLOW,
        on_resolve="cancel",
        cancel_within="5s",
        recipients=TEN,
    )
    outbox.start(channel, compose=aged)


async def pass_time(outbox: DispatcherHarness, until: Callable[[], bool]) -> None:
    """Let time pass in small steps, so that requests take little of it."""
    for _ in range(2000):
        if until():
            return
        await outbox.advance(0.02)
    raise TimeoutError


async def test_short_firing_reaches_none_of_ten_recipients(outbox: DispatcherHarness, server: FakeNovu) -> None:
    """Another row's notification, and the next firing of the same row, go out meanwhile."""
    start(outbox, server)
    fired, resolved = await outbox.episode(length=2)
    await pass_time(outbox, lambda: len(server.requests(method="DELETE")) >= 3)
    later = await outbox.commit([transition("1", at=3000), transition("2", at=3000)])
    cancels = len(server.requests(method="DELETE"))
    await outbox.delivered(*later)
    assert len(server.requests(method="DELETE")) <= cancels + 1
    began = outbox.clock()
    await pass_time(outbox, lambda: outbox.clock() - began > 6.0)
    await outbox.delivered(fired, resolved)
    await pass_time(outbox, lambda: len(server.messages()) == 20)
    assert {each.state for each in server.notifications(fired)} == {"cancelled"}
    record = await outbox.record(resolved)
    assert record.detail.startswith("cancelled 1 of 1 at least in part; tried ")


async def test_restart_while_cancelling_leaves_no_message(outbox: DispatcherHarness, server: FakeNovu) -> None:
    """Killed after the first confirmation."""
    start(outbox, server)
    fired, resolved = await outbox.episode(length=2)
    await pass_time(outbox, lambda: any(each.state == "cancelled" for each in server.notifications(fired)))
    await outbox.quiet()
    await outbox.stop()
    assert (await outbox.record(resolved)).status is Status.PENDING
    start(outbox, server)
    began = outbox.clock()
    await pass_time(outbox, lambda: outbox.clock() - began > 7.0)
    await outbox.delivered(resolved)
    assert len(server.notifications(fired)) == 10
    assert server.messages() == []
