"""Silences of any ledger: what they hold, in which order it is sent at their end, and what is dropped then."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from support.clock import Clock
from support.ledger import OpenLedger, commit, delivered, fired, firing, record, sendable, settlement, transition
from tocsin.ledger.base import SILENCED, Filter, Ledger, Status
from tocsin.ledger.silencing import Judged
from tocsin.model import Address, Kind, Notification
from tocsin.silences import Silence, State, parse
from tocsin.silences.ending import came_and_went


def silence(clock: Clock, id_: str = "s", *, seconds: float = 60.0, matchers: str = "customer=A") -> Silence:
    return Silence(
        id=id_,
        matchers=parse(matchers),
        starts_at=clock.now,
        ends_at=clock.now + seconds,
        reason="the warehouse moves",
        by="Ann",
        created_at=clock.now,
    )


async def hold(ledger: Ledger, by: str = "s", channel: str = "hook") -> list[str]:
    """Hold everything that can be sent, until nothing can. Returns its ids, in order."""
    held = []
    while heads := (await ledger.claim(channel, 100)).heads:
        gone = await ledger.withhold(channel, Judged(held={head.seq: by for head in heads}, passing=()))
        assert gone == {head.seq for head in heads}
        held += [head.id for head in heads]
    return held


async def sent(ledger: Ledger, channel: str = "hook") -> list[str]:
    """Deliver everything that can be sent. Returns its ids, in order."""
    ids = []
    while heads := (await ledger.claim(channel, 100)).heads:
        await ledger.settle([delivered(head) for head in heads])
        ids += [head.id for head in heads]
    return ids


async def episode(ledger: Ledger, key: str, *kinds: Kind, at: int = 1000, start: int = 0) -> list[Notification]:
    """Commit transitions of one episode, while which the row fires until it is resolved."""
    begin = start or at
    found: list[Notification] = []
    for number, kind in enumerate(kinds):
        one = transition(key, kind, at=at + number, started_at=begin)
        saved = [] if kind is Kind.RESOLVED else [firing(key, started_at=begin)]
        gone = [one.fingerprint] if kind is Kind.RESOLVED else []
        found += await ledger.commit(commit([one], saved=saved, gone=gone))
    return found


def ids(notifications: Sequence[Notification]) -> list[str]:
    return [one.id for one in notifications]


async def test_held_notification_is_pending_for_people_only(ledger: Ledger, clock: Clock) -> None:
    await ledger.silence(silence(clock))
    [one] = await fired(ledger, "1")
    assert await hold(ledger) == [one.id]
    found = await record(ledger, one)
    assert (found.status, found.reason, found.silence) == (Status.PENDING, SILENCED, "s")
    assert found.detail == "by the silence s: the warehouse moves"
    assert [each.id for each in await ledger.find(Filter(status=Status.PENDING))] == [one.id]
    assert [each.id for each in await ledger.find(Filter(silence="s"))] == [one.id]
    [seen] = await ledger.episodes("late", 10)
    assert seen.deliveries == {("hook", Status.PENDING): 1}
    backlog = (await ledger.backlog())["hook"]
    assert (backlog.pending, backlog.oldest, backlog.silenced, backlog.oldest_silenced) == (0, None, 1, clock.now)
    assert await ledger.held() == {"s": {"hook": 1}}
    assert not (await ledger.claim("hook", 10)).heads


async def test_next_of_key_is_claimed_while_first_is_held(ledger: Ledger, clock: Clock) -> None:
    await ledger.silence(silence(clock))
    all_of_it = await episode(ledger, "1", Kind.FIRED, Kind.UPDATED, Kind.RESOLVED)
    assert await hold(ledger) == ids(all_of_it)


async def test_end_sends_rest_in_order_with_same_ids(ledger: Ledger, clock: Clock) -> None:
    before = await episode(ledger, "1", Kind.FIRED)
    assert await sent(ledger) == ids(before)
    await ledger.silence(silence(clock))
    meanwhile = await episode(ledger, "1", Kind.UPDATED, Kind.RESOLVED, at=1001, start=1000)
    again = await episode(ledger, "1", Kind.FIRED, at=2000)
    await hold(ledger)
    clock.advance(60)
    [closed] = await ledger.close_silences()
    assert (closed.id, closed.released, closed.dropped, closed.state(clock.now)) == ("s", 3, 0, State.EXPIRED)
    assert await sent(ledger) == ids([*meanwhile, *again])
    assert await ledger.close_silences() == []
    assert ledger.silences.all == []


async def test_what_came_and_went_is_dropped_with_reason(ledger: Ledger, clock: Clock) -> None:
    await ledger.silence(silence(clock))
    whole = await episode(ledger, "1", Kind.FIRED, Kind.UPDATED, Kind.RESOLVED)
    stays = await episode(ledger, "1", Kind.FIRED, Kind.UPDATED, at=2000)
    event = await ledger.commit(commit([transition("e", Kind.EVENT)]))
    await hold(ledger)
    repeated = await episode(ledger, "1", Kind.REPEATED, at=3000, start=2000)
    await hold(ledger)
    rows = [await ledger.held_of(some[0].transition.fingerprint) for some in (whole, event)]
    announced = [[one.seq for one in row if one.seq in came_and_went(row)] for row in rows]
    assert announced == [[one.seq for one in (*whole, *repeated)], [one.seq for one in event]]
    assert await ledger.end_silence("s")
    assert not await ledger.end_silence("s")
    [closed] = await ledger.close_silences()
    assert (closed.released, closed.dropped) == (2, 5)
    reasons = {one.id: (await record(ledger, one)) for one in [*whole, *event, *repeated]}
    assert {one.status for one in reasons.values()} == {Status.DROPPED}
    assert {one.detail for one in reasons.values()} == {
        "began and ended while it was silenced (s)",
        "an event while it was silenced (s)",
        "a reminder while it was silenced (s)",
    }
    assert await sent(ledger) == ids(stays)


async def test_row_that_left_without_a_resolved_is_dropped(ledger: Ledger, clock: Clock) -> None:
    """Of a channel that gets no `resolved`."""
    await ledger.silence(silence(clock))
    gone, stays = await episode(ledger, "1", Kind.FIRED), await episode(ledger, "2", Kind.FIRED)
    await hold(ledger)
    await ledger.commit(commit(gone=[gone[0].transition.fingerprint]))
    await ledger.end_silence("s")
    await ledger.close_silences()
    assert await sent(ledger) == ids(stays)
    assert (await record(ledger, gone[0])).status is Status.DROPPED


async def test_episode_under_two_silences_is_dropped_whole(ledger: Ledger, clock: Clock) -> None:
    """What is announced to none does not end for one."""
    await ledger.silence(silence(clock, "first", seconds=30))
    await ledger.silence(silence(clock, "second", seconds=90))
    await episode(ledger, "1", Kind.FIRED)
    await hold(ledger, "first")
    await episode(ledger, "1", Kind.RESOLVED, at=1001, start=1000)
    stays = await episode(ledger, "2", Kind.FIRED)
    await hold(ledger, "second")
    clock.advance(30)
    [closed] = await ledger.close_silences()
    assert (closed.id, closed.released, closed.dropped) == ("first", 0, 1)
    assert await ledger.held() == {"second": {"hook": 1}}
    clock.advance(60)
    [closed] = await ledger.close_silences()
    assert (closed.id, closed.released, closed.dropped) == ("second", 1, 1)
    assert await sent(ledger) == ids(stays)


async def test_later_notification_takes_held_ones_of_its_row_along(ledger: Ledger, clock: Clock) -> None:
    """A row changes so that the silence does not match any more: what goes before is not held again."""
    await ledger.silence(silence(clock))
    first = await episode(ledger, "1", Kind.FIRED)
    await fired(ledger, "2")
    await hold(ledger)
    changed = await episode(ledger, "1", Kind.UPDATED, at=1001, start=1000)
    [head] = (await ledger.claim("hook", 10)).heads
    assert head.id == changed[0].id
    assert await ledger.withhold("hook", Judged(held={}, passing=[head])) == {head.seq}
    [head] = (await ledger.claim("hook", 10)).heads
    assert (head.id, head.was_held, head.passes) == (first[0].id, True, True)
    await ledger.settle([delivered(head)])
    assert await sent(ledger) == ids(changed)
    assert await ledger.held() == {"s": {"hook": 1}}


async def test_held_earlier_of_other_rows_and_later_ones_stay(ledger: Ledger, clock: Clock) -> None:
    await ledger.silence(silence(clock))
    [one, two] = await fired(ledger, "1", "2")
    claimed = (await ledger.claim("hook", 10)).heads
    assert await ledger.withhold("hook", Judged(held={two.seq: "s"}, passing=claimed[:1])) == {two.seq}
    await ledger.settle([delivered(one)])
    assert await ledger.held() == {"s": {"hook": 1}}


async def test_closed_silence_holds_nothing_more(ledger: Ledger, clock: Clock) -> None:
    """Another process has closed it a moment ago."""
    await ledger.silence(silence(clock))
    [one] = await fired(ledger, "1")
    [head] = (await ledger.claim("hook", 10)).heads
    await ledger.end_silence("s")
    await ledger.close_silences()
    await ledger.withhold("hook", Judged(held={head.seq: "s"}, passing=()))
    assert await sent(ledger) == [one.id]
    assert (await record(ledger, one)).status is Status.DELIVERED


async def test_held_members_of_digest_are_one_message_later(ledger: Ledger, clock: Clock) -> None:
    await ledger.silence(silence(clock))
    group = Address(channel="hook", ordering_key="group", interval=10.0)
    keys = [(transition(key), [group]) for key in ("alone", "1", "2", "3", "4")]
    await ledger.commit(replace(commit(), transitions=keys))
    assert len(await sent(ledger)) == 1
    clock.advance(10)
    [head] = (await ledger.claim("hook", 10)).heads
    members = await ledger.digest(head)
    judged = Judged(held={members[0].seq: "s", members[2].seq: "s"}, passing=[members[1], members[3]])
    assert head.seq in await ledger.withhold("hook", judged)
    [rest] = (await ledger.claim("hook", 10)).heads
    assert ids(await ledger.digest(rest)) == ids([members[1], members[3]])
    await ledger.settle([delivered(one) for one in await ledger.digest(rest)])
    await ledger.commit(commit(saved=[firing(key) for key in "13"]))
    await ledger.end_silence("s")
    await ledger.close_silences()
    [late] = (await ledger.claim("hook", 10)).heads
    assert ids(await ledger.digest(late)) == ids([members[0], members[2]])


async def test_waiting_does_not_count_as_age(ledger: Ledger, clock: Clock) -> None:
    await ledger.silence(silence(clock))
    [one] = await episode(ledger, "1", Kind.FIRED)
    [head] = (await ledger.claim("hook", 10)).heads
    await ledger.settle([settlement(head, Status.PENDING, reason="connection")])
    await hold(ledger)
    clock.advance(60)
    await ledger.close_silences()
    [head] = await sendable(ledger)
    assert (head.id, head.attempts, head.created_at, head.was_held, head.passes) == (one.id, 1, clock.now, True, False)
    assert (await record(ledger, one)).reason == "connection"


async def test_operator_drops_and_retries_what_is_held(ledger: Ledger, clock: Clock) -> None:
    await ledger.silence(silence(clock))
    [one, two] = await fired(ledger, "1", "2")
    await hold(ledger)
    assert await ledger.retry([one.id]) == 0  # it is pending
    assert await ledger.drop([one.id]) == 1
    assert await ledger.retry([one.id]) == 1
    assert [head.id for head in await sendable(ledger)] == [one.id]
    assert await ledger.dead_letter_unrouted(["mail"]) == 2
    assert await ledger.held() == {}
    assert (await record(ledger, two)).reason == "unrouted"


async def test_silences_survive_and_are_pruned_with_history(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "again"
    ledger = await opener(path, clock=clock)
    made = silence(clock, matchers='"größe"=~"A.*|\\"", alertname!="x"')
    await ledger.silence(made)
    await fired(ledger, "1")
    await hold(ledger)
    await ledger.close()
    ledger = await opener(path, clock=clock)
    assert list(ledger.silences.all) == await ledger.list_silences() == [made]
    assert ledger.silences.active(clock.now) == (made,)
    clock.advance(60)
    assert ledger.silences.active(clock.now) == ()
    await ledger.close_silences()
    await ledger.prune(clock.now, 100)
    assert len(await ledger.list_silences()) == 1
    await ledger.prune(clock.now + 1, 100)
    assert await ledger.list_silences() == []
    await ledger.close()


async def test_silence_of_another_process_is_seen(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    ledger = await opener(tmp_path / "shared", clock=clock)
    command = await opener(tmp_path / "shared", clock=clock, runs_alerts=False)
    await ledger.changed_elsewhere()
    await command.silence(silence(clock))
    assert await ledger.changed_elsewhere()
    assert [one.id for one in ledger.silences.active(clock.now)] == ["s"]
    await command.end_silence("s")
    assert await ledger.changed_elsewhere()
    assert ledger.silences.due(clock.now)
    await command.close()
    await ledger.close()


async def test_what_may_have_been_sent_is_not_dropped(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    """A process was killed after the receiver had accepted a `fired`. Its `resolved` is not lost."""
    ledger = await opener(tmp_path / "killed", clock=clock)
    await ledger.silence(silence(clock))
    first = await episode(ledger, "1", Kind.FIRED)
    await ledger.claim("hook", 10)
    await ledger.close()  # with the claim
    clock.advance(1)
    ledger = await opener(tmp_path / "killed", clock=clock)
    await ledger.recover("hook", clock.now, 0.0)
    clock.advance(1)
    rest = await episode(ledger, "1", Kind.RESOLVED, at=1001, start=1000)
    whole = await episode(ledger, "2", Kind.FIRED, Kind.RESOLVED, at=2000)
    await hold(ledger)
    await ledger.end_silence("s")
    [closed] = await ledger.close_silences()
    assert (closed.released, closed.dropped) == (2, 2)
    assert await sent(ledger) == ids([*first, *rest])
    assert (await record(ledger, whole[0])).status is Status.DROPPED
    await ledger.close()


async def test_attempted_notification_is_not_dropped(ledger: Ledger, clock: Clock) -> None:
    """The receiver may have it although it did not answer."""
    await ledger.silence(silence(clock))
    first = await episode(ledger, "1", Kind.FIRED)
    [head] = (await ledger.claim("hook", 10)).heads
    await ledger.settle([settlement(head, Status.PENDING)])
    rest = await episode(ledger, "1", Kind.RESOLVED, at=1001, start=1000)
    await hold(ledger)
    await ledger.end_silence("s")
    await ledger.close_silences()
    assert await sent(ledger) == ids([*first, *rest])
