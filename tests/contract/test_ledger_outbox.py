"""The outbox of any ledger: claiming, settling, listing and pruning."""

from dataclasses import replace

import pytest

from support.clock import Clock
from support.ledger import commit, delivered, fired, firing, record, sendable, settlement, transition
from tocsin.ledger.base import Backlog, Filter, Ledger, Status
from tocsin.model import Kind


async def test_claims_come_in_pages_in_order(ledger: Ledger) -> None:
    notifications = await fired(ledger, *(str(number) for number in range(7)))
    await fired(ledger, "other", to=("mail",))
    claims = [await ledger.claim("hook", 3) for _ in range(3)]
    assert [len(found.heads) for found in claims] == [3, 3, 1]
    assert [one for found in claims for one in found.heads] == notifications
    assert [found.more for found in claims] == [True, True, False]


async def test_claimed_notification_is_not_claimed_again(ledger: Ledger, clock: Clock) -> None:
    """Until it is settled or released, or its process has ended. The next one of its ordering key waits too."""
    one, two, three = await fired(ledger, "1", "2", "3")
    [updated] = await ledger.commit(commit([transition("1", Kind.UPDATED, at=1005, started_at=1000)]))
    assert (await ledger.claim("hook", 10)).heads == [one, two, three]
    assert (await ledger.claim("hook", 10)).heads == []
    await ledger.release([two])
    assert (await ledger.claim("hook", 10)).heads == [two]
    await ledger.settle([delivered(one), settlement(three, Status.PENDING, not_before=clock.now + 5)])
    found = await ledger.claim("hook", 10)
    assert (found.heads, found.next_at) == ([updated], clock.now + 5)
    await ledger.recover("hook", clock.now, clock.now + 2)
    assert (await ledger.claim("hook", 10)).heads == []
    clock.advance(2)
    assert (await ledger.claim("hook", 10)).heads == [two, updated]


async def test_ordering_key_is_sent_in_order(ledger: Ledger, clock: Clock) -> None:
    """A failed notification holds back what follows it; a dead, dropped or delivered one does not."""
    kinds = [Kind.FIRED, Kind.UPDATED, Kind.UPDATED, Kind.RESOLVED]
    transitions = [transition("1", kind, at=1000 + at, started_at=1000) for at, kind in enumerate(kinds)]
    one, two, three, four = await ledger.commit(commit(transitions))
    await ledger.settle([settlement(one, Status.PENDING, not_before=clock.now + 5)])
    assert await sendable(ledger) == []
    clock.advance(5)
    assert await sendable(ledger) == [one._replace(attempts=1, not_before=clock.now)]
    await ledger.settle([settlement(one, Status.DEAD)])
    assert await sendable(ledger) == [two]
    await ledger.drop([two.id])
    assert await sendable(ledger) == [three]
    await ledger.settle([delivered(three)])
    assert await sendable(ledger) == [four]
    await ledger.retry([one.id])
    assert [head.id for head in await sendable(ledger)] == [one.id]
    await ledger.settle([settlement(one, Status.PENDING, not_before=clock.now + 5)])
    assert await sendable(ledger) == []


async def test_released_key_does_not_hold_back_others(ledger: Ledger, clock: Clock) -> None:
    transitions = [transition("1", at=1000), transition("1", at=2000)]
    one, two = await ledger.commit(commit(transitions))
    await ledger.settle([replace(settlement(one, Status.PENDING, not_before=clock.now + 5), release_key=True)])
    assert await sendable(ledger) == [two]
    clock.advance(5)
    assert {head.id for head in await sendable(ledger)} == {one.id, two.id}


async def test_due_retries_and_new_ones_share_a_page(ledger: Ledger, clock: Clock) -> None:
    """Neither holds back the other, however many there are."""
    old = await fired(ledger, *(f"old {number}" for number in range(20)))
    await ledger.settle([settlement(one, Status.PENDING, not_before=clock.now + 1) for one in old])
    await fired(ledger, *(f"new {number}" for number in range(20)))
    clock.advance(1)
    heads = (await ledger.claim("hook", 10)).heads
    assert sorted(head.attempts for head in heads) == [0] * 5 + [1] * 5


@pytest.mark.parametrize("status", [Status.PENDING, Status.DELIVERED, Status.DEAD])
async def test_outcome_of_an_attempt_is_kept(ledger: Ledger, clock: Clock, status: Status) -> None:
    notification, other = await fired(ledger, "1", "2")
    await ledger.settle([settlement(notification, status, at=clock.now, not_before=clock.now + 60)])
    assert await sendable(ledger) == [other]
    found = await record(ledger, notification)
    settled_at = None if status is Status.PENDING else clock.now
    assert (found.status, found.attempts, found.settled_at) == (status, 1, settled_at)
    assert (found.reason, found.detail) == (("", "") if status is Status.DELIVERED else ("timeout", "no answer"))


async def test_late_settlement_changes_nothing(ledger: Ledger) -> None:
    (notification,) = await fired(ledger, "1")
    assert await ledger.drop([notification.id]) == 1
    before = await record(ledger, notification)
    await ledger.settle([delivered(notification), settlement(notification._replace(seq=4711), Status.DEAD)])
    assert await record(ledger, notification) == before


async def test_repeated_settlement_is_one_attempt(ledger: Ledger, clock: Clock) -> None:
    """A dispatcher that was stopped while it wrote cannot know whether that succeeded, and writes again."""
    (notification,) = await fired(ledger, "1")
    failed = settlement(notification, Status.PENDING, at=clock.now)
    await ledger.settle([failed])
    await ledger.settle([failed])
    assert len(await ledger.attempts(notification.id)) == (await record(ledger, notification)).attempts == 1


async def test_retry_makes_dead_letters_pending(ledger: Ledger, clock: Clock) -> None:
    dead, dropped, sent, waiting = await fired(ledger, "1", "2", "3", "4")
    await ledger.settle([settlement(dead, Status.DEAD, at=clock.now), delivered(sent)])
    await ledger.drop([dropped.id])
    clock.advance(1000)
    assert await ledger.retry([dead.id, dropped.id, sent.id, waiting.id, "unknown"]) == 2
    fresh = [one._replace(created_at=clock.now) for one in (dead, dropped)]
    assert await sendable(ledger) == [*fresh, waiting]
    assert (await record(ledger, dead)).settled_at is None


async def test_only_dead_and_pending_are_dropped(ledger: Ledger, clock: Clock) -> None:
    dead, sent, waiting = await fired(ledger, "1", "2", "3")
    await ledger.settle([settlement(dead, Status.DEAD), delivered(sent)])
    clock.advance(5)
    assert await ledger.drop([dead.id, sent.id, waiting.id, "unknown"]) == 2
    assert await sendable(ledger) == []
    found = {one.id: one for one in await ledger.find(Filter(status=Status.DROPPED))}
    assert found.keys() == {dead.id, waiting.id}
    assert {one.settled_at for one in found.values()} == {clock.now}


async def test_unrouted_notifications_become_dead_letters(ledger: Ledger) -> None:
    await fired(ledger, "1", to=("hook", "mail"))
    await fired(ledger, "2", to=('it\'s "gone"',))
    assert [await ledger.dead_letter_unrouted(["hook"]) for _ in range(2)] == [2, 0]
    assert len(await sendable(ledger)) == 1
    dead = await ledger.find(Filter(status=Status.DEAD))
    assert {(one.channel, one.reason) for one in dead} == {("mail", "unrouted"), ('it\'s "gone"', "unrouted")}
    assert all(one.detail for one in dead)
    assert await ledger.dead_letter_unrouted([]) == 1


async def test_previous_ids_are_of_episode_and_channel(ledger: Ledger) -> None:
    both = ("hook", "mail")
    fired = await ledger.commit(commit([transition(), transition("2")], to=both))
    updated = await ledger.commit(commit([transition(kind=Kind.UPDATED, at=1005, started_at=1000)], to=both))
    skipped = await ledger.commit(commit([transition(kind=Kind.UPDATED, at=1006, started_at=1000)]))
    (resolved,) = await ledger.commit(commit([transition(kind=Kind.RESOLVED, at=1007, started_at=1000)]))
    await ledger.settle([delivered(one) for one in [*fired, *updated]])
    await ledger.settle([settlement(skipped[0], Status.DEAD)])
    (again,) = await ledger.commit(commit([transition(at=2000)]))
    assert await ledger.previous_ids(resolved) == (fired[0].id, updated[0].id)
    assert await ledger.previous_ids(again) == ()


async def test_backlog_counts_pending_and_dead(ledger: Ledger, clock: Clock) -> None:
    assert await ledger.backlog() == {}
    first = clock.now
    one, two, three = await fired(ledger, "1", "2", "3")
    clock.advance(10)
    await fired(ledger, "4", to=("hook", "mail"))
    assert await ledger.backlog() == {
        "hook": Backlog(pending=4, oldest=first),
        "mail": Backlog(pending=1, oldest=first + 10),
    }
    await ledger.settle([delivered(one), delivered(two), settlement(three, Status.DEAD)])
    await ledger.drop([record.id for record in await ledger.find(Filter(channel="mail"))])
    assert await ledger.backlog() == {"hook": Backlog(pending=1, oldest=first + 10, dead=1)}


async def test_retry_keeps_age_of_backlog(ledger: Ledger, clock: Clock) -> None:
    first = clock.now
    dead, _ = await fired(ledger, "1", "2")
    await ledger.settle([settlement(dead, Status.DEAD)])
    clock.advance(100)
    await ledger.retry([dead.id])
    assert await ledger.backlog() == {"hook": Backlog(pending=2, oldest=first)}


async def test_records_are_found_by_any_filter(ledger: Ledger) -> None:
    notifications = await fired(ledger, *"1234", to=("hook", "mail"))
    await ledger.commit(commit([transition("9", alert="early")], alert="early"))
    await ledger.settle([settlement(notifications[0], Status.DEAD)])
    seqs = [one.seq for one in await ledger.find(Filter())]
    assert seqs == sorted(seqs, reverse=True)
    assert len(seqs) == 9
    assert len(await ledger.find(Filter(channel="mail"))) == 4
    assert len(await ledger.find(Filter(alert="early"))) == 1
    assert [one.id for one in await ledger.find(Filter(status=Status.DEAD))] == [notifications[0].id]
    assert [one.id for one in await ledger.find(Filter(id=notifications[3].id))] == [notifications[3].id]
    assert [one.seq for one in await ledger.find(Filter(before=seqs[3], limit=2))] == seqs[4:6]
    assert await ledger.find(Filter(channel="mail", alert="early")) == []


# Pruning.


async def test_only_old_settled_notifications_are_pruned(ledger: Ledger, clock: Clock) -> None:
    sent, dead, dropped, waiting, recent = await fired(ledger, *"12345")
    await ledger.settle([delivered(sent, at=clock.now), settlement(dead, Status.DEAD, at=clock.now)])
    await ledger.drop([dropped.id])
    clock.advance(100)
    await ledger.settle([delivered(recent, at=clock.now)])
    assert await ledger.prune(clock.now - 50, 100) == 2
    assert {one.id for one in await ledger.find(Filter())} == {dead.id, waiting.id, recent.id}
    assert await ledger.prune(clock.now - 50, 100) == 0


async def test_episode_that_fires_is_not_pruned(ledger: Ledger, clock: Clock) -> None:
    first = await ledger.commit(commit([transition()], saved=[firing()]))
    old = await ledger.commit(commit([transition(at=500)]))
    await ledger.settle([delivered(one, at=clock.now) for one in [*first, *old]])
    assert await ledger.prune(clock.now + 1, 100) == 1
    assert [one.id for one in await ledger.find(Filter())] == [first[0].id]
    await ledger.commit(commit(gone=[firing().fingerprint]))
    assert await ledger.prune(clock.now + 1, 100) == 1


async def test_pruning_is_limited_per_call(ledger: Ledger, clock: Clock) -> None:
    keys = [str(number) for number in range(10)]
    notifications = await ledger.commit(
        commit([transition(key) for key in keys], to=("hook", "mail"), saved=[firing(key) for key in keys[:5]])
    )
    await ledger.settle([delivered(one, at=clock.now) for one in notifications])
    assert [await ledger.prune(clock.now + 1, 4) for _ in range(4)] == [4, 4, 2, 0]
    assert len(await ledger.find(Filter())) == 10


async def test_transition_stays_with_its_notifications(ledger: Ledger, clock: Clock) -> None:
    hook, mail = await fired(ledger, "1", to=("hook", "mail"))
    await ledger.settle([delivered(hook, at=clock.now)])
    assert await ledger.prune(clock.now + 1, 100) == 1
    assert await sendable(ledger, "mail") == [mail]
