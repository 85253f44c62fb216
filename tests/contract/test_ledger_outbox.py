"""The outbox of any ledger: claiming, settling, listing and merging. See test_ledger_machine.py too."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from support.clock import Clock
from support.ledger import commit, delivered, fired, firing, record, sendable, settlement, transition
from tocsin.ledger.base import MOST_MERGED, Filter, Ledger, Status
from tocsin.model import Address, Kind, Notification


async def test_due_retries_and_new_ones_share_a_page(ledger: Ledger, clock: Clock) -> None:
    """Neither holds back the other, however many there are."""
    old = await fired(ledger, *(f"old {number}" for number in range(20)))
    await ledger.settle([settlement(one, Status.PENDING, not_before=clock.now + 1) for one in old])
    await fired(ledger, *(f"new {number}" for number in range(20)))
    clock.advance(1)
    heads = (await ledger.claim("hook", 10)).heads
    assert sorted(head.attempts for head in heads) == [0] * 5 + [1] * 5


async def test_late_settlement_changes_nothing(ledger: Ledger) -> None:
    (notification,) = await fired(ledger, "1")
    assert await ledger.drop([notification.id]) == 1
    before = await record(ledger, notification)
    await ledger.settle([delivered(notification), settlement(notification._replace(seq=4711), Status.DEAD)])
    assert await record(ledger, notification) == before


async def test_next_waits_for_what_is_dropped_while_it_is_sent(ledger: Ledger) -> None:
    """It may still arrive."""
    [first] = await ledger.commit(commit([transition()]))
    assert (await ledger.claim("hook", 10)).heads == [first]
    [second] = await ledger.commit(commit([transition(kind=Kind.UPDATED, at=1005, started_at=1000)]))
    assert await ledger.drop([first.id]) == 1
    assert not (await ledger.claim("hook", 10)).heads
    await ledger.settle([delivered(first)])
    assert (await ledger.claim("hook", 10)).heads == [second]


async def test_dropped_and_retried_one_is_sent_at_once(ledger: Ledger, clock: Clock) -> None:
    """Whenever its next attempt was due, as after a clock that was set back."""
    (notification,) = await fired(ledger, "1")
    await ledger.claim("hook", 10)
    await ledger.settle([settlement(notification, Status.PENDING, not_before=clock.now + 18_000)])
    assert not (await ledger.claim("hook", 10)).heads
    assert await ledger.drop([notification.id]) == 1
    assert await ledger.retry([notification.id]) == 1
    assert [one.id for one in (await ledger.claim("hook", 10)).heads] == [notification.id]


async def test_repeated_settlement_is_one_attempt(ledger: Ledger, clock: Clock) -> None:
    """A dispatcher that was stopped while it wrote cannot know whether that succeeded, and writes again."""
    (notification,) = await fired(ledger, "1")
    failed = settlement(notification, Status.PENDING, at=clock.now)
    await ledger.settle([failed])
    await ledger.settle([failed])
    assert len(await ledger.attempts(notification.id)) == (await record(ledger, notification)).attempts == 1


async def test_attempts_that_never_ended_are_counted(ledger: Ledger, clock: Clock) -> None:
    """An attempt that ended is no reason for doubt; nor is one before an operator's retry."""
    (notification,) = await fired(ledger, "1")
    id_ = notification.id
    assert await ledger.begin(id_) == 0
    await ledger.end(id_)
    assert [await ledger.begin(id_) for _ in range(3)] == [0, 1, 2]
    assert [one.reason for one in await ledger.attempts(id_)] == ["unfinished"] * 3
    await ledger.end(id_)
    assert await ledger.begin(id_) == 2
    clock.advance(-3600)  # set back; what happened counts all the same
    assert await ledger.begin(id_) == 3
    await ledger.settle([settlement(notification, Status.DEAD, at=clock.now)])
    await ledger.retry([id_])
    assert await ledger.begin(id_) == 0


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


async def test_records_are_found_by_any_filter(ledger: Ledger) -> None:
    notifications = await fired(ledger, *"1234", to=("hook", "mail"))
    await ledger.commit(commit([transition("9", alert="early")], alert="early"))
    await ledger.settle([settlement(notifications[0], Status.DEAD, reason="rejected")])
    seqs = [one.seq for one in await ledger.find(Filter())]
    assert seqs == sorted(seqs, reverse=True)
    assert len(seqs) == 9
    assert len(await ledger.find(Filter(channel="mail"))) == 4
    assert len(await ledger.find(Filter(alert="early"))) == 1
    assert [one.id for one in await ledger.find(Filter(status=Status.DEAD))] == [notifications[0].id]
    assert [one.id for one in await ledger.find(Filter(reason="rejected"))] == [notifications[0].id]
    of_key = await ledger.find(Filter(fingerprint=notifications[0].transition.fingerprint))
    assert {one.id for one in of_key} == {notifications[0].id, notifications[1].id}
    assert [one.id for one in await ledger.find(Filter(id=notifications[3].id))] == [notifications[3].id]
    assert [one.seq for one in await ledger.find(Filter(before=seqs[3], limit=2))] == seqs[4:6]
    assert await ledger.find(Filter(channel="mail", alert="early")) == []


async def test_episode_that_fires_is_not_pruned(ledger: Ledger, clock: Clock) -> None:
    first = await ledger.commit(commit([transition()], saved=[firing()]))
    old = await ledger.commit(commit([transition(at=500)]))
    await ledger.settle([delivered(one, at=clock.now) for one in [*first, *old]])
    assert await ledger.prune(clock.now + 1, 100) == 1
    assert [one.id for one in await ledger.find(Filter())] == [first[0].id]
    await ledger.commit(commit(gone=[firing().fingerprint]))
    assert await ledger.prune(clock.now + 1, 100) == 1


# Requests whose outcome is unknown. Most of it is in unit/test_dispatcher_requests.py.


async def repeats(ledger: Ledger, channel: str = "hook") -> list[list[str]]:
    """The ids of the requests that are claimed."""
    return [[one.id for one in members] for members in (await ledger.claim(channel, 1000)).repeats]


async def bound(ledger: Ledger, *members: Notification, status: Status | None = None) -> None:
    """Bind notifications to one request, and settle it if `status` is given."""
    await ledger.bind([[one.seq for one in members]])
    await ledger.settle([settlement(one, status, repeat=True) for one in members if status])


async def test_channels_repeat_their_own_requests(ledger: Ledger) -> None:
    one, two = await fired(ledger, "1", to=("hook", "mail"))
    await ledger.bind([[one.seq], [two.seq]])
    assert (await repeats(ledger), await repeats(ledger, "mail")) == ([[one.id]], [[two.id]])


@pytest.mark.parametrize("repeat", [True, False])
async def test_request_is_repeated_only_if_its_outcome_is_unknown(ledger: Ledger, *, repeat: bool) -> None:
    written = await fired(ledger, "1", "2")
    seqs = [one.seq for one in written]
    await ledger.claim("hook", 10)
    await ledger.bind([seqs])
    await ledger.settle([settlement(one, Status.PENDING, repeat=repeat) for one in written])
    found = await ledger.claim("hook", 10)
    assert [one.seq for one in found.heads] == ([] if repeat else seqs)
    assert [[one.seq for one in members] for members in found.repeats] == ([seqs] if repeat else [])


async def test_dropped_member_leaves_request_for_good(ledger: Ledger) -> None:
    """A later retry treats it as an ordinary notification."""
    one, two, three = await fired(ledger, "1", "2", "3")
    await bound(ledger, one, two, three)
    await ledger.drop([one.id])
    await ledger.retry([one.id])
    assert await repeats(ledger) == [[two.id, three.id]]


async def test_request_waits_for_claimed_member(ledger: Ledger) -> None:
    """A retried member may have the ordering key of a notification that is being sent."""
    one, two = await fired(ledger, "1", "2")
    await bound(ledger, one, two, status=Status.DEAD)
    [later] = await fired(ledger, "1", at=2000)
    assert (await ledger.claim("hook", 10)).heads == [later]
    await ledger.retry([one.id, two.id])
    assert await repeats(ledger) == []
    await ledger.settle([delivered(later)])
    assert await repeats(ledger) == [[one.id, two.id]]


async def test_retried_one_goes_before_a_later_one_of_its_key(ledger: Ledger) -> None:
    """Which was committed meanwhile, and is not sent yet."""
    [first] = await fired(ledger, "1")
    await ledger.claim("hook", 10)
    await ledger.settle([settlement(first, Status.DEAD)])
    assert not (await ledger.claim("hook", 10)).heads
    [later] = await fired(ledger, "1", at=2000)
    await ledger.retry([first.id])
    assert [one.id for one in (await ledger.claim("hook", 10)).heads] == [first.id]
    await ledger.settle([delivered(first)])
    assert (await ledger.claim("hook", 10)).heads == [later]


async def test_retried_request_goes_before_a_later_one_of_its_key(ledger: Ledger) -> None:
    one, two = await fired(ledger, "1", "2")
    await bound(ledger, one, two, status=Status.DEAD)
    assert not (await ledger.claim("hook", 10)).heads
    [later] = await fired(ledger, "1", at=2000)
    await ledger.retry([one.id, two.id])
    assert await repeats(ledger) == [[one.id, two.id]]
    await ledger.settle([delivered(one), delivered(two)])
    assert (await ledger.claim("hook", 10)).heads == [later]


async def test_retry_changes_key_after_final_error_only(ledger: Ledger) -> None:
    """A receiver may have stored a final error under the key, and may have accepted the others."""
    reasons = ["rejected", "too_large", "not_processed", "exhausted", "expired"]
    notifications = await fired(ledger, *reasons)
    dead = [settlement(one, Status.DEAD, reason=why) for one, why in zip(notifications, reasons, strict=True)]
    await ledger.settle(dead)
    await ledger.retry([one.id for one in notifications])
    assert [one.generation for one in (await ledger.claim("hook", 10)).heads] == [1, 1, 1, 0, 0]


# Merged notifications: windows, digests and their parts. More is in unit/test_dispatcher_digests.py.

GROUP = Address(channel="hook", ordering_key="group", interval=30.0)


async def grouped(ledger: Ledger, *keys: str, address: Address = GROUP) -> list[Notification]:
    return await ledger.commit(replace(commit(), transitions=[(transition(key), [address]) for key in keys]))


async def alone(ledger: Ledger) -> None:
    """Deliver the first of the group, which opens a window."""
    [first] = await grouped(ledger, "alone")
    await ledger.settle([delivered(first)])


def keys(notifications: Sequence[Notification]) -> list[str | None]:
    return [notification.transition.row[0] for notification in notifications]


async def test_sending_a_digest_opens_next_window(ledger: Ledger, clock: Clock) -> None:
    _, second = await grouped(ledger, "1", "2")
    clock.advance(40)  # the channel was busy
    before = await ledger.digest(second)
    [third] = await grouped(ledger, "3", "4")
    assert third.not_before == clock.now + 30
    assert await ledger.digest(second) == before
    clock.advance(61)
    await ledger.digest(third)
    clock.advance(31)
    [fourth] = await grouped(ledger, "5")
    assert (fourth.digest, fourth.not_before) == (None, 0.0)


async def test_line_is_what_waits_of_an_ordering_key(ledger: Ledger, clock: Clock) -> None:
    assert (await ledger.line("hook", GROUP.ordering_key)).due is None
    first, second = await grouped(ledger, "1", "2", "3")
    line = await ledger.line("hook", GROUP.ordering_key)
    assert [one.id for one in line.first][:2] == [first.id, second.id]
    assert (line.count, line.due) == (3, second.not_before)
    assert line.first[1].notification == second
    await ledger.settle([delivered(first)])
    assert (await ledger.line("hook", GROUP.ordering_key)).count == 2
    assert (await ledger.line("mail", GROUP.ordering_key)).count == 0


async def test_keys_and_channels_have_windows_of_their_own(ledger: Ledger) -> None:
    elsewhere = [replace(GROUP, ordering_key="other"), replace(GROUP, channel="mail"), Address(channel="hook")]
    await grouped(ledger, "1")
    for number, address in enumerate(elsewhere):
        [offered] = await grouped(ledger, f"other {number}", address=address)
        assert (offered.digest, offered.not_before) == (None, 0.0)


async def test_next_heads_digest_when_first_is_dropped(ledger: Ledger, clock: Clock) -> None:
    await alone(ledger)
    [second] = await grouped(ledger, "2", "3", "4")
    await ledger.drop([second.id])
    clock.advance(31)
    [third] = await sendable(ledger)
    assert keys(await ledger.digest(third)) == ["3", "4"]


async def test_dropped_digest_begins_again_in_same_window(ledger: Ledger) -> None:
    _, second = await grouped(ledger, "1", "2", "3")
    await ledger.drop([one.id for one in await ledger.find(Filter(status=Status.PENDING))])
    [fourth] = await grouped(ledger, "4")
    assert fourth.not_before == second.not_before
    assert keys(await ledger.digest(fourth)) == ["4"]


async def test_settled_member_leaves_the_digest(ledger: Ledger, clock: Clock) -> None:
    await alone(ledger)
    [second] = await grouped(ledger, "2", "3")
    [_, third] = await ledger.digest(second)
    await ledger.settle([delivered(second), settlement(third, Status.PENDING, not_before=99.0)])
    assert keys(await ledger.digest(third)) == ["3"]
    assert keys(await sendable(ledger)) == ["3"]


async def test_long_digest_is_sent_in_parts(ledger: Ledger, clock: Clock) -> None:
    await alone(ledger)
    names = [str(number) for number in range(MOST_MERGED + 3)]
    [first] = await grouped(ledger, *names)
    part = await ledger.digest(first)
    assert keys(part) == names[:MOST_MERGED]
    await ledger.settle([delivered(one) for one in part])
    clock.advance(31)
    [rest] = await sendable(ledger)
    assert keys(await ledger.digest(rest)) == names[MOST_MERGED:]


async def test_known_notification_opens_no_window(ledger: Ledger, clock: Clock) -> None:
    await grouped(ledger, "1")
    clock.advance(31)
    assert await grouped(ledger, "1", "1") == []
    [second] = await grouped(ledger, "2")
    assert second.digest is None


async def test_maintenance_keeps_windows_with_a_digest(ledger: Ledger, clock: Clock) -> None:
    _, second = await grouped(ledger, "1", "2")
    clock.advance(3600)
    await ledger.prune(0.0, 10)
    assert await grouped(ledger, "3") == []
    assert keys(await ledger.digest(second)) == ["2", "3"]


async def test_waiting_for_a_window_does_not_make_old(ledger: Ledger, clock: Clock) -> None:
    first, second = await grouped(ledger, "1", "2")
    await ledger.settle([delivered(first)])
    clock.advance(20)
    backlog = (await ledger.backlog())["hook"]
    assert (backlog.pending, backlog.oldest) == (1, second.not_before)
    await ledger.settle([settlement(second, Status.PENDING, not_before=clock.now + 500)])
    assert (await ledger.backlog())["hook"].oldest == second.created_at


async def test_retry_of_part_excludes_other_parts(ledger: Ledger) -> None:
    """Dead letters of a digest that was split do not become the digest that was too large."""
    await alone(ledger)
    [first] = await grouped(ledger, "1", "2", "3", "4")
    members = await ledger.digest(first)
    await ledger.split_digest(first, members[2].seq, refused=True)
    await ledger.settle([settlement(one, Status.DEAD) for one in members])
    assert await ledger.retry([one.id for one in members]) == 4
    [head] = await sendable(ledger)
    part = await ledger.digest(head)
    assert keys(part) == ["1", "2"]
    await ledger.settle([delivered(one) for one in part])
    [rest] = await sendable(ledger)
    assert keys(await ledger.digest(rest)) == ["3", "4"]
