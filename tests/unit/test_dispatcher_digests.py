"""What the dispatcher does with notifications that are merged: one message, one outcome for all of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from support.channels import FakeChannel, script
from support.dispatching import Desk
from support.ledger import commit, transition
from support.waiting import until_some
from tocsin.channels.base import Delivered, Message, Rejected, Result, Retry
from tocsin.errors import LedgerError, LedgerReason, Reason
from tocsin.ledger.base import MOST_MERGED, Status
from tocsin.model import Address, Kind, Notification

LANE = Address(channel="hook", ordering_key="group", interval=30.0)


async def tell(desk: Desk, *keys: str, kind: Kind = Kind.FIRED, at: int = 1000) -> None:
    transitions = [(transition(key, kind, at=at), [LANE]) for key in keys]
    await desk.ledger.commit(replace(commit(), transitions=transitions))
    for dispatcher in desk.dispatchers:
        dispatcher.wake()


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
    channel.answer = script(Delivered("nothing to take back", sent=False))
    await desk.tell("4")
    await desk.quiet()
    samples = {
        sample.name: sample.value for family in desk.metrics.delivery_seconds.collect() for sample in family.samples
    }
    assert samples["tocsin_channel_delivery_seconds_count"] == 3
    assert samples["tocsin_channel_delivery_seconds_sum"] < 5


# Digests that are too large.


def at_most(count: int, *, unsent: bool = False) -> Callable[[Message], Result]:
    """A receiver that takes so many in one message."""
    large = Rejected(Reason.TOO_LARGE, "413", unsent=unsent)
    return lambda message: large if len(merged(message)) > count else Delivered()


def keys_of(channel: FakeChannel) -> list[list[object]]:
    return [merged(message) for message in channel.delivered]


async def test_digest_that_is_too_large_goes_in_parts_in_order(desk: Desk) -> None:
    """Halved until the receiver takes it, without an attempt and without a dead letter."""
    channel = FakeChannel(at_most(3))
    desk.start(channel, max_attempts=1)
    await tell(desk, *map(str, range(11)))
    await desk.advance(31)
    await desk.until(lambda: sum(map(len, keys_of(channel))) == 11, "all delivered")
    parts = keys_of(channel)
    assert [key for part in parts for key in part] == [*range(11)]
    assert max(map(len, parts)) <= 3
    await desk.quiet()
    assert {(record.status, record.attempts) for record in await desk.records()} == {(Status.DELIVERED, 1)}


async def test_part_has_the_id_of_its_oldest_member(desk: Desk) -> None:
    """The receiver can tell a repeat of each part."""
    channel = FakeChannel(at_most(2))
    desk.start(channel)
    await tell(desk, *map(str, range(5)))
    await desk.advance(31)
    await desk.until(lambda: sum(map(len, keys_of(channel))) == 5, "all delivered")
    ids = {record.row[0]: record.id for record in await desk.records()}
    assert [message.id for message in channel.delivered] == [ids[str(merged(one)[0])] for one in channel.delivered]


@pytest.mark.parametrize("unsent", [False, True], ids=["refused", "seen before"])
async def test_refused_body_never_comes_again_under_its_key(desk: Desk, unsent: bool) -> None:
    """The first part has the id of the whole, and another key where the receiver has refused the whole under it."""
    channel = FakeChannel(at_most(2, unsent=unsent))
    desk.start(channel)
    await tell(desk, *map(str, range(9)))
    await desk.advance(31)
    await desk.until(lambda: sum(map(len, keys_of(channel))) == 9, "all delivered")
    sent = [(message.key, tuple(merged(message))) for sends in channel.sends for message in sends]
    assert len({body for _, body in sent}) == len(sent), "no body twice"
    keys = [key for key, _ in sent]
    if unsent:
        assert {message.key for message in channel.delivered} == {message.id for message in channel.delivered}
    else:
        assert len(set(keys)) == len(keys), "no key twice"


async def test_one_that_is_too_large_alone_is_the_only_dead_letter(desk: Desk) -> None:
    """The others of its digest are delivered before and after it."""
    large = Rejected(Reason.TOO_LARGE, "413")
    channel = FakeChannel(lambda message: large if 5 in merged(message) else Delivered())
    desk.start(channel)
    await tell(desk, *map(str, range(9)))
    await desk.advance(31)

    async def settled() -> bool:
        return all(record.status is not Status.PENDING for record in await desk.records())

    await until_some(settled, "nothing pending")
    found = {record.row[0]: (record.status, record.reason) for record in await desk.records()}
    assert found.pop("5") == (Status.DEAD, "too_large")
    assert {status for status, _ in found.values()} == {Status.DELIVERED}
    assert [key for part in keys_of(channel) for key in part] == [0, 1, 2, 3, 4, 6, 7, 8]


async def test_retry_of_all_does_not_make_the_same_digest(desk: Desk) -> None:
    """Dead letters of a digest, as older versions left them, go in parts that the receiver takes."""
    channel = FakeChannel(script(Delivered(), Rejected(Reason.REJECTED, "no")))
    dispatcher = desk.start(channel)
    await tell(desk, *map(str, range(9)))
    await desk.advance(31)
    dead = [record.id for record in await desk.records() if record.status is Status.DEAD]
    assert len(dead) == 8
    channel.answer = at_most(3)
    await desk.ledger.retry(dead)
    dispatcher.rescan()
    await desk.until(lambda: sum(map(len, keys_of(channel))) == 9, "all delivered")
    assert [key for part in keys_of(channel) for key in part] == [*range(9)]


async def test_parts_stay_what_they_are_across_a_restart(desk: Desk) -> None:
    """A process that starts in the middle sends no part that was refused, and none twice."""
    refused: list[list[object]] = []

    def answer(message: Message) -> Result:
        result = at_most(2)(message)
        if isinstance(result, Rejected):
            refused.append(merged(message))
        if len(channel.delivered) == 2:
            channel.gate.clear()  # for the next one
        return result

    channel = FakeChannel(answer)
    desk.start(channel)
    await tell(desk, *map(str, range(9)))
    await desk.until(lambda: channel.delivered)
    desk.clock.advance(31)
    await desk.until(lambda: not channel.gate.is_set() and channel.under_way, "a part under way")
    await desk.stop()
    again = FakeChannel(at_most(2))
    desk.start(again)
    await desk.until(lambda: sum(map(len, keys_of(channel) + keys_of(again))) == 9, "all delivered")
    assert [key for part in keys_of(channel) + keys_of(again) for key in part] == [*range(9)]
    assert refused
    assert not [one for sends in again.sends for one in sends if merged(one) in refused]


async def test_long_digest_that_is_too_large_keeps_its_order(desk: Desk) -> None:
    """Also where it is longer than one message may be, and more comes while its parts are sent."""
    channel = FakeChannel(at_most(200))
    desk.start(channel)
    names = [str(number) for number in range(MOST_MERGED + 40)]
    await tell(desk, *names)
    desk.clock.advance(31)
    await desk.until(lambda: len(channel.delivered) > 1)
    await tell(desk, "9999")
    await desk.advance(31)
    await desk.until(lambda: sum(map(len, keys_of(channel))) == len(names) + 1, "all delivered")
    assert [key for part in keys_of(channel) for key in part] == [*map(int, names), 9999]


async def test_ledger_that_fails_during_a_cut_loses_nothing(desk: Desk) -> None:
    """The digest is tried again as it is, without an attempt."""
    channel = FakeChannel(at_most(2))
    failures = [LedgerError("the disk is full", LedgerReason.FULL)] * 2

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(desk.ledger, name)

        async def split_digest(self, head: Notification, at: int, *, refused: bool) -> None:
            if failures:
                raise failures.pop()
            await desk.ledger.split_digest(head, at, refused=refused)

    ledger: Any = Full()
    desk.start(channel, ledger=ledger, max_attempts=1)
    await tell(desk, *map(str, range(5)))
    for _ in range(4):
        await desk.advance(31)
    await desk.until(lambda: sum(map(len, keys_of(channel))) == 5, "all delivered")
    assert [key for part in keys_of(channel) for key in part] == [*range(5)]


async def test_digest_without_answer_is_given_up_as_a_whole(desk: Desk) -> None:
    """If its oldest were given up alone, the rest would be another message under another id."""
    channel = FakeChannel(lambda message: Delivered() if len(merged(message)) == 1 else Retry(Reason.TIMEOUT))
    desk.start(channel, max_attempts=None, max_age=40.0)
    await tell(desk, "1", "2")
    await desk.advance(20)
    await tell(desk, "3")
    for _ in range(30):
        await desk.advance(2)
    sent = [merged(one) for sends in channel.sends for one in sends]
    assert sent[0] == [1]
    assert set(map(tuple, sent[1:])) == {(2, 3)}
    assert {record.reason for record in await desk.records() if record.row[0] != "1"} == {"expired"}
