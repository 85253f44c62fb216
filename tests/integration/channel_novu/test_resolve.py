"""The Novu channel on resolve. With several recipients, Novu confirms a cancel for one of them only."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from support.messages import message
from support.novu import API_KEY, DELAYED_WORKFLOW, Clock, FakeNovu, bodies, fake_novu, several
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Message, Reschedule, Retry
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin_demo.inbox.inbox import Settings

TEN = [f"person-{number}" for number in range(10)]
WITHIN = 5.0
FIRED = message()
UPDATED = message(Kind.UPDATED, at=1_795_242_549_000)


def resolved(*previous: Message, age: float = 0.0) -> Message:
    ids = tuple(each.id for each in previous)
    return message(Kind.RESOLVED, at=1_795_242_600_000, previous_ids=ids, age=age)


def cancelled(count: int, of: int) -> Delivered:
    return Delivered(f"cancelled {count} of {of}", sent=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def slow(clock: Clock) -> AsyncIterator[FakeNovu]:
    """Novu that needs 0.2 s for the jobs of each recipient."""
    async with fake_novu(Settings(api_key=API_KEY, recipient_delay=0.2), clock=clock, delay_s=WITHIN) as running:
        running.inbox.engine.worker.add_topic("team", TEN)
        yield running


def cancelling(build: Build, server: FakeNovu, clock: Clock, **settings: Any) -> Any:
    defaults = {"workflow": DELAYED_WORKFLOW, "on_resolve": "cancel", "cancel_within": f"{WITHIN:g}s"}
    return build(server.url, monotonic=clock, **{**defaults, **settings})


async def cancelled_until_the_end(
    channel: Any, clock: Clock, *previous: Message, age: float = 0.0
) -> tuple[Delivered, Sequence[Reschedule]]:
    """Resolve, and repeat when the channel asks for it: the last result, and those before it.

    `age`: seconds since the row stopped firing.
    """
    began = clock.now - age
    before: list[Reschedule] = []
    while True:
        result = await sent(channel, resolved(*previous, age=clock.now - began))
        if isinstance(result, Delivered):
            return result, before
        assert isinstance(result, Reschedule)
        assert result.after is not None
        before.append(result)
        clock.now += result.after


async def test_nothing_is_sent_unless_configured(server: FakeNovu, build: Build) -> None:
    channel = build(server.url)
    assert channel.needs_previous_ids == set()
    assert await sent(channel, resolved()) == Delivered("nothing is sent on resolve", sent=False)
    assert not server.requests()


async def test_another_workflow_is_triggered(server: FakeNovu, build: Build) -> None:
    server.add_workflow("all-clear")
    what = resolved()
    assert await sent(build(server.url, on_resolve="trigger", resolved_workflow="all-clear"), what) == Delivered()
    assert [(each["name"], each["transactionId"]) for each in bodies(server)] == [("all-clear", what.id)]


async def test_every_waiting_message_of_the_episode_is_cancelled(server: FakeNovu, build: Build) -> None:
    """In one call with triggers of other rows."""
    channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel")
    assert channel.needs_previous_ids == {Kind.RESOLVED}
    await sent(channel, FIRED)
    await sent(channel, UPDATED)
    await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"] * 2)
    one, other = several(2)
    results = await channel.send([one, resolved(FIRED, UPDATED), other])
    assert results == [Delivered(), cancelled(2, 2), Delivered()]
    assert {each.state for id_ in (FIRED.id, UPDATED.id) for each in server.notifications(id_)} == {"cancelled"}


async def test_early_cancel_is_repeated_until_it_succeeds(server: FakeNovu, build: Build, clock: Clock) -> None:
    channel = cancelling(build, server, clock, cancel_within="20s")
    server.stop_worker()
    await sent(channel, FIRED)
    accepted = clock.now
    pauses = []
    for age in (0.0, 0.25, 0.5, 1.0, 12.0, 19.9):
        clock.now = accepted + age
        result = await sent(channel, resolved(FIRED, age=age))
        assert isinstance(result, Reschedule)
        assert (result.reason, result.free) == (Reason.TOO_EARLY, True)
        pauses.append(result.after)
    assert pauses == [0.25, 0.25, 0.5, 1.0, 5.0, 0.25]
    server.heal()
    await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"])
    assert await sent(channel, resolved(FIRED, age=13.0)) == cancelled(1, 1)


async def test_cancel_after_the_delay_is_final(server: FakeNovu, build: Build, clock: Clock) -> None:
    channel = cancelling(build, server, clock, workflow="at-once")
    server.add_workflow("at-once")
    await sent(channel, FIRED)
    await server.until_delivered(1)
    clock.now += WITHIN
    note = "cancelled 0 of 1; tried once, until 5.0 s after the row stopped firing"
    assert await sent(channel, resolved(FIRED, age=WITHIN)) == Delivered(note, sent=False)


async def test_delivered_in_app_message_is_deleted(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, on_resolve="cancel_and_delete")
    server.stop_worker()
    await sent(channel, FIRED)
    assert isinstance(await sent(channel, resolved(FIRED)), Reschedule)
    server.heal()
    await server.until_delivered(1)
    assert await sent(channel, resolved(FIRED, age=1.0)) == cancelled(1, 1)
    assert [each.deleted_at is not None for each in server.messages()] == [True]


# Several recipients.


@pytest.mark.parametrize(
    "whom",
    [{"recipients": TEN}, {"recipients": [], "topics": ["team"]}],
    ids=["recipients", "topic"],
)
async def test_no_recipient_gets_a_cancelled_message(
    slow: FakeNovu, build: Build, clock: Clock, whom: dict[str, Any]
) -> None:
    """Novu confirms once one of ten has its jobs. Fired and updated."""
    channel = cancelling(build, slow, clock, **whom)
    await sent(channel, FIRED)
    await sent(channel, UPDATED)
    clock.now += 0.05
    result, before = await cancelled_until_the_end(channel, clock, FIRED, UPDATED)
    clock.now += 60
    assert {each.state for each in slow.notifications()} == {"cancelled"}
    assert slow.messages() == []
    assert result.note == (
        f"cancelled 2 of 2 at least in part; tried {len(before) + 1} times, until 5.0 s after the row stopped firing"
    )
    assert len(slow.requests(method="DELETE")) == 2 * (len(before) + 1)


async def test_recipients_of_a_column_are_counted_per_row(slow: FakeNovu, build: Build, clock: Clock) -> None:
    """With one person in the column, the first confirmation is final; with ten, it is not."""
    channel = cancelling(build, slow, clock, recipients=[{"column": "who"}])
    one = message(extra={"who": ("text", "ann")})
    ten = message(key="18", extra={"who": ("text", ",".join(TEN))})
    await channel.send([one, ten])
    clock.now += 0.05
    assert await sent(channel, resolved(one)) == cancelled(1, 1)
    await cancelled_until_the_end(channel, clock, ten)
    clock.now += 60
    assert slow.messages() == []


async def test_in_app_messages_of_all_recipients_are_deleted(slow: FakeNovu, build: Build, clock: Clock) -> None:
    """Without a delay step: each message appears after the one before was deleted."""
    slow.add_workflow("at-once")
    channel = cancelling(build, slow, clock, workflow="at-once", recipients=TEN, on_resolve="cancel_and_delete")
    await sent(channel, FIRED)
    clock.now += 0.05
    await cancelled_until_the_end(channel, clock, FIRED)
    clock.now += 60
    assert len(slow.messages()) == 10
    assert all(each.deleted_at is not None for each in slow.messages())


@pytest.mark.parametrize("whom", [["ann"], TEN], ids=["one", "ten"])
async def test_cancels_long_enough_after_an_outage(slow: FakeNovu, build: Build, clock: Clock, whom: list[str]) -> None:
    """The row stopped firing while Novu was down: what is triggered afterwards is delayed from then on."""
    channel = cancelling(build, slow, clock, recipients=whom)
    await sent(channel, FIRED)
    result, _ = await cancelled_until_the_end(channel, clock, FIRED, age=60.0)
    clock.now += 60
    assert {each.state for each in slow.notifications()} == {"cancelled"}
    assert slow.messages() == []
    assert "cancelled 1 of 1" in result.note


async def test_failed_cancel_keeps_what_the_others_found(slow: FakeNovu, build: Build, clock: Clock) -> None:
    """What is cancelled is not cancelled again."""
    channel = cancelling(build, slow, clock)
    previous = several(4)
    await channel.send(previous)
    clock.now += 0.05
    slow.fault("status", status=503, method="DELETE", times=1)
    assert isinstance(await sent(channel, resolved(*previous)), Retry)
    assert await sent(channel, resolved(*previous, age=3.0)) == cancelled(4, 4)
    assert len(slow.requests(method="DELETE")) == 5
