"""Which notifications a dispatcher holds back, and when it sends them."""

from dataclasses import replace

from support.channels import FakeChannel, script
from support.dispatching import DOWN, REFUSED, DispatcherHarness, FaultyLedger
from support.ledger import commit, firing, transition
from tocsin.channels.base import Delivered, Message
from tocsin.ledger.base import SILENCED, Status
from tocsin.model import Address, Kind


def keys(message: Message) -> list[object]:
    """The keys of the rows in a message."""
    return [envelope["row"]["order_id"] for envelope in message.envelope.get("merged", [message.envelope])]


def sent(channel: FakeChannel) -> list[list[object]]:
    return [keys(message) for message in channel.delivered]


async def test_silenced_are_held_and_others_are_sent(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    harness.start(channel)
    await harness.silence("order=2")
    one, two, three = await harness.fire("1", "2", "3")
    await harness.delivered(one, three)
    await harness.quiet()
    found = await harness.record(two)
    assert (found.status, found.reason, found.attempts) == (Status.PENDING, SILENCED, 0)
    assert sorted(sent(channel)) == [[1], [3]]


async def test_new_silence_holds_what_is_pending(harness: DispatcherHarness) -> None:
    """The receiver is away: a hundred attempts wait in memory and in the ledger."""
    channel = FakeChannel(lambda _: DOWN)
    harness.start(channel, max_attempts=None)
    ids = await harness.fire(*map(str, range(100)))
    await harness.advance(1)
    await harness.silence('order!=""')
    await harness.advance(60)
    channel.answer = lambda _: Delivered()
    await harness.advance(30)
    assert channel.delivered == []
    assert {(one.status, one.reason) for one in await harness.records(*ids)} == {(Status.PENDING, SILENCED)}


async def test_waiting_counts_neither_as_attempt_nor_as_age(harness: DispatcherHarness) -> None:
    channel = FakeChannel(script(DOWN, DOWN))
    harness.start(channel, max_attempts=3, max_age=50.0)
    await harness.silence("order=1", seconds=1000)
    transitions = commit([transition("1")], saved=[firing("1")])
    [one] = await harness.ledger.commit(transitions)
    harness.wake()
    await harness.advance(1000)
    await harness.close_silences()
    for _ in range(3):
        await harness.advance(3)
    await harness.delivered(one.id)
    assert (await harness.record(one.id)).attempts == 3


async def test_silence_begins_and_ends_by_time(harness: DispatcherHarness) -> None:
    """Also for what was claimed before it began."""
    channel = FakeChannel(lambda _: REFUSED)
    harness.start(channel)
    first, second = await harness.fire("1", "2")
    await harness.silence("order=2", start=10, seconds=100)
    await harness.quiet()
    channel.answer = lambda _: Delivered()
    await harness.advance(31)
    await harness.delivered(first)
    assert (await harness.record(second)).reason == SILENCED
    await harness.ledger.commit(commit(saved=[firing("2")]))
    await harness.advance(100)
    await harness.close_silences()
    await harness.delivered(second)


async def test_members_of_digest_are_held_one_by_one(harness: DispatcherHarness) -> None:
    group = Address(channel="hook", ordering_key="group", interval=30.0)
    channel = FakeChannel()
    harness.start(channel)
    await harness.silence('order=~"2|4"')
    rows = [(transition(key), [group]) for key in "12345"]
    saved = [firing(key) for key in "12345"]
    await harness.ledger.commit(replace(commit(saved=saved), transitions=rows))
    harness.wake()
    await harness.advance(31)
    assert sent(channel) == [[1], [3, 5]]
    await harness.advance(70)
    await harness.close_silences()
    await harness.advance(1)
    assert sent(channel) == [[1], [3, 5], [2, 4]]


async def test_digest_that_was_sent_is_held_only_as_a_whole(harness: DispatcherHarness) -> None:
    """A repeat has the same content under the same key."""
    group = Address(channel="hook", ordering_key="group", interval=30.0)
    channel = FakeChannel(script(Delivered(), DOWN))
    harness.start(channel)
    rows = [(transition(key), [group]) for key in "123"]
    await harness.ledger.commit(replace(commit(saved=[firing("2"), firing("3")]), transitions=rows))
    harness.wake()
    await harness.advance(30)
    await harness.silence("order=2", seconds=20)
    await harness.advance(10)
    assert sent(channel) == [[1], [2, 3]]


async def test_row_that_no_longer_matches_is_sent_from_its_beginning(harness: DispatcherHarness) -> None:
    channel = FakeChannel()
    harness.start(channel)
    await harness.silence("note=warning")
    [one] = await harness.commit([transition("1", note="warning")])
    await harness.quiet()
    assert (await harness.record(one)).reason == SILENCED
    await harness.commit([transition("1", Kind.UPDATED, at=1001, started_at=1000, note="critical")])
    await harness.quiet()
    assert [message.kind for message in channel.delivered] == [Kind.FIRED, Kind.UPDATED]


async def test_ledger_that_fails_sends_nothing_that_is_silenced(harness: DispatcherHarness) -> None:
    ledger = FaultyLedger(harness.ledger)
    ledger.failures["withhold"] = 3
    channel = FakeChannel()
    harness.start(channel, ledger=ledger)
    await harness.silence("order=2")
    one, two = await harness.fire("1", "2")
    for _ in range(5):
        await harness.advance(2)
    await harness.delivered(one)
    assert (await harness.record(two)).reason == SILENCED
    assert sent(channel) == [[1]]


async def test_no_silence_costs_no_call_of_the_ledger(harness: DispatcherHarness) -> None:
    ledger = FaultyLedger(harness.ledger)
    harness.start(FakeChannel(), ledger=ledger)
    ids = await harness.fire(*map(str, range(50)))
    await harness.delivered(*ids)
    assert ledger.count("withhold") == 0
