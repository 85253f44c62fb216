"""What the dispatcher does with notifications that are merged: one message, one outcome for all of it."""

from dataclasses import replace

from support.channels import FakeChannel, script
from support.dispatching import Desk
from support.ledger import commit, transition
from tocsin.channels import Delivered, Message, Rejected, Retry
from tocsin.errors import Reason
from tocsin.ledger import MOST_MERGED, Status
from tocsin.model import Address, Kind

LANE = Address(channel="hook", lane="group", interval=30.0)


async def tell(desk: Desk, *keys: str, kind: Kind = Kind.FIRED, at: int = 1000) -> None:
    transitions = [(transition(key, kind, at=at), [LANE]) for key in keys]
    offered = await desk.ledger.commit(replace(commit(), transitions=transitions))
    for dispatcher in desk.dispatchers:
        dispatcher.offer(offered)


def merged(message: Message) -> list[object]:
    """The keys of what is in a message."""
    envelopes = message.envelope.get("merged", [message.envelope])
    return [envelope["row"]["order_id"] for envelope in envelopes]


async def test_the_first_goes_at_once_and_the_rest_in_one_message_at_the_deadline(desk: Desk) -> None:
    channel = FakeChannel()
    desk.start(channel)
    await tell(desk, "1")
    await desk.quiet()
    assert [merged(message) for message in channel.delivered] == [[1]]
    await desk.advance(10)
    await tell(desk, "2", "3")
    await desk.advance(10)
    await tell(desk, "4")
    await desk.advance(9)
    assert len(channel.delivered) == 1
    await desk.advance(1.5)
    assert [merged(message) for message in channel.delivered] == [[1], [2, 3, 4]]
    assert {record.status for record in await desk.records()} == {Status.DELIVERED}


async def test_a_restart_does_not_move_the_deadline_nor_the_id(desk: Desk) -> None:
    await tell(desk, "1", "2", "3")
    expected = next(record.id for record in await desk.records() if record.row[0] == "2")
    await desk.advance(20)
    channel = FakeChannel()
    desk.start(channel)
    await desk.advance(9)
    assert [merged(message) for message in channel.delivered] == [[1]]
    await desk.advance(1.5)
    assert [merged(message) for message in channel.delivered] == [[1], [2, 3]]
    assert channel.delivered[1].id == expected


async def test_a_repeat_is_the_same_though_more_came_meanwhile(desk: Desk) -> None:
    channel = FakeChannel()
    desk.start(channel)
    await tell(desk, "1", "2", "3")
    await desk.quiet()
    channel.answer = script(Retry(Reason.TIMEOUT), Retry(Reason.TIMEOUT))
    await desk.advance(30.5)
    await tell(desk, "4")
    for _ in range(3):
        await desk.advance(15)
    sent = [sends[0] for sends in channel.sends[1:]]
    assert [merged(message) for message in sent[:3]] == [[2, 3]] * 3
    assert len({message.id for message in sent[:3]}) == 1
    assert merged(sent[3]) == [4]


async def test_all_of_a_rejected_message_are_dead_letters_and_go_together_when_tried_again(desk: Desk) -> None:
    channel = FakeChannel()
    dispatcher = desk.start(channel)
    await tell(desk, "1", "2", "3")
    await desk.quiet()
    channel.answer = script(Rejected(Reason.REJECTED, "no"))
    await desk.advance(31)
    dead = [record for record in await desk.records() if record.status is Status.DEAD]
    assert {(record.row[0], record.detail) for record in dead} == {("2", "no"), ("3", "no")}
    assert await desk.ledger.retry([record.id for record in dead]) == 2
    dispatcher.rescan()
    await desk.quiet()
    assert [merged(message) for message in channel.delivered] == [[1], [2, 3]]


async def test_a_message_in_which_anything_fired_says_fired(desk: Desk) -> None:
    channel = FakeChannel()
    desk.start(channel)
    await tell(desk, "1", "2")
    await tell(desk, "1", "2", kind=Kind.RESOLVED, at=2000)
    await desk.advance(31)
    assert [message.kind for message in channel.delivered] == [Kind.FIRED, Kind.FIRED]
    assert merged(channel.delivered[1]) == [2, 1, 2]
    assert channel.delivered[1].envelope["row"]["order_id"] == 2


async def test_a_long_digest_goes_in_several_messages_with_none_lost(desk: Desk) -> None:
    channel = FakeChannel()
    desk.start(channel)
    names = [str(number) for number in range(MOST_MERGED + 10)]
    await tell(desk, "alone", *names)
    await desk.advance(31)
    await desk.until(lambda: len(channel.delivered) == 3, "three messages")
    assert [len(merged(message)) for message in channel.delivered] == [1, MOST_MERGED, 10]


async def test_waiting_on_purpose_and_telling_nobody_are_no_slow_delivery(desk: Desk) -> None:
    channel = FakeChannel()
    desk.start(channel)
    await desk.advance(2)  # the rows are of second 1
    await tell(desk, "1", "2", "3", at=round(desk.clock() * 1000))
    await desk.advance(31)
    channel.answer = script(Delivered("nothing to take back", told=False))
    await desk.tell("4")
    await desk.quiet()
    samples = {
        sample.name: sample.value for family in desk.metrics.delivery_seconds.collect() for sample in family.samples
    }
    assert samples["tocsin_channel_delivery_seconds_count"] == 3
    assert samples["tocsin_channel_delivery_seconds_sum"] < 5
