"""How one channel's notifications are sent, retried, paused and parked; with a real ledger and a scripted channel."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from support.channels import FakeChannel, deliver, script
from support.dispatching import Desk, compose
from tocsin.channels import Delivered, Message, Paused, Rejected, Result, Retry
from tocsin.dispatch import Condition
from tocsin.errors import Reason
from tocsin.ledger import Status
from tocsin.model import Kind, Notification

DOWN = Retry(Reason.CONNECTION, "refused")
BUSY = Retry(Reason.IN_PROGRESS, "later")
REFUSED = Paused(Reason.UNAUTHORIZED, "wrong key")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "ledger")
    yield desk
    await desk.close()


# Order and concurrency.


async def test_what_is_told_is_sent_once_and_written_down(desk: Desk) -> None:
    channel = FakeChannel()
    dispatcher = desk.start(channel)
    ids = await desk.tell("1", "2", "3")
    await desk.delivered(*ids)
    assert sorted(channel.ids) == sorted(ids)
    assert {(record.attempts, record.settled_at) for record in await desk.records()} == {(1, desk.clock.now)}
    assert (dispatcher.delivered, dispatcher.failed, dispatcher.last_delivery) == (3, 0, desk.clock.now)


async def test_an_episode_is_sent_in_order_and_one_at_a_time(desk: Desk) -> None:
    channel = FakeChannel(bulk=10)
    desk.start(channel)
    episodes = [await desk.episode(key, 5) for key in "abc"]
    for ids in episodes:
        await desk.delivered(*ids)
        assert [id_ for id_ in channel.ids if id_ in ids] == ids
    assert channel.broken == []


async def test_a_failed_notification_holds_back_its_own_episode_and_no_other(desk: Desk) -> None:
    failing: set[str] = set()
    channel = FakeChannel(lambda message: BUSY if message.id in failing else Delivered())
    first, second, *rest = await desk.episode("a")
    failing.add(first)
    desk.start(channel)
    (other,) = await desk.tell("b")
    await desk.delivered(other)
    await desk.quiet()
    assert channel.attempts(second) == 0
    failing.clear()
    await desk.advance(1.0)
    await desk.delivered(first, second, *rest)
    assert [id_ for id_ in channel.ids if id_ != other] == [first, first, second, *rest]


async def test_episodes_go_side_by_side_up_to_the_concurrency(desk: Desk) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    desk.start(channel, concurrency=3)
    ids = await desk.tell(*map(str, range(8)))
    await desk.until(lambda: channel.under_way == 3)
    await desk.quiet()
    assert len(channel.sends) == 3
    channel.gate.set()
    await desk.delivered(*ids)
    assert channel.most_under_way == 3


async def test_the_channel_says_how_many_go_in_one_send(desk: Desk) -> None:
    channel = FakeChannel(bulk=4)
    ids = await desk.tell(*map(str, range(10)))
    desk.start(channel, concurrency=1)
    await desk.delivered(*ids)
    assert [len(messages) for messages in channel.sends] == [4, 4, 2]


async def test_a_channel_that_would_take_none_is_given_one(desk: Desk) -> None:
    channel = FakeChannel(bulk=0)
    desk.start(channel)
    await desk.delivered(*await desk.tell("1", "2"))
    assert [len(messages) for messages in channel.sends] == [1, 1]


async def test_each_result_of_a_bulk_counts_for_its_own_message(desk: Desk) -> None:
    answers: dict[str, Result] = {"1": Delivered("accepted"), "2": BUSY, "3": Rejected(Reason.TOO_LARGE, "51 kB")}
    channel = FakeChannel(lambda message: answers[str(message.envelope["row"]["order_id"])], bulk=10)
    ids = await desk.tell("1", "2", "3")
    desk.start(channel)
    await desk.until(lambda: channel.sends)
    await desk.quiet()
    one, two, three = await desk.records(*ids)
    assert (one.status, one.detail) == (Status.DELIVERED, "accepted")
    assert (two.status, two.reason, two.attempts) == (Status.PENDING, "in_progress", 1)
    assert (three.status, three.reason, three.detail) == (Status.DEAD, "too_large", "51 kB")


async def test_a_rate_limit_spreads_notifications_over_time(desk: Desk) -> None:
    channel = FakeChannel()
    desk.start(channel, rate_limit=2.0)
    await desk.tell("1", "2", "3")
    await desk.quiet()
    assert len(channel.ids) == 1
    await desk.advance(0.4)
    assert len(channel.ids) == 1
    await desk.advance(0.11)
    assert len(channel.ids) == 2
    await desk.advance(0.51)
    assert len(channel.ids) == 3


async def test_earlier_ids_come_with_the_end_of_an_episode_for_channels_that_want_them(desk: Desk) -> None:
    channel = FakeChannel(wants_earlier={Kind.RESOLVED})
    desk.start(channel)
    ids = await desk.episode("a", 3)
    await desk.delivered(*ids)
    assert [message.earlier for message in channel.delivered] == [(), (), tuple(ids[:2])]


# Retries and their end.


async def test_waits_between_attempts_double_up_to_the_maximum(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    desk.start(channel, max_attempts=None, max_age=1e9)
    (id_,) = await desk.tell("1")
    for number, ceiling in enumerate([1, 2, 4, 8, 16, 32, 60, 60], 1):
        await desk.until(lambda number=number: channel.attempts(id_) == number)  # type: ignore[misc]
        await desk.quiet()
        record = await desk.record(id_)
        assert record.not_before - desk.clock.now == pytest.approx(ceiling * desk.chance)
        await desk.advance(ceiling * desk.chance - 0.01)
        assert channel.attempts(id_) == number
        await desk.advance(0.02)


async def test_attempts_are_counted_and_the_last_one_parks_the_notification(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    desk.start(channel, max_attempts=3)
    (id_,) = await desk.tell("1")
    for _ in range(6):
        await desk.advance(100)
    assert channel.attempts(id_) == 3
    record = await desk.record(id_)
    assert (record.status, record.reason, record.attempts) == (Status.DEAD, "exhausted", 3)
    assert "in_progress: later" in record.detail


async def test_waits_that_the_receiver_asked_for_do_not_count(desk: Desk) -> None:
    wait = Retry(Reason.RATE_LIMITED, "slow down", after=5.0, free=True)
    channel = FakeChannel(script(*[wait] * 10))
    desk.start(channel, max_attempts=2)
    (id_,) = await desk.tell("1")
    for _ in range(10):
        await desk.advance(6)
    assert (await desk.record(id_)).status is Status.DELIVERED
    assert (await desk.record(id_)).attempts == 1


async def test_a_notification_that_is_too_old_is_parked(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    desk.start(channel, max_attempts=None, max_age=100.0)
    (id_,) = await desk.tell("1")
    await desk.advance(50)
    assert (await desk.record(id_)).status is Status.PENDING
    await desk.advance(51)
    record = await desk.record(id_)
    assert (record.status, record.reason) == (Status.DEAD, "expired")


async def test_what_the_receiver_will_never_take_is_parked_and_the_episode_goes_on(desk: Desk) -> None:
    channel = FakeChannel(script(Rejected(Reason.NOT_FOUND, "no such workflow")))
    desk.start(channel)
    first, *rest = await desk.episode("a")
    await desk.delivered(*rest)
    record = await desk.record(first)
    assert (record.status, record.reason, record.detail) == (Status.DEAD, "not_found", "no such workflow")


async def test_what_cannot_be_composed_is_parked_with_its_reason(desk: Desk) -> None:
    def choosy(together: Sequence[Notification]) -> Message | Rejected:
        match together[0].transition.row[0]:
            case "1":
                return Rejected(Reason.UNROUTED, "no longer notifies")
            case "2":
                raise ZeroDivisionError
        return compose(together)

    channel = FakeChannel(bulk=10)
    ids = await desk.tell("1", "2", "3")
    desk.start(channel, compose=choosy)
    await desk.delivered(ids[2])
    await desk.quiet()
    assert channel.ids == [ids[2]]
    assert [record.reason for record in await desk.records(*ids[:2])] == ["unrouted", "internal"]


async def test_a_retry_after_is_kept(desk: Desk) -> None:
    channel = FakeChannel(script(Retry(Reason.SERVER_ERROR, after=45.0)))
    desk.start(channel)
    (id_,) = await desk.tell("1")
    await desk.advance(44.9)
    assert channel.attempts(id_) == 1
    await desk.advance(6)
    assert channel.attempts(id_) == 2


async def test_a_receiver_that_limits_the_rate_is_left_alone_for_as_long_as_it_asks(desk: Desk) -> None:
    channel = FakeChannel(script(Retry(Reason.RATE_LIMITED, after=30.0, free=True)))
    dispatcher = desk.start(channel, concurrency=1)
    ids = await desk.tell("1", "2", "3")
    await desk.advance(29.9)
    assert len(channel.ids) == 1
    assert dispatcher.condition is Condition.UP
    await desk.advance(4)
    await desk.delivered(*ids)


async def test_a_retry_after_of_nothing_is_no_loop(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: Retry(Reason.RATE_LIMITED, after=0.0, free=True))
    desk.start(channel)
    (id_,) = await desk.tell("1")
    await desk.quiet()
    assert channel.attempts(id_) == 1
    await desk.advance(1.0)
    assert channel.attempts(id_) == 2


# A channel that is down or refuses us.


async def test_a_refusal_pauses_the_channel_until_one_probe_gets_through(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: REFUSED, bulk=5)
    dispatcher = desk.start(channel, concurrency=1)
    ids = await desk.tell(*map(str, range(20)))
    await desk.advance(29)
    assert len(channel.sends) == 1
    assert (dispatcher.condition, dispatcher.message) == (Condition.PAUSED, "unauthorized: wrong key")
    await desk.advance(2)
    assert [len(messages) for messages in channel.sends] == [5, 1]
    await desk.advance(58)
    assert len(channel.sends) == 2
    channel.answer = deliver
    await desk.advance(3)
    await desk.delivered(*ids)
    assert (dispatcher.condition, dispatcher.message) == (Condition.UP, "")
    assert len(channel.sends[2]) == 1


async def test_refusals_cost_no_attempt(desk: Desk) -> None:
    channel = FakeChannel(script(*[REFUSED] * 4))
    desk.start(channel, max_attempts=1)
    (id_,) = await desk.tell("1")
    for _ in range(5):
        await desk.advance(301)
    assert (await desk.record(id_)).status is Status.DELIVERED


async def test_refusals_that_were_under_way_together_are_one_pause(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: REFUSED)
    channel.gate.clear()
    desk.start(channel, concurrency=8)
    await desk.tell(*map(str, range(20)))
    await desk.until(lambda: channel.under_way == 8)
    channel.gate.set()
    await desk.advance(29)
    assert len(channel.sends) == 8
    await desk.advance(2)
    assert len(channel.sends) == 9


async def test_failures_that_were_under_way_together_are_one_step_of_the_backoff(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: DOWN)
    channel.gate.clear()
    dispatcher = desk.start(channel, concurrency=20)
    await desk.tell(*map(str, range(40)))
    await desk.until(lambda: channel.under_way == 20)
    channel.gate.set()
    await desk.quiet()
    assert dispatcher.condition is Condition.FAILING
    assert len(channel.sends) == 20
    await desk.advance(1.0)
    assert len(channel.sends) == 21


async def test_after_five_failures_one_send_at_a_time_finds_out_when_the_receiver_is_back(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: DOWN, bulk=10)
    dispatcher = desk.start(channel, concurrency=1, max_attempts=None)
    ids = await desk.tell(*map(str, range(200)))
    await desk.quiet()
    assert str(dispatcher.condition) == "failing"
    assert dispatcher.message == "connection: refused"
    assert len(channel.sends) == 5
    for wait in (1, 2, 4):
        before = len(channel.sends)
        await desk.advance(wait - 0.1)
        assert len(channel.sends) == before
        await desk.advance(0.2)
        assert len(channel.sends) == before + 1
    channel.answer = deliver
    await desk.advance(60)
    await desk.advance(60)
    await desk.delivered(*ids)
    assert dispatcher.condition is Condition.UP


async def test_an_outage_of_one_message_among_others_is_no_outage(desk: Desk) -> None:
    channel = FakeChannel(lambda message: DOWN if message.envelope["row"]["order_id"] == 1 else Delivered(), bulk=2)
    dispatcher = desk.start(channel, max_attempts=None)
    for at in range(8):
        await desk.tell("1", "2", at=1000 + at)
        await desk.advance(60)
    assert dispatcher.condition is Condition.UP


async def test_what_was_never_sent_says_nothing_of_the_receiver(desk: Desk) -> None:
    def choosy(together: Sequence[Notification]) -> Message | Rejected:
        odd = int(together[0].transition.row[0] or 0) % 2
        return Rejected(Reason.TEMPLATE, "bad") if odd else compose(together)

    channel = FakeChannel(lambda _message: REFUSED)
    dispatcher = desk.start(channel, concurrency=4, compose=choosy)
    await desk.tell("0")
    await desk.until(lambda: dispatcher.condition is Condition.PAUSED)
    await desk.tell(*map(str, range(1, 40)))
    for probes in range(2, 5):
        await desk.advance(301)
        assert dispatcher.condition is Condition.PAUSED
        assert len(channel.sends) == probes


async def test_what_a_channel_rejects_without_asking_says_nothing_of_the_receiver_either(desk: Desk) -> None:
    nobody = Rejected(Reason.NO_RECIPIENTS, "nobody to tell")
    channel = FakeChannel(script(REFUSED, nobody, nobody, REFUSED))
    dispatcher = desk.start(channel, concurrency=4)
    await desk.tell("0")
    await desk.until(lambda: dispatcher.condition is Condition.PAUSED)
    await desk.tell(*map(str, range(1, 10)))
    await desk.advance(31)
    assert dispatcher.condition is Condition.PAUSED
    assert len(channel.sends) == 4


# Channels that break their contract.


class _Raising(FakeChannel):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        results = await super().send(messages)
        if self.error is not None:
            raise self.error
        return results


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), asyncio.CancelledError()], ids=lambda error: type(error).__name__
)
async def test_a_channel_that_raises_is_tried_again(desk: Desk, error: BaseException) -> None:
    channel = _Raising(error)
    desk.start(channel)
    (id_,) = await desk.tell("1")
    await desk.until(lambda: channel.attempts(id_) == 1)
    await desk.quiet()
    record = await desk.record(id_)
    assert (record.status, record.reason, record.attempts) == (Status.PENDING, "internal", 1)
    channel.error = None
    await desk.advance(1)
    await desk.delivered(id_)


@pytest.mark.parametrize("results", [[], [Delivered()] * 3, None, [None, None], "ok"], ids=repr)
async def test_a_channel_that_answers_nonsense_is_tried_again(desk: Desk, results: Sequence[Result]) -> None:
    class Confused(FakeChannel):
        confused = True

        async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
            answers = await super().send(messages)
            return results if self.confused else answers

    channel = Confused(bulk=2)
    ids = await desk.tell("1", "2")
    desk.start(channel)
    await desk.until(lambda: channel.sends)
    await desk.quiet()
    assert {(record.status, record.reason) for record in await desk.records()} == {(Status.PENDING, "internal")}
    channel.confused = False
    await desk.advance(2)
    await desk.delivered(*ids)


async def test_a_channel_that_hangs_is_given_up_on_and_tried_again(desk: Desk) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    desk.start(channel, timeout=10.0)
    (id_,) = await desk.tell("1")
    await desk.until(lambda: channel.under_way)
    await desk.advance(16)
    record = await desk.record(id_)
    assert (record.status, record.reason) == (Status.PENDING, "timeout")
    channel.gate.set()
    await desk.advance(1)
    await desk.delivered(id_)


async def test_a_broken_channel_does_not_end_a_pause(desk: Desk) -> None:
    channel = _Raising(ZeroDivisionError())
    channel.error = None
    channel.answer = lambda _message: REFUSED
    dispatcher = desk.start(channel)
    await desk.tell("1", "2")
    await desk.until(lambda: dispatcher.condition is Condition.PAUSED)
    channel.error = ZeroDivisionError()
    await desk.advance(31)
    assert dispatcher.condition is Condition.PAUSED


# The end of a run.


async def test_cancelling_closes_the_channel_once_and_ends_what_is_under_way(desk: Desk) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    desk.start(channel)
    await desk.tell("1", "2")
    await desk.until(lambda: channel.under_way == 2)
    await desk.stop()
    assert (channel.closed, channel.under_way) == (1, 0)
    assert {record.status for record in await desk.records()} == {Status.PENDING}


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_channel_that_cannot_be_closed_does_not_disturb_the_end(desk: Desk, hangs: bool) -> None:
    class Stubborn(FakeChannel):
        async def close(self) -> None:
            await super().close()
            if hangs:
                await asyncio.Event().wait()
            raise ZeroDivisionError

    channel = Stubborn()
    desk.start(channel)
    task = desk.task
    await desk.quiet()
    task.cancel()
    await desk.until(lambda: channel.closed)
    desk.clock.advance(60)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_drained_waits_for_what_is_ready_and_not_for_what_waits(desk: Desk) -> None:
    channel = FakeChannel(lambda message: BUSY if message.envelope["row"]["order_id"] == 0 else Delivered())
    channel.gate.clear()
    dispatcher = desk.start(channel, concurrency=2)
    waiting, *ids = await desk.tell(*map(str, range(9)))
    draining = asyncio.create_task(dispatcher.drained())
    await desk.until(lambda: channel.under_way == 2)
    await desk.quiet()
    assert not draining.done()
    channel.gate.set()
    await draining
    assert {record.status for record in await desk.records(*ids)} == {Status.DELIVERED}
    assert (await desk.record(waiting)).status is Status.PENDING


async def test_drained_does_not_wait_for_a_channel_that_is_paused(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: REFUSED)
    dispatcher = desk.start(channel)
    await desk.tell("1", "2")
    await desk.until(lambda: dispatcher.condition is Condition.PAUSED)
    await dispatcher.drained()


async def test_drained_right_at_the_start_waits_for_what_the_ledger_has(desk: Desk) -> None:
    ids = await desk.tell("1", "2", "3")
    dispatcher = desk.start(FakeChannel())
    await dispatcher.drained()
    assert {record.status for record in await desk.records(*ids)} == {Status.DELIVERED}


async def test_settled_launches_nothing_more_and_waits_for_what_is_under_way(desk: Desk) -> None:
    channel = FakeChannel()
    channel.gate.clear()
    dispatcher = desk.start(channel, concurrency=2)
    ids = await desk.tell(*map(str, range(6)))
    await desk.until(lambda: channel.under_way == 2)
    settling = asyncio.create_task(dispatcher.settled())
    await desk.quiet()
    assert not settling.done()
    channel.gate.set()
    await settling
    await desk.quiet()
    assert len(channel.ids) == 2
    statuses = [record.status for record in await desk.records(*ids)]
    assert statuses.count(Status.DELIVERED) == 2
    assert statuses.count(Status.PENDING) == 4


async def test_a_settled_dispatcher_sleeps_whatever_becomes_due(desk: Desk) -> None:
    channel = FakeChannel(lambda _message: BUSY)
    dispatcher = desk.start(channel)
    await desk.tell("1")
    await desk.until(lambda: channel.sends)
    await dispatcher.settled()
    await desk.advance(1000)  # waits until the dispatcher sleeps: one that spins never does
    assert len(channel.sends) == 1


# Isolation.


async def test_a_channel_that_hangs_delays_neither_another_one_nor_the_offers(desk: Desk) -> None:
    hanging, other = FakeChannel(), FakeChannel()
    hanging.gate.clear()
    desk.start(hanging, name="hook", concurrency=1, limit=4)
    desk.start(other, name="mail")
    for number in range(20):
        await desk.tell(f"a{number}", f"b{number}", to=("hook", "mail"))
    mail = [record.id for record in await desk.records() if record.channel == "mail"]
    await desk.delivered(*mail)
    assert len(hanging.sends) == 1
    hanging.gate.set()
    await desk.delivered(*[record.id for record in await desk.records()])


async def test_a_repeat_of_an_episode_reaches_the_channel_with_its_attempts(desk: Desk) -> None:
    channel = FakeChannel(script(BUSY, BUSY))
    desk.start(channel)
    (id_,) = await desk.tell("1")
    await desk.advance(1)
    await desk.advance(2)
    await desk.delivered(id_)
    assert [message.attempts for messages in channel.sends for message in messages] == [0, 1, 2]
    assert channel.sends[0][0].kind is Kind.FIRED
