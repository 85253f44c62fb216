"""What every ledger keeps to, whatever it is made of."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from support.clock import Clock
from support.ledger import (
    COLUMNS,
    HOSTILE,
    OpenLedger,
    commit,
    delivered,
    firing,
    settlement,
    transition,
)
from tocsin.errors import LedgerError
from tocsin.firing import Phase
from tocsin.ledger import Backlog, Filter, Ledger, Record, Settlement, Status
from tocsin.model import Column, Kind, Notification, notification_id


async def pending(ledger: Ledger, channel: str = "hook") -> list[Notification]:
    return await ledger.pending(channel, 0, 1000)


async def record(ledger: Ledger, notification: Notification) -> Record:
    (found,) = await ledger.find(Filter(id=notification.id))
    return found


async def told(ledger: Ledger, *keys: str, **rest: str) -> list[Notification]:
    """One fired notification for each key."""
    return await ledger.commit(commit([transition(key) for key in keys], **rest))  # type: ignore[arg-type]


# Batches in.


async def test_an_alert_that_was_never_committed_is_unknown(ledger: Ledger) -> None:
    await ledger.commit(commit(alert="late"))
    assert await ledger.load("early") is None


async def test_what_was_committed_is_loaded_also_after_a_restart(
    opener: OpenLedger, tmp_path: Path, clock: Clock
) -> None:
    kept = [firing("1"), firing("2", phase=Phase.KEEPING), firing(None), firing("", started_at=999)]
    odd = replace(firing("3", phase=Phase.ABSENT), counts=((-2, ("3", "x")), (4, ("3", None))))
    ledger = opener(tmp_path / "ledger", clock=clock)
    await ledger.commit(commit(saved=[*kept, odd], frontier=2**53))
    for _ in range(2):
        stored = await ledger.load("late")
        assert stored is not None
        assert (stored.definition, stored.columns, stored.frontier) == ("definition of late", COLUMNS, 2**53)
        assert sorted(stored.firings, key=repr) == sorted([*kept, odd], key=repr)
        await ledger.close()
        ledger = opener(tmp_path / "ledger", clock=clock)
    await ledger.close()


async def test_a_frontier_that_is_not_known_stays_so(ledger: Ledger) -> None:
    await ledger.commit(commit(frontier=5))
    await ledger.commit(commit(frontier=None))
    stored = await ledger.load("late")
    assert stored is not None
    assert stored.frontier is None


async def test_firings_are_added_overwritten_and_deleted_one_by_one(ledger: Ledger) -> None:
    await ledger.commit(commit(saved=[firing("1"), firing("2"), firing("3")]))
    await ledger.commit(commit(saved=[firing("2", note="new")], gone=[firing("1").fingerprint, "unknown"]))
    stored = await ledger.load("late")
    assert stored is not None
    assert {one.row for one in stored.firings} == {("2", "new"), ("3", "x")}


async def test_alerts_do_not_touch_each_other(ledger: Ledger) -> None:
    await ledger.commit(commit(saved=[firing("1")]))
    await ledger.commit(commit(alert="early", saved=[firing("1", alert="early")], frontier=7))
    await ledger.commit(commit(alert="early", replace=True, frontier=8))
    late, early = await ledger.load("late"), await ledger.load("early")
    assert late is not None
    assert early is not None
    assert (late.frontier, len(late.firings)) == (1001, 1)
    assert (early.frontier, len(early.firings)) == (8, 0)


async def test_a_new_definition_replaces_every_firing(ledger: Ledger) -> None:
    await ledger.commit(commit(saved=[firing("1"), firing("2")]))
    await ledger.commit(commit(saved=[firing("3")], replace=True))
    stored = await ledger.load("late")
    assert stored is not None
    assert [one.row for one in stored.firings] == [("3", "x")]


async def test_a_commit_gives_one_notification_for_each_transition_and_channel_in_order(
    ledger: Ledger, clock: Clock
) -> None:
    batch = commit([transition("1"), transition("2")], to=("hook", "mail"))
    notifications = await ledger.commit(batch)
    expected = [(one, address.channel) for one, addresses in batch.transitions for address in addresses]
    assert [(one.transition, one.channel) for one in notifications] == expected
    assert [one.id for one in notifications] == [notification_id(*pair) for pair in expected]
    seqs = [one.seq for one in notifications]
    assert seqs == sorted(set(seqs))
    assert {(one.attempts, one.created_at, one.not_before) for one in notifications} == {(0, clock.now, 0.0)}
    assert await pending(ledger) == [one for one in notifications if one.channel == "hook"]


async def test_later_commits_have_greater_numbers_also_after_a_restart(opener: OpenLedger, tmp_path: Path) -> None:
    seen = 0
    for key in "123":
        ledger = opener(tmp_path / "ledger")
        (notification,) = await told(ledger, key)
        assert notification.seq > seen
        seen = notification.seq
        await ledger.close()


async def test_a_transition_that_goes_nowhere_makes_no_notification(ledger: Ledger) -> None:
    assert await ledger.commit(commit([transition()], to=())) == []
    assert await ledger.find(Filter()) == []


async def test_an_id_already_known_makes_no_second_notification(ledger: Ledger) -> None:
    first = await told(ledger, "1", "2")
    again = await told(ledger, "2", "3", "1")
    assert [one.transition.row[0] for one in again] == ["3"]
    assert await pending(ledger) == [*first, *again]


async def test_an_id_twice_in_one_commit_makes_one_notification(ledger: Ledger) -> None:
    assert len(await told(ledger, "1", "1")) == 1
    assert len(await pending(ledger)) == 1


async def test_an_id_already_delivered_is_not_told_again(ledger: Ledger) -> None:
    (first,) = await told(ledger, "1")
    await ledger.settle([delivered(first)])
    assert await told(ledger, "1") == []
    assert await pending(ledger) == []


async def test_old_rows_keep_their_columns_when_the_relation_changes(ledger: Ledger) -> None:
    wider = (*COLUMNS, Column(name="extra", oid=1700, typmod=655366))
    newer = replace(transition("2", columns=wider), row=("2", "x", "9.5"))
    await told(ledger, "1")
    await ledger.commit(commit([newer, transition("3")], columns=wider))
    stored = await ledger.load("late")
    assert stored is not None
    assert stored.columns == wider
    assert [one.transition.columns for one in await pending(ledger)] == [COLUMNS, wider, COLUMNS]
    assert [one.columns for one in await ledger.find(Filter())] == [COLUMNS, wider, COLUMNS]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
async def test_any_text_comes_back_as_it_was(opener: OpenLedger, tmp_path: Path, text: str) -> None:
    ledger = opener(tmp_path / "ledger")
    columns = (Column(name=text[:100], oid=25), Column(name="note", oid=25))
    one = transition(text, note=text, alert=text[:100], columns=columns, previous=(text, None))
    (notification,) = await ledger.commit(
        commit(
            [one], to=[text[:100]], alert=text[:100], saved=[firing(text, alert=text[:100], note=text)], columns=columns
        )
    )
    await ledger.settle([replace(settlement(notification, Status.DEAD), detail=text)])
    assert await ledger.retry([notification.id]) == 1
    await ledger.close()
    ledger = opener(tmp_path / "ledger")
    stored = await ledger.load(text[:100])
    assert stored is not None
    assert (stored.columns, [kept.row for kept in stored.firings]) == (columns, [(text, text)])
    assert [found.transition for found in await pending(ledger, text[:100])] == [one]
    assert (await record(ledger, notification)).detail == text
    await ledger.close()


async def test_null_is_not_the_empty_text(ledger: Ledger) -> None:
    await ledger.commit(commit([transition(None, note=None), transition("", note="", previous=(None, ""))]))
    assert [one.transition.row for one in await pending(ledger)] == [(None, None), ("", "")]
    assert [one.transition.previous for one in await pending(ledger)] == [None, (None, "")]


async def test_half_a_surrogate_pair_in_what_a_receiver_said_does_not_stop_the_settlement(ledger: Ledger) -> None:
    (notification,) = await told(ledger, "1")
    await ledger.settle([replace(settlement(notification, Status.DEAD), detail="bad \ud800 text")])
    assert (await record(ledger, notification)).status is Status.DEAD


# The outbox.


async def test_pending_notifications_come_in_pages_and_in_order(ledger: Ledger) -> None:
    notifications = await told(ledger, *(str(number) for number in range(7)))
    await told(ledger, "other", to=("mail",))  # type: ignore[arg-type]
    found: list[Notification] = []
    while page := await ledger.pending("hook", found[-1].seq if found else 0, 3):
        assert len(page) <= 3
        found += page
    assert found == notifications


async def test_what_is_to_be_tried_again_stays_pending_with_its_attempts(ledger: Ledger, clock: Clock) -> None:
    (notification,) = await told(ledger, "1")
    await ledger.settle([settlement(notification, Status.PENDING, at=clock.now, not_before=clock.now + 60)])
    assert await pending(ledger) == [replace(notification, attempts=1, not_before=clock.now + 60)]
    found = await record(ledger, notification)
    assert (found.status, found.reason, found.detail, found.settled_at) == (
        Status.PENDING,
        "timeout",
        "no answer",
        None,
    )


@pytest.mark.parametrize("status", [Status.DELIVERED, Status.DEAD])
async def test_what_is_settled_is_no_longer_pending(ledger: Ledger, clock: Clock, status: Status) -> None:
    notification, other = await told(ledger, "1", "2")
    await ledger.settle([settlement(notification, status, at=clock.now)])
    assert await pending(ledger) == [other]
    found = await record(ledger, notification)
    assert (found.status, found.attempts, found.settled_at) == (status, 1, clock.now)


async def test_a_settlement_of_what_is_no_longer_pending_changes_nothing(ledger: Ledger) -> None:
    (notification,) = await told(ledger, "1")
    assert await ledger.drop([notification.id]) == 1
    before = await record(ledger, notification)
    await ledger.settle([delivered(notification), Settlement(seq=4711, status=Status.DEAD, attempts=1)])
    assert await record(ledger, notification) == before


async def test_many_settlements_are_written_together(ledger: Ledger) -> None:
    notifications = await told(ledger, *(str(number) for number in range(100)))
    await ledger.settle([delivered(one) for one in notifications[::2]])
    assert await pending(ledger) == notifications[1::2]


async def test_a_retry_makes_the_dead_pending_again_with_a_fresh_budget(ledger: Ledger, clock: Clock) -> None:
    dead, dropped, sent, waiting = await told(ledger, "1", "2", "3", "4")
    await ledger.settle([settlement(dead, Status.DEAD, at=clock.now), delivered(sent)])
    await ledger.drop([dropped.id])
    clock.advance(1000)
    assert await ledger.retry([dead.id, dropped.id, sent.id, waiting.id, "unknown"]) == 2
    fresh = [replace(one, created_at=clock.now) for one in (dead, dropped)]
    assert await pending(ledger) == [*fresh, waiting]
    assert (await record(ledger, dead)).settled_at is None


async def test_dead_and_pending_notifications_can_be_dropped_and_others_not(ledger: Ledger, clock: Clock) -> None:
    dead, sent, waiting = await told(ledger, "1", "2", "3")
    await ledger.settle([settlement(dead, Status.DEAD), delivered(sent)])
    clock.advance(5)
    assert await ledger.drop([dead.id, sent.id, waiting.id, "unknown"]) == 2
    assert await pending(ledger) == []
    found = {one.id: one for one in await ledger.find(Filter(status=Status.DROPPED))}
    assert found.keys() == {dead.id, waiting.id}
    assert {one.settled_at for one in found.values()} == {clock.now}


async def test_notifications_for_channels_that_are_gone_are_parked(ledger: Ledger) -> None:
    await told(ledger, "1", to=("hook", "mail"))  # type: ignore[arg-type]
    await told(ledger, "2", to=('it\'s "gone"',))  # type: ignore[arg-type]
    assert await ledger.park_unrouted(["hook"]) == 2
    assert await ledger.park_unrouted(["hook"]) == 0
    assert len(await pending(ledger)) == 1
    parked = await ledger.find(Filter(status=Status.DEAD))
    assert {(one.channel, one.reason) for one in parked} == {("mail", "unrouted"), ('it\'s "gone"', "unrouted")}
    assert all(one.detail for one in parked)


async def test_without_any_channel_everything_is_parked(ledger: Ledger) -> None:
    await told(ledger, "1")
    assert await ledger.park_unrouted([]) == 1


async def test_the_earlier_ids_are_those_of_the_episode_that_this_channel_delivered(ledger: Ledger) -> None:
    both = ("hook", "mail")
    fired = await ledger.commit(commit([transition(), transition("2")], to=both))
    updated = await ledger.commit(commit([transition(kind=Kind.UPDATED, at=1005, started_at=1000)], to=both))
    skipped = await ledger.commit(commit([transition(kind=Kind.UPDATED, at=1006, started_at=1000)]))
    (resolved,) = await ledger.commit(commit([transition(kind=Kind.RESOLVED, at=1007, started_at=1000)]))
    await ledger.settle([delivered(one) for one in [*fired, *updated]])
    await ledger.settle([settlement(skipped[0], Status.DEAD)])
    (again,) = await ledger.commit(commit([transition(at=2000)]))
    assert await ledger.earlier(resolved) == (fired[0].id, updated[0].id)
    assert await ledger.earlier(again) == ()


async def test_the_backlog_counts_what_waits_and_what_is_dead(ledger: Ledger, clock: Clock) -> None:
    assert await ledger.backlog() == {}
    first = clock.now
    one, two, three = await told(ledger, "1", "2", "3")
    clock.advance(10)
    await told(ledger, "4", to=("hook", "mail"))  # type: ignore[arg-type]
    assert await ledger.backlog() == {
        "hook": Backlog(pending=4, oldest=first),
        "mail": Backlog(pending=1, oldest=first + 10),
    }
    await ledger.settle([delivered(one), delivered(two), settlement(three, Status.DEAD)])
    await ledger.drop([record.id for record in await ledger.find(Filter(channel="mail"))])
    assert await ledger.backlog() == {"hook": Backlog(pending=1, oldest=first + 10, dead=1)}


async def test_a_retry_does_not_make_the_backlog_look_younger(ledger: Ledger, clock: Clock) -> None:
    first = clock.now
    dead, _ = await told(ledger, "1", "2")
    await ledger.settle([settlement(dead, Status.DEAD)])
    clock.advance(100)
    await ledger.retry([dead.id])
    assert await ledger.backlog() == {"hook": Backlog(pending=2, oldest=first)}


async def test_records_are_found_by_any_choice_newest_first(ledger: Ledger) -> None:
    notifications = await told(ledger, *"1234", to=("hook", "mail"))  # type: ignore[arg-type]
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


async def test_only_settled_notifications_that_are_old_enough_are_pruned(ledger: Ledger, clock: Clock) -> None:
    sent, dead, dropped, waiting, recent = await told(ledger, *"12345")
    await ledger.settle([delivered(sent, at=clock.now), settlement(dead, Status.DEAD, at=clock.now)])
    await ledger.drop([dropped.id])
    clock.advance(100)
    await ledger.settle([delivered(recent, at=clock.now)])
    assert await ledger.prune(clock.now - 50, 100) == 2
    assert {one.id for one in await ledger.find(Filter())} == {dead.id, waiting.id, recent.id}
    assert await ledger.prune(clock.now - 50, 100) == 0


async def test_what_belongs_to_an_episode_that_still_fires_is_kept(ledger: Ledger, clock: Clock) -> None:
    first = await ledger.commit(commit([transition()], saved=[firing()]))
    old = await ledger.commit(commit([transition(at=500)]))
    await ledger.settle([delivered(one, at=clock.now) for one in [*first, *old]])
    assert await ledger.prune(clock.now + 1, 100) == 1
    assert [one.id for one in await ledger.find(Filter())] == [first[0].id]
    await ledger.commit(commit(gone=[firing().fingerprint]))
    assert await ledger.prune(clock.now + 1, 100) == 1


async def test_pruning_goes_in_steps_and_skips_what_must_stay(ledger: Ledger, clock: Clock) -> None:
    keys = [str(number) for number in range(10)]
    notifications = await ledger.commit(
        commit([transition(key) for key in keys], to=("hook", "mail"), saved=[firing(key) for key in keys[:5]])
    )
    await ledger.settle([delivered(one, at=clock.now) for one in notifications])
    assert [await ledger.prune(clock.now + 1, 4) for _ in range(4)] == [4, 4, 2, 0]
    assert len(await ledger.find(Filter())) == 10


async def test_a_transition_stays_as_long_as_one_of_its_notifications(ledger: Ledger, clock: Clock) -> None:
    hook, mail = await told(ledger, "1", to=("hook", "mail"))  # type: ignore[arg-type]
    await ledger.settle([delivered(hook, at=clock.now)])
    assert await ledger.prune(clock.now + 1, 100) == 1
    assert await pending(ledger, "mail") == [mail]


# Whole or not at all; together or alone.


async def test_a_commit_that_fails_midway_leaves_nothing_and_spoils_nothing(ledger: Ledger) -> None:
    await ledger.commit(commit([transition("1")], saved=[firing("1")], frontier=10))
    before = (await ledger.load("late"), await ledger.find(Filter()), await ledger.backlog())
    new = (*COLUMNS, Column(name="new", oid=25))
    # A time that fits no integer fails in the last table that is written.
    bad = commit(
        [transition("2", columns=new), transition("3", at=2**70)],
        saved=[firing("2")],
        gone=[firing("1").fingerprint],
        frontier=20,
        columns=new,
    )
    with pytest.raises(Exception):  # noqa: B017, PT011 - a fault of the caller's, not of the store
        await ledger.commit(bad)
    assert (await ledger.load("late"), await ledger.find(Filter()), await ledger.backlog()) == before
    # The columns that the failed commit brought are written with the next that has them.
    (notification,) = await ledger.commit(commit([transition("2", columns=new)], columns=new))
    stored = await ledger.load("late")
    assert stored is not None
    assert stored.columns == new
    assert (await record(ledger, notification)).columns == new


async def test_one_bad_commit_among_many_at_once_fails_alone(ledger: Ledger) -> None:
    new = (Column(name="brand", oid=25), Column(name="new", oid=25))
    commits = [
        commit(
            [transition(alert=f"a{number}", at=2**70 if number == 3 else 1000, columns=new)],
            alert=f"a{number}",
            columns=new,
        )
        for number in range(8)
    ]
    results = await asyncio.gather(*map(ledger.commit, commits), return_exceptions=True)
    assert [isinstance(result, BaseException) for result in results] == [number == 3 for number in range(8)]
    assert await ledger.load("a3") is None
    for number in set(range(8)) - {3}:
        stored = await ledger.load(f"a{number}")
        assert stored is not None
        assert stored.columns == new
    assert len(await pending(ledger)) == 7


async def test_the_notifications_of_concurrent_commits_are_answered_in_the_order_of_their_numbers(
    ledger: Ledger,
) -> None:
    answered: list[int] = []

    async def one(number: int) -> None:
        answered.extend(one.seq for one in await told(ledger, str(number)))

    await asyncio.gather(*(one(number) for number in range(200)))
    assert answered == sorted(answered)
    assert len(answered) == 200


async def test_a_cancelled_caller_does_not_undo_its_commit(ledger: Ledger) -> None:
    task = asyncio.create_task(told(ledger, "1"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ledger.commit(commit(alert="early"))
    assert len(await pending(ledger)) == 1


async def test_closing_finishes_what_is_queued(opener: OpenLedger, tmp_path: Path) -> None:
    ledger = opener(tmp_path / "ledger")
    commits = [asyncio.create_task(told(ledger, str(number))) for number in range(20)]
    await asyncio.sleep(0)
    await ledger.close()
    assert sum(map(len, await asyncio.gather(*commits))) == 20


async def test_after_it_was_closed_a_ledger_says_so_instead_of_hanging(opener: OpenLedger, tmp_path: Path) -> None:
    ledger = opener(tmp_path / "ledger")
    await ledger.close()
    for call in (
        ledger.backlog,
        ledger.changed_elsewhere,
        lambda: ledger.load("late"),
        lambda: ledger.commit(commit()),
    ):
        with pytest.raises(LedgerError, match="closed"):
            async with asyncio.timeout(10):
                await call()
    await ledger.close()


# Another process.


async def test_a_change_by_another_process_is_noticed_once(ledger: Ledger, opener: OpenLedger, tmp_path: Path) -> None:
    (notification,) = await told(ledger, "1")
    await ledger.settle([settlement(notification, Status.DEAD)])
    assert not await ledger.changed_elsewhere()
    other = opener(tmp_path / "ledger", exclusive=False)
    assert not await ledger.changed_elsewhere()
    assert await other.retry([notification.id]) == 1
    await other.close()
    assert await ledger.changed_elsewhere()
    assert not await ledger.changed_elsewhere()
    assert len(await pending(ledger)) == 1


async def test_a_change_by_another_process_before_the_first_look_is_noticed(
    ledger: Ledger, opener: OpenLedger, tmp_path: Path
) -> None:
    (notification,) = await told(ledger, "1")
    other = opener(tmp_path / "ledger", exclusive=False)
    await other.drop([notification.id])
    await other.close()
    assert await ledger.changed_elsewhere()


async def test_a_change_is_not_forgotten_when_a_commit_beside_the_look_fails(
    ledger: Ledger, opener: OpenLedger, tmp_path: Path
) -> None:
    (notification,) = await told(ledger, "1")
    await ledger.changed_elsewhere()
    other = opener(tmp_path / "ledger", exclusive=False)
    await other.drop([notification.id])
    await other.close()
    # Queued together, they share a transaction that the last of them spoils.
    many = [asyncio.create_task(told(ledger, str(number))) for number in range(5)]
    look = asyncio.create_task(ledger.changed_elsewhere())
    bad = asyncio.create_task(ledger.commit(commit([transition("2", at=2**70)])))
    await asyncio.gather(*many, look, bad, return_exceptions=True)
    assert look.result()
    assert bad.exception() is not None


async def test_own_writes_are_no_change_by_another_process(ledger: Ledger) -> None:
    await ledger.changed_elsewhere()
    (notification,) = await told(ledger, "1")
    await pending(ledger)
    await ledger.settle([delivered(notification)])
    assert not await ledger.changed_elsewhere()
