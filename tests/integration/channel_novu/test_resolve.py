"""What the Novu channel does when something resolves."""

from support.messages import message
from support.novu import DELAYED_WORKFLOW, Clock, FakeNovu
from support.novu_channels import bodies, several
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Message, Retry
from tocsin.errors import Reason
from tocsin.model import Kind

FIRED = message()


def resolved(*earlier: Message, age: float = 0.0) -> Message:
    return message(Kind.RESOLVED, at=1_795_242_600_000, previous_ids=tuple(each.id for each in earlier), age=age)


async def test_nothing_is_sent_unless_configured(server: FakeNovu, build: Build) -> None:
    channel = build(server.url)
    assert channel.needs_previous_ids == set()
    assert await sent(channel, resolved()) == Delivered("nothing is sent on resolve", sent=False)
    assert not server.requests()


async def test_a_workflow_of_its_own_is_triggered(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, on_resolve="trigger", resolved_workflow="all-clear")
    server.add_workflow("all-clear")
    what = resolved()
    assert await sent(channel, what) == Delivered()
    assert [(each["name"], each["transactionId"]) for each in bodies(server)] == [("all-clear", what.id)]


async def test_cancel_stops_every_message_of_the_episode_that_still_waits(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel")
    assert channel.needs_previous_ids == {Kind.RESOLVED}
    update = message(Kind.UPDATED, at=1_795_242_549_000)
    await channel.send([FIRED])
    await channel.send([update])
    await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"] * 2)
    assert await sent(channel, resolved(FIRED, update)) == Delivered("took back 2 of 2", sent=False)
    assert [each.state for each in server.notifications()] == ["cancelled"] * 2


async def test_a_cancel_that_comes_too_early_is_repeated_until_it_is_true(server: FakeNovu, build: Build) -> None:
    clock = Clock()
    channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel", cancel_within="20s", monotonic=clock)
    server.stop_worker()
    await sent(channel, FIRED)
    accepted = clock.now
    pauses = []
    for age in (0.0, 0.25, 0.5, 1.0, 12.0, 19.9):
        clock.now = accepted + age
        result = await sent(channel, resolved(FIRED, age=age))
        assert isinstance(result, Retry)
        assert (result.reason, result.free) == (Reason.TOO_EARLY, True)
        pauses.append(result.after)
    assert pauses == [0.25, 0.25, 0.5, 1.0, 5.0, 0.25]
    server.heal()
    await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"])
    assert await sent(channel, resolved(FIRED, age=13.0)) == Delivered("took back 1 of 1", sent=False)


async def test_what_is_cancelled_is_not_asked_for_again(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel")
    update = message(Kind.UPDATED, at=1_795_242_549_000)
    await sent(channel, FIRED)
    await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"])
    assert isinstance(await sent(channel, resolved(FIRED, update)), Retry)
    asked = len(server.requests(method="DELETE"))
    assert isinstance(await sent(channel, resolved(FIRED, update, age=1.0)), Retry)
    assert len(server.requests(method="DELETE")) == asked + 1


async def test_past_the_delay_false_is_taken_for_an_answer(server: FakeNovu, build: Build) -> None:
    clock = Clock()
    channel = build(server.url, on_resolve="cancel", cancel_within="5s", monotonic=clock)
    await sent(channel, FIRED)
    await server.until_delivered(1)
    clock.now += 5
    note = "took back 0 of 1; asked once, 5.0 s after the row stopped firing"
    assert await sent(channel, resolved(FIRED, age=5.0)) == Delivered(note, sent=False)


async def test_cancel_and_delete_takes_back_what_was_delivered_in_app(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, on_resolve="cancel_and_delete")
    server.stop_worker()
    await sent(channel, FIRED)
    assert isinstance(await sent(channel, resolved(FIRED)), Retry)
    server.heal()
    await server.until_delivered(1)
    assert await sent(channel, resolved(FIRED, age=1.0)) == Delivered("took back 1 of 1", sent=False)
    assert [each.deleted_at is not None for each in server.messages()] == [True]


async def test_a_failing_cancel_is_retried(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel")
    server.fault("status", status=503, method="DELETE", times=1)
    result = await sent(channel, resolved(FIRED))
    assert isinstance(result, Retry)
    assert result.reason is Reason.SERVER_ERROR


async def test_triggers_and_cancels_share_a_call(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel")
    await sent(channel, FIRED)
    await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"])
    others = several(2)
    results = await channel.send([others[0], resolved(FIRED), others[1]])
    assert results == [Delivered(), Delivered("took back 1 of 1", sent=False), Delivered()]
