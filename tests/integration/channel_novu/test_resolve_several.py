"""What the Novu channel takes back from several recipients: Novu's yes is for one of them only."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from support.messages import message
from support.novu import API_KEY, DELAYED_WORKFLOW, Clock, FakeNovu, fake_novu
from support.novu_channels import several
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Message, Reschedule
from tocsin.model import Kind
from tocsin_demo.inbox.inbox import Settings

TEN = [f"person-{number}" for number in range(10)]
WITHIN = 5.0
FIRED = message()
UPDATED = message(Kind.UPDATED, at=1_795_242_549_000)


def resolved(*earlier: Message, age: float = 0.0) -> Message:
    return message(Kind.RESOLVED, at=1_795_242_600_000, previous_ids=tuple(each.id for each in earlier), age=age)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(clock: Clock) -> AsyncIterator[FakeNovu]:
    """Novu that needs 0.2 s for the jobs of each recipient."""
    async with fake_novu(Settings(api_key=API_KEY, recipient_delay=0.2), clock=clock, delay_s=WITHIN) as running:
        running.inbox.engine.worker.add_topic("team", TEN)
        yield running


def cancelling(build: Build, server: FakeNovu, clock: Clock, **settings: Any) -> Any:
    return build(
        server.url,
        monotonic=clock,
        **{"workflow": DELAYED_WORKFLOW, "on_resolve": "cancel", "cancel_within": f"{WITHIN:g}s", **settings},
    )


async def asked_until_the_end(
    channel: Any, clock: Clock, *earlier: Message, age: float = 0.0
) -> tuple[Delivered, Sequence[str]]:
    """Resolve, and come again when the channel asks for it: the final result, and the notes on the way.

    `age`: seconds since the row stopped firing.
    """
    began = clock.now - age
    notes: list[str] = []
    while True:
        result = await sent(channel, resolved(*earlier, age=clock.now - began))
        if isinstance(result, Delivered):
            return result, notes
        assert isinstance(result, Reschedule)
        assert result.after is not None
        assert result.free
        notes.append(result.detail)
        clock.now += result.after


@pytest.mark.parametrize(
    "whom",
    [{"recipients": TEN}, {"recipients": [], "topics": ["team"]}, {"recipients": ["ann"], "topics": ["team"]}],
    ids=["recipients", "topic", "both"],
)
async def test_cancel_leaves_no_recipient_a_message(
    server: FakeNovu, build: Build, clock: Clock, whom: dict[str, Any]
) -> None:
    """The first yes comes when one of ten has its jobs."""
    channel = cancelling(build, server, clock, **whom)
    await sent(channel, FIRED)
    clock.now += 0.05
    result, notes = await asked_until_the_end(channel, clock, FIRED)
    clock.now += 60
    assert {each.state for each in server.notifications()} == {"cancelled"}
    assert server.messages() == []
    assert result.note == (
        f"took back 1 of 1 at least in part; asked {len(notes) + 1} times, 0.0 to 5.0 s after the row stopped firing"
    )
    assert notes[1] == "took back 1 of 1 at least in part; asked 2 times, 0.0 to 0.2 s after the row stopped firing"


async def test_recipients_of_a_column_are_counted_per_row(server: FakeNovu, build: Build, clock: Clock) -> None:
    """One person in the column: the first yes is final. Ten: it is not."""
    channel = cancelling(build, server, clock, recipients=[{"column": "who"}])
    one = message(extra={"who": ("text", "ann")})
    ten = message(key="18", extra={"who": ("text", ",".join(TEN))})
    await channel.send([one, ten])
    clock.now += 0.05
    assert await sent(channel, resolved(one)) == Delivered("took back 1 of 1", sent=False)
    await asked_until_the_end(channel, clock, ten)
    clock.now += 60
    assert server.messages() == []


async def test_cancel_and_delete_leaves_no_recipient_a_message(server: FakeNovu, build: Build, clock: Clock) -> None:
    """Without a delay step: each message appears after the one before was deleted."""
    server.add_workflow("at-once")
    channel = cancelling(build, server, clock, workflow="at-once", recipients=TEN, on_resolve="cancel_and_delete")
    await sent(channel, FIRED)
    clock.now += 0.05
    await asked_until_the_end(channel, clock, FIRED)
    clock.now += 60
    assert len(server.messages()) == 10
    assert all(each.deleted_at is not None for each in server.messages())


@pytest.mark.parametrize("whom", [["ann"], TEN], ids=["one", "ten"])
async def test_asks_long_enough_after_an_outage(server: FakeNovu, build: Build, clock: Clock, whom: list[str]) -> None:
    """The row stopped firing while Novu was down: what is triggered afterwards is delayed from then on."""
    channel = cancelling(build, server, clock, recipients=whom)
    await sent(channel, FIRED)
    result, _ = await asked_until_the_end(channel, clock, FIRED, age=60.0)
    clock.now += 60
    assert {each.state for each in server.notifications()} == {"cancelled"}
    assert server.messages() == []
    assert "took back 1 of 1" in result.note


async def test_every_trigger_of_the_episode_is_asked_for(server: FakeNovu, build: Build, clock: Clock) -> None:
    """Fired and updated, ten recipients each."""
    channel = cancelling(build, server, clock, recipients=TEN)
    await sent(channel, FIRED)
    await sent(channel, UPDATED)
    clock.now += 0.05
    result, notes = await asked_until_the_end(channel, clock, FIRED, UPDATED)
    clock.now += 60
    assert server.messages() == []
    assert result.note.startswith("took back 2 of 2 at least in part; asked")
    assert len(server.requests(method="DELETE")) == 2 * (len(notes) + 1)


async def test_asking_goes_on_after_a_restart(server: FakeNovu, build: Build, clock: Clock) -> None:
    """The new process knows of no recipients, so it asks until the delay has passed, and says since when it did."""
    before = cancelling(build, server, clock, recipients=TEN)
    await sent(before, FIRED)
    clock.now += 0.05
    assert isinstance(await sent(before, resolved(FIRED)), Reschedule)
    after = cancelling(build, server, clock, recipients=TEN)
    clock.now += 2
    result = await sent(after, resolved(FIRED, age=2.0))
    assert isinstance(result, Reschedule)
    clock.now += 3
    result = await sent(after, resolved(FIRED, age=5.0))
    assert result == Delivered(
        "took back 1 of 1 at least in part; asked 2 times, 2.0 to 5.0 s after the row stopped firing", sent=False
    )
    clock.now += 60
    assert server.messages() == []


async def test_slow_cancels_do_not_hold_up_triggers(server: FakeNovu, build: Build, clock: Clock) -> None:
    """One call begins no cancel after two seconds; the next call goes on with what was not asked for yet."""
    channel = cancelling(build, server, clock, concurrency=1)
    earlier = several(4)
    await channel.send(earlier)
    clock.now += 0.05
    server.fault("delay", method="DELETE", seconds=1.5, times=2)
    slow, sent_beside = await channel.send([resolved(*earlier), message(key="other")])
    assert sent_beside == Delivered()
    assert isinstance(slow, Reschedule)
    assert len(server.requests(method="DELETE")) == 2
    assert await sent(channel, resolved(*earlier, age=3.0)) == Delivered("took back 4 of 4", sent=False)
    assert len(server.requests(method="DELETE")) == 4
