"""Several notifications in one request with one idempotency key: repeated as it is until its outcome is known."""

import asyncio
import random
from pathlib import Path

import pytest

from support.bulking import LARGE, LIMITED, LOST, KeyedChannel, KeyedReceiver, lines
from support.dispatching import REFUSED, DispatcherHarness, FaultyLedger
from support.ledger import commit, transition
from tocsin.channels.base import Rejected, Retry
from tocsin.errors import Reason
from tocsin.ledger.base import Status
from tocsin.model import Kind


@pytest.fixture
def channel() -> KeyedChannel:
    return KeyedChannel(KeyedReceiver())


async def settle_down(harness: DispatcherHarness, seconds: float = 200) -> None:
    """Let time pass until no notification is left to send."""
    for _ in range(12):
        await harness.advance(seconds / 12)


async def bound(harness: DispatcherHarness) -> list[object]:
    """The requests whose outcome is unknown, once no task runs any more."""
    await harness.stop()
    await harness.ledger.recover("hook", 0.0, 0.0)
    harness.clock.advance(1e6)
    return list((await harness.ledger.claim("hook", 1000)).repeats)


def assert_once(channel: KeyedChannel, ids: list[str]) -> None:
    """The receiver has accepted each id once, and the client has kept the rules."""
    assert channel.receiver.accepted == dict.fromkeys(ids, 1)
    assert channel.receiver.broken == []


async def test_unanswered_request_is_repeated_as_it_was(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """Members, order and key stay, though more notifications are pending by then."""
    ids = await harness.fire(*map(str, range(20)))
    channel.line = lines(LOST, None, LOST)
    harness.start(channel)
    await harness.quiet()
    more = await harness.fire("later")
    await settle_down(harness)
    await harness.delivered(*ids, *more)
    assert channel.requests == [ids, more, ids, ids]
    assert len({key for key, sent in channel.sent if sent == ids}) == 1
    assert_once(channel, [*ids, *more])


@pytest.mark.parametrize("count", [1, 20])
async def test_request_survives_a_kill(harness: DispatcherHarness, channel: KeyedChannel, count: int) -> None:
    """A restart repeats the request, though more was committed since; a single notification goes alone again."""
    channel.gate.clear()
    ids = await harness.fire(*map(str, range(count)))
    harness.start(channel)
    await harness.until(lambda: channel.sent)
    await harness.stop()
    channel.gate.set()
    more = await harness.fire("more", "and more")
    harness.start(channel)
    await settle_down(harness)
    await harness.delivered(*ids, *more)
    assert channel.requests in ([ids, ids, more], [ids, more, ids])
    assert_once(channel, [*ids, *more])


async def test_ledger_has_request_before_it_is_sent(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """A ledger that cannot be written holds the request back, without an attempt."""
    ledger = FaultyLedger(harness.ledger)
    ledger.failures["bind"] = 3
    harness.start(channel, ledger=ledger)
    ids = await harness.fire("1", "2")
    await harness.advance(1)
    assert channel.sent == []
    assert {record.attempts for record in await harness.records()} == {0}
    await settle_down(harness)
    await harness.delivered(*ids)


async def test_answer_for_each_event_ends_request(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """One refused member of an accepted request is a dead letter; nothing is repeated."""
    ids = await harness.fire(*map(str, range(10)))
    bad = Rejected(Reason.NOT_PROCESSED, "no such workflow")
    channel.each = lambda id_: bad if id_ == ids[3] else None
    harness.start(channel)
    await settle_down(harness)
    await harness.delivered(*ids[:3], *ids[4:])
    assert (await harness.record(ids[3])).status is Status.DEAD
    assert channel.requests == [ids]
    assert await bound(harness) == []


async def test_rejected_request_is_split_and_never_repeated(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """The parts have keys of their own; a part without an answer is repeated as that part."""
    ids = await harness.fire(*map(str, range(8)))
    channel.receiver.refuses = lambda sent: Rejected(Reason.REJECTED, "400") if ids[5] in sent else None
    channel.line = lines(None, LOST)
    harness.start(channel, concurrency=1)
    await settle_down(harness)
    await harness.delivered(*ids[:5], *ids[6:])
    assert (await harness.record(ids[5])).status is Status.DEAD
    assert_once(channel, [*ids[:5], *ids[6:]])
    assert channel.requests.count(ids) == 1
    assert channel.requests.count(ids[:4]) == 2


async def test_parts_of_rejected_request_survive_a_kill(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """A restart does not repeat the rejected bulk."""
    ids = await harness.fire(*map(str, range(8)))
    channel.receiver.refuses = lambda sent: LARGE if len(sent) > 4 else None

    def hold_the_second() -> None:
        if len(channel.sent) == 2:
            channel.gate.clear()

    channel.line = hold_the_second
    harness.start(channel, concurrency=1)
    await harness.until(lambda: len(channel.sent) == 2)
    await harness.stop()
    channel.gate.set()
    harness.start(channel)
    await settle_down(harness)
    await harness.delivered(*ids)
    assert_once(channel, ids)
    assert channel.requests.count(ids) == 1


async def test_retry_of_rejected_one_has_another_key(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """A receiver that keeps answers would repeat its error under the old key."""
    ids = await harness.fire("1", "2")
    channel.receiver.refuses = lambda _sent: Rejected(Reason.NOT_FOUND, "404")
    harness.start(channel)
    await harness.advance(1)
    assert {record.status for record in await harness.records()} == {Status.DEAD}
    channel.receiver.refuses = lambda _sent: None
    assert await harness.ledger.retry(ids) == 2
    harness.dispatchers[0].rescan()
    await settle_down(harness)
    await harness.delivered(*ids)
    assert_once(channel, ids)


async def test_request_is_given_up_and_retried_as_one(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """The youngest member decides; a person's retry makes the same request under the same key."""
    [first] = await harness.fire("old")
    harness.clock.advance(50)
    [second] = await harness.fire("young")
    channel.line = lambda: LOST
    harness.start(channel, max_attempts=None, max_age=100.0)
    await harness.advance(60)
    assert {record.status for record in await harness.records()} == {Status.PENDING}
    await settle_down(harness, 300)
    assert {record.reason for record in await harness.records()} == {"expired"}
    channel.line = lambda: None
    other = await harness.fire("other")
    await harness.change("retry", [second, first])
    await settle_down(harness)
    await harness.delivered(first, second, *other)
    assert len({key for key, sent in channel.sent if sent == [first, second]}) == 1
    assert_once(channel, [first, second, *other])


@pytest.mark.parametrize("while_sent", [False, True])
async def test_dropped_member_leaves_another_request(
    harness: DispatcherHarness, channel: KeyedChannel, while_sent: bool
) -> None:
    """The remaining request has other bytes, and so another key."""
    channel.line = lines(LOST)
    channel.arrives = False
    channel.gate.clear()
    harness.start(channel)
    ids = await harness.fire("1", "2", "3")
    await harness.until(lambda: channel.sent)
    if not while_sent:
        channel.gate.set()
        await harness.quiet()
    await harness.change("drop", [ids[1]])
    channel.gate.set()
    await settle_down(harness)
    await harness.delivered(ids[0], ids[2])
    assert channel.requests == [ids, [ids[0], ids[2]]]
    assert channel.keys[0] != channel.keys[1]
    assert_once(channel, [ids[0], ids[2]])


async def test_claimed_request_survives_a_change_elsewhere(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """A request that is due while a pause holds it back is claimed again."""
    channel.line = lines(LOST, REFUSED)
    ids = await harness.fire("1", "2")
    harness.start(channel)
    await harness.quiet()
    other = await harness.fire("other")
    await harness.advance(5)
    assert channel.requests == [ids, other]
    await harness.change("retry", [])
    for _ in range(4):
        await harness.advance(60)
    assert {*await harness.statuses()} == {Status.DELIVERED}
    assert_once(channel, [*ids, *other])


async def test_next_of_episode_waits_for_unanswered_request(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """Order within an episode holds, across a restart too."""
    channel.line = lines(LOST)
    harness.start(channel)
    firsts = await harness.fire("1", "2")
    await harness.quiet()
    kinds = [transition(key, Kind.RESOLVED, at=2000, started_at=1000) for key in ("1", "2")]
    lasts = [one.id for one in await harness.ledger.commit(commit(kinds))]
    await harness.stop()
    harness.start(channel)
    await settle_down(harness)
    await harness.delivered(*firsts, *lasts)
    assert channel.requests[:2] == [firsts, firsts]
    assert_once(channel, [*firsts, *lasts])


async def test_smaller_batches_split_a_stored_request(harness: DispatcherHarness, channel: KeyedChannel) -> None:
    """After a change of the configuration the old request cannot be made any more."""
    channel.line = lines(LOST)
    channel.arrives = False
    harness.start(channel)
    ids = await harness.fire(*map(str, range(6)))
    await harness.quiet()
    await harness.stop()
    channel.most = 4
    harness.start(channel)
    await settle_down(harness)
    await harness.delivered(*ids)
    assert channel.requests == [ids, ids[:4], ids[4:]]
    assert await bound(harness) == []


def test_reasons_that_leave_the_outcome_open() -> None:
    """Only an answer before the receiver reads the request rules out its acceptance."""
    known = {reason for reason in Reason if not Retry(reason).unknown}
    assert known == {Reason.RATE_LIMITED, Reason.TOO_EARLY}


# Any history.


@pytest.mark.parametrize("seed", range(8))
async def test_each_is_accepted_once_after_any_history(tmp_path: Path, seed: int) -> None:
    """Any sequence of answers, losses, kills and commits, against a receiver that keeps answers under idempotency keys.
    A request keeps its members, their order and its key until its outcome is known."""
    chance, fair, number, odd = random.Random(seed), False, 0, set[str]()
    receiver, harness = KeyedReceiver(), DispatcherHarness(tmp_path / "ledger")
    receiver.refuses = lambda ids: Rejected(Reason.REJECTED, "400") if odd.intersection(ids) else None
    most = chance.choice([3, 7])  # other sizes after a kill would make other requests

    def start() -> None:
        channel = KeyedChannel(receiver, most=most)
        channel.line = lambda: None if fair else chance.choice([None, None, None, LOST, LOST, LIMITED])
        channel.arrives = chance.random() < 0.7
        harness.start(channel, max_attempts=None, max_age=1e9, concurrency=3)

    try:
        start()
        for _ in range(25):
            count = chance.choice([0, 1, 2, 5, 12])
            ids = await harness.fire(*(str(number + more) for more in range(count)))
            number += count
            odd.update(id_ for id_ in ids if chance.random() < 0.05)
            match chance.choice(["wait", "wait", "kill", "turn"]):
                case "wait":
                    await harness.advance(chance.choice([0.5, 3, 20]))
                case "kill":
                    await asyncio.sleep(0)
                    await harness.stop()
                    start()
                case "turn":
                    for _ in range(chance.randrange(20)):
                        await asyncio.sleep(0)
        fair = True
        for _ in range(12):
            await harness.advance(70)
        records = await harness.records()
        assert {record.status for record in records} <= {Status.DELIVERED, Status.DEAD}
        assert {record.id for record in records if record.status is Status.DEAD} == odd
        assert receiver.accepted == {record.id: 1 for record in records if record.status is Status.DELIVERED}
        # A final error whose answer was lost is requested again under its key: the client does not know it.
        assert not [complaint for complaint in receiver.broken if complaint.startswith("another body")]
    finally:
        await harness.close()
