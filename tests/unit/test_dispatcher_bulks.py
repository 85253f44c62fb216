"""Several notifications in one request with one idempotency key: until its outcome is known it is repeated as it is."""

from collections.abc import Sequence

import pytest

from support.bulking import LARGE, LIMITED, LOST, KeyedChannel, KeyedReceiver, lines
from support.dispatching import REFUSED, Desk
from support.ledger import commit, transition
from tocsin.channels.base import Rejected, Result, Retry
from tocsin.errors import LedgerError, LedgerReason, Reason
from tocsin.ledger.base import Ledger, Status
from tocsin.model import Kind


@pytest.fixture
def channel() -> KeyedChannel:
    return KeyedChannel(KeyedReceiver())


def begin(desk: Desk, channel: KeyedChannel, **policy: object) -> None:
    desk.start(channel, **policy)  # type: ignore[arg-type]


async def settle_down(desk: Desk, seconds: float = 200) -> None:
    """Let time pass until nothing is to be sent any more."""
    for _ in range(12):
        await desk.advance(seconds / 12)


async def bound(desk: Desk) -> list[object]:
    """The requests whose outcome is unknown, once nothing runs any more."""
    await desk.stop()
    await desk.ledger.recover("hook", 0.0, 0.0)
    desk.clock.advance(1e6)
    return list((await desk.ledger.claim("hook", 1000)).repeats)


def once(channel: KeyedChannel, ids: list[str]) -> None:
    """The receiver has accepted each id once, and the client has kept the rules."""
    assert channel.receiver.accepted == dict.fromkeys(ids, 1)
    assert channel.receiver.broken == []


async def test_unanswered_bulk_is_repeated_as_it_was(desk: Desk, channel: KeyedChannel) -> None:
    """Members, order and key stay, though more notifications are pending by then."""
    ids = await desk.tell(*map(str, range(20)))
    channel.line = lines(LOST, None, LOST)
    begin(desk, channel)
    await desk.quiet()
    more = await desk.tell("later")
    await settle_down(desk)
    await desk.delivered(*ids, *more)
    assert channel.requests == [ids, more, ids, ids]
    assert len({key for key, sent in channel.sent if sent == ids}) == 1
    once(channel, [*ids, *more])


async def test_members_of_a_bulk_wait_for_one_time(desk: Desk, channel: KeyedChannel) -> None:
    """The ledger has the same time for all, also for those who look before the repeat."""
    channel.line = lines(LOST)
    begin(desk, channel)
    await desk.tell(*map(str, range(20)))
    await desk.quiet()
    assert len({record.not_before for record in await desk.records()}) == 1


@pytest.mark.parametrize("answered", [True, False], ids=["timed out", "not answered"])
async def test_bulk_survives_a_kill_as_it_was(desk: Desk, channel: KeyedChannel, answered: bool) -> None:
    """A restart repeats the request, though more was committed in between."""
    channel.line = lines(LOST if answered else None)
    channel.gate = channel.gate if answered else type(channel.gate)()
    ids = await desk.tell(*map(str, range(20)))
    begin(desk, channel)
    await desk.until(lambda: channel.sent)
    if answered:
        await desk.quiet()
    await desk.stop()
    channel.gate.set()
    more = await desk.tell("more", "and more")
    begin(desk, channel)
    await settle_down(desk)
    await desk.delivered(*ids, *more)
    assert channel.requests == [ids, ids, more] or channel.requests == [ids, more, ids]
    once(channel, [*ids, *more])


async def test_nothing_is_sent_before_the_ledger_has_the_bulk(desk: Desk, channel: KeyedChannel) -> None:
    """A ledger that cannot be written holds the request back, without an attempt."""
    full = True

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(desk.ledger, name)

        async def bind(self, requests: Sequence[Sequence[int]]) -> None:
            if full:
                raise LedgerError("the disk is full", LedgerReason.FULL)
            await desk.ledger.bind(requests)

    ledger: Ledger = Full()  # type: ignore[assignment]
    begin(desk, channel, ledger=ledger)
    ids = await desk.tell("1", "2")
    await desk.advance(1)
    assert channel.sent == []
    assert {record.attempts for record in await desk.records()} == {0}
    full = False
    await settle_down(desk)
    await desk.delivered(*ids)


async def test_single_without_answer_is_repeated_alone(desk: Desk, channel: KeyedChannel) -> None:
    """Its own id is its key: among others it would have another one."""
    channel.line = lines(LOST)
    begin(desk, channel)
    [alone] = await desk.tell("alone")
    await desk.quiet()
    await desk.stop()
    others = await desk.tell("1", "2", "3")
    begin(desk, channel)
    await settle_down(desk)
    await desk.delivered(alone, *others)
    assert channel.requests.count([alone]) == 2
    once(channel, [alone, *others])


async def test_single_goes_alone_after_a_kill(desk: Desk, channel: KeyedChannel) -> None:
    """The ledger has it before it is sent: among others it would have another key."""
    channel.gate.clear()
    begin(desk, channel)
    [alone] = await desk.tell("alone")
    await desk.until(lambda: channel.sent)
    await desk.stop()
    channel.gate.set()
    others = await desk.tell("1", "2", "3")
    begin(desk, channel)
    await settle_down(desk)
    await desk.delivered(alone, *others)
    once(channel, [alone, *others])


async def test_rate_limit_frees_what_was_never_accepted(desk: Desk, channel: KeyedChannel) -> None:
    """A 429 is a known outcome: the members may go in any other request."""
    channel.line = lines(LIMITED)
    begin(desk, channel)
    await desk.tell("1", "2")
    await desk.quiet()
    assert await bound(desk) == []


@pytest.mark.parametrize("answer", [LIMITED, REFUSED], ids=["429", "401"])
async def test_refused_repeat_says_nothing_of_the_first(desk: Desk, channel: KeyedChannel, answer: Result) -> None:
    """The receiver may have accepted the first request; a repeat that it did not look at changes nothing."""
    channel.line = lines(LOST, answer, answer)
    begin(desk, channel, max_attempts=None)
    ids = await desk.tell("1", "2", "3")
    await desk.advance(2)
    more = await desk.tell("4")
    await settle_down(desk)
    await desk.delivered(*ids, *more)
    assert channel.requests.count(ids) >= 3
    once(channel, [*ids, *more])


async def test_answers_per_event_free_the_rest(desk: Desk, channel: KeyedChannel) -> None:
    """One of many that is refused inside an accepted request is a dead letter; nothing is repeated."""
    ids = await desk.tell(*map(str, range(10)))
    bad = Rejected(Reason.NOT_PROCESSED, "no such workflow")
    channel.each = lambda id_: bad if id_ == ids[3] else None
    begin(desk, channel)
    await settle_down(desk)
    await desk.delivered(*ids[:3], *ids[4:])
    assert (await desk.record(ids[3])).status is Status.DEAD
    assert channel.requests == [ids]
    assert await bound(desk) == []


async def test_rejected_bulk_is_divided_and_never_repeated(desk: Desk, channel: KeyedChannel) -> None:
    """The parts have keys of their own; a part without an answer is repeated as that part."""
    ids = await desk.tell(*map(str, range(8)))
    channel.receiver.refuses = lambda sent: Rejected(Reason.REJECTED, "400") if ids[5] in sent else None
    channel.line = lines(None, LOST)
    begin(desk, channel, concurrency=1)
    await settle_down(desk)
    await desk.delivered(*ids[:5], *ids[6:])
    assert (await desk.record(ids[5])).status is Status.DEAD
    once(channel, [*ids[:5], *ids[6:]])
    assert channel.requests.count(ids) == 1
    assert channel.requests.count(ids[:4]) == 2


async def test_parts_of_a_rejected_bulk_survive_a_kill(desk: Desk, channel: KeyedChannel) -> None:
    """The bulk that was rejected does not come back with the process."""
    ids = await desk.tell(*map(str, range(8)))
    channel.receiver.refuses = lambda sent: LARGE if len(sent) > 4 else None

    def hold_the_second() -> None:
        if len(channel.sent) == 2:
            channel.gate.clear()

    channel.line = hold_the_second
    begin(desk, channel, concurrency=1)
    await desk.until(lambda: len(channel.sent) == 2)
    await desk.stop()
    channel.gate.set()
    begin(desk, channel)
    await settle_down(desk)
    await desk.delivered(*ids)
    once(channel, ids)
    assert channel.requests.count(ids) == 1


async def test_person_retries_a_rejected_one_under_another_key(desk: Desk, channel: KeyedChannel) -> None:
    """A receiver that keeps answers would repeat its error under the old key."""
    ids = await desk.tell("1", "2")
    channel.receiver.refuses = lambda _sent: Rejected(Reason.NOT_FOUND, "404")
    begin(desk, channel)
    await desk.advance(1)
    assert {record.status for record in await desk.records()} == {Status.DEAD}
    channel.receiver.refuses = lambda _sent: None
    assert await desk.ledger.retry(ids) == 2
    desk.dispatchers[0].rescan()
    await settle_down(desk)
    await desk.delivered(*ids)
    once(channel, ids)


async def test_bulk_is_given_up_as_a_whole_and_comes_back_as_one(desk: Desk, channel: KeyedChannel) -> None:
    """The youngest member decides; a person's retry makes the same request under the same key."""
    [first] = await desk.tell("old")
    desk.clock.advance(50)
    [second] = await desk.tell("young")
    channel.line = lambda: LOST
    begin(desk, channel, max_attempts=None, max_age=100.0)
    await desk.advance(60)
    assert {record.status for record in await desk.records()} == {Status.PENDING}
    await settle_down(desk, 300)
    assert {record.reason for record in await desk.records()} == {"expired"}
    channel.line = lambda: None
    await desk.ledger.retry([second, first])
    other = await desk.tell("other")
    desk.dispatchers[0].rescan()
    await settle_down(desk)
    await desk.delivered(first, second, *other)
    assert len({key for key, sent in channel.sent if sent == [first, second]}) == 1
    once(channel, [first, second, *other])


async def test_dropped_member_makes_the_rest_another_request(desk: Desk, channel: KeyedChannel) -> None:
    """What is left has other bytes, and so another key."""
    channel.line = lines(LOST)
    channel.arrives = False
    begin(desk, channel)
    ids = await desk.tell("1", "2", "3")
    await desk.quiet()
    await desk.ledger.drop([ids[1]])
    desk.dispatchers[0].rescan()
    await settle_down(desk)
    await desk.delivered(ids[0], ids[2])
    assert channel.requests == [ids, [ids[0], ids[2]]]
    assert channel.keys[0] != channel.keys[1]
    once(channel, [ids[0], ids[2]])


async def test_drop_while_a_bulk_is_under_way_sends_the_rest(desk: Desk, channel: KeyedChannel) -> None:
    """The bulk is read from the ledger again once its answer is there."""
    channel.line = lines(LOST)
    channel.arrives = False
    channel.gate.clear()
    begin(desk, channel)
    ids = await desk.tell("1", "2", "3")
    await desk.until(lambda: channel.sent)
    await desk.ledger.drop([ids[0]])
    desk.dispatchers[0].rescan()
    channel.gate.set()
    await settle_down(desk)
    await desk.delivered(*ids[1:])
    assert channel.requests == [ids, ids[1:]]


async def test_next_of_an_episode_waits_for_an_unanswered_bulk(desk: Desk, channel: KeyedChannel) -> None:
    """Order within an episode holds, across a restart too."""
    channel.line = lines(LOST)
    begin(desk, channel)
    firsts = await desk.tell("1", "2")
    await desk.quiet()
    kinds = [transition(key, Kind.RESOLVED, at=2000, started_at=1000) for key in ("1", "2")]
    lasts = [one.id for one in await desk.ledger.commit(commit(kinds))]
    await desk.stop()
    begin(desk, channel)
    await settle_down(desk)
    await desk.delivered(*firsts, *lasts)
    assert channel.requests[:2] == [firsts, firsts]
    once(channel, [*firsts, *lasts])


async def test_smaller_batches_divide_what_was_bound_before(desk: Desk, channel: KeyedChannel) -> None:
    """After a change of the configuration the old request cannot be made any more."""
    channel.line = lines(LOST)
    channel.arrives = False
    begin(desk, channel)
    ids = await desk.tell(*map(str, range(6)))
    await desk.quiet()
    await desk.stop()
    channel.most = 4
    begin(desk, channel)
    await settle_down(desk)
    await desk.delivered(*ids)
    assert channel.requests == [ids, ids[:4], ids[4:]]
    assert await bound(desk) == []


def test_reasons_that_leave_the_outcome_open() -> None:
    """Only what a receiver says before it looks at a request is no acceptance for sure."""
    known = {reason for reason in Reason if not Retry(reason).unknown}
    assert known == {Reason.RATE_LIMITED, Reason.TOO_EARLY}
