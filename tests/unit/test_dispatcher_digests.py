"""Dispatch of merged notifications: one message, one outcome for all of it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from support.channels import FakeChannel, script
from support.dispatching import DispatcherHarness, FaultyLedger
from support.ledger import commit, transition
from support.waiting import until_some
from tocsin.channels.base import Delivered, Message, Rejected, Result, Retry
from tocsin.errors import Reason
from tocsin.ledger.base import MOST_MERGED, Status
from tocsin.model import Address, Kind

GROUP = Address(channel="hook", ordering_key="group", interval=30.0)


async def fire(harness: DispatcherHarness, *keys: str, kind: Kind = Kind.FIRED, at: int = 1000) -> None:
    transitions = [(transition(key, kind, at=at), [GROUP]) for key in keys]
    await harness.ledger.commit(replace(commit(), transitions=transitions))
    harness.wake()


def merged(message: Message) -> list[object]:
    """The keys of the rows in a message."""
    envelopes = message.envelope.get("merged", [message.envelope])
    return [envelope["row"]["order_id"] for envelope in envelopes]


async def test_first_is_sent_at_once_and_rest_together(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    harness.start(channel)
    await fire(harness, "1")
    await harness.quiet()
    assert [merged(message) for message in channel.delivered] == [[1]]
    await harness.advance(10)
    await fire(harness, "2", "3")
    await harness.advance(10)
    await fire(harness, "4")
    await harness.advance(9)
    assert len(channel.delivered) == 1
    await harness.advance(1.5)
    assert [merged(message) for message in channel.delivered] == [[1], [2, 3, 4]]
    assert {record.status for record in await harness.records()} == {Status.DELIVERED}


async def test_restart_keeps_deadline_and_id(harness: DispatcherHarness) -> None:
    await fire(harness, "1", "2", "3")
    expected = next(record.id for record in await harness.records() if record.row[0] == "2")
    await harness.advance(20)
    channel = FakeChannel()
    harness.start(channel)
    await harness.advance(9)
    assert [merged(message) for message in channel.delivered] == [[1]]
    await harness.advance(1.5)
    assert [merged(message) for message in channel.delivered] == [[1], [2, 3]]
    assert channel.delivered[1].id == expected


async def test_repeat_has_same_content(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    harness.start(channel)
    await fire(harness, "1", "2", "3")
    await harness.quiet()
    channel.answer = script(Retry(Reason.TIMEOUT), Retry(Reason.TIMEOUT))
    await harness.advance(30.5)
    await fire(harness, "4")
    for _ in range(3):
        await harness.advance(15)
    sent = [sends[0] for sends in channel.sends[1:]]
    assert [merged(message) for message in sent[:3]] == [[2, 3]] * 3
    assert len({message.id for message in sent[:3]}) == 1
    assert merged(sent[3]) == [4]


async def test_digest_with_a_fired_row_says_fired(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    harness.start(channel)
    await fire(harness, "1", "2")
    await fire(harness, "1", "2", kind=Kind.RESOLVED, at=2000)
    await harness.advance(31)
    assert [message.kind for message in channel.delivered] == [Kind.FIRED, Kind.FIRED]
    assert merged(channel.delivered[1]) == [2, 1, 2]
    assert channel.delivered[1].envelope["row"]["order_id"] == 2


# Digests that are too large.


def at_most(count: int, *, unsent: bool = False) -> Callable[[Message], Result]:
    """A receiver with a maximum number of rows in one message."""
    large = Rejected(Reason.TOO_LARGE, "413", unsent=unsent)
    return lambda message: large if len(merged(message)) > count else Delivered()


def keys_of(channel: FakeChannel) -> list[list[object]]:
    return [merged(message) for message in channel.delivered]


@pytest.mark.parametrize("unsent", [False, True], ids=["refused", "seen before"])
async def test_refused_body_is_never_sent_again(harness: DispatcherHarness, unsent: bool) -> None:
    """Each part has the id of its oldest member, so the first that of the whole: then with another key, if the receiver
    has refused the whole under it. The split is no attempt."""
    channel = FakeChannel(at_most(2, unsent=unsent))
    harness.start(channel, max_attempts=1)
    await fire(harness, *map(str, range(9)))
    await harness.advance(31)
    await harness.until(lambda: sum(map(len, keys_of(channel))) == 9, "all delivered")
    sent = [(message.key, tuple(merged(message))) for sends in channel.sends for message in sends]
    assert len({body for _, body in sent}) == len(sent), "no body twice"
    ids = {record.row[0]: record.id for record in await harness.records()}
    assert [message.id for message in channel.delivered] == [ids[str(merged(one)[0])] for one in channel.delivered]
    await harness.quiet()
    assert {(record.status, record.attempts) for record in await harness.records()} == {(Status.DELIVERED, 1)}
    keys = [key for key, _ in sent]
    if unsent:
        assert {message.key for message in channel.delivered} == {message.id for message in channel.delivered}
    else:
        assert len(set(keys)) == len(keys), "no key twice"


async def test_only_single_too_large_row_is_dead(harness: DispatcherHarness) -> None:
    """The others of its digest are delivered before and after it."""
    large = Rejected(Reason.TOO_LARGE, "413")
    channel = FakeChannel(lambda message: large if 5 in merged(message) else Delivered())
    harness.start(channel)
    await fire(harness, *map(str, range(9)))
    await harness.advance(31)

    async def settled() -> bool:
        return all(record.status is not Status.PENDING for record in await harness.records())

    await until_some(settled, "nothing pending")
    found = {record.row[0]: (record.status, record.reason) for record in await harness.records()}
    assert found.pop("5") == (Status.DEAD, "too_large")
    assert {status for status, _ in found.values()} == {Status.DELIVERED}
    assert [key for part in keys_of(channel) for key in part] == [0, 1, 2, 3, 4, 6, 7, 8]


async def test_parts_of_digest_survive_restart(harness: DispatcherHarness) -> None:
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
    harness.start(channel)
    await fire(harness, *map(str, range(9)))
    await harness.until(lambda: channel.delivered)
    harness.clock.advance(31)
    await harness.until(lambda: not channel.gate.is_set() and channel.under_way, "a part under way")
    await harness.stop()
    again = FakeChannel(at_most(2))
    harness.start(again)
    await harness.until(lambda: sum(map(len, keys_of(channel) + keys_of(again))) == 9, "all delivered")
    assert [key for part in keys_of(channel) + keys_of(again) for key in part] == [*range(9)]
    assert refused
    assert not [one for sends in again.sends for one in sends if merged(one) in refused]


async def test_long_and_large_digest_keeps_order(harness: DispatcherHarness) -> None:
    """Also where it is longer than one message may be, and more comes while its parts are sent."""
    channel = FakeChannel(at_most(200))
    harness.start(channel)
    names = [str(number) for number in range(MOST_MERGED + 40)]
    await fire(harness, *names)
    harness.clock.advance(31)
    await harness.until(lambda: len(channel.delivered) > 1)
    await fire(harness, "9999")
    await harness.advance(31)
    await harness.until(lambda: sum(map(len, keys_of(channel))) == len(names) + 1, "all delivered")
    assert [key for part in keys_of(channel) for key in part] == [*map(int, names), 9999]


async def test_ledger_that_fails_during_split_loses_nothing(harness: DispatcherHarness) -> None:
    """The digest is tried again as it is, without an attempt."""
    channel = FakeChannel(at_most(2))
    ledger = FaultyLedger(harness.ledger)
    ledger.failures["split_digest"] = 2
    harness.start(channel, ledger=ledger, max_attempts=1)
    await fire(harness, *map(str, range(5)))
    for _ in range(4):
        await harness.advance(31)
    await harness.until(lambda: sum(map(len, keys_of(channel))) == 5, "all delivered")
    assert [key for part in keys_of(channel) for key in part] == [*range(5)]


async def test_unanswered_digest_is_given_up_as_a_whole(harness: DispatcherHarness) -> None:
    """If only the oldest expired, the rest would be another message under another id."""
    channel = FakeChannel(lambda message: Delivered() if len(merged(message)) == 1 else Retry(Reason.TIMEOUT))
    harness.start(channel, max_attempts=None, max_age=40.0)
    await fire(harness, "1", "2")
    await harness.advance(20)
    await fire(harness, "3")
    for _ in range(30):
        await harness.advance(2)
    sent = [merged(one) for sends in channel.sends for one in sends]
    assert sent[0] == [1]
    assert set(map(tuple, sent[1:])) == {(2, 3)}
    assert {record.reason for record in await harness.records() if record.row[0] != "1"} == {"expired"}
