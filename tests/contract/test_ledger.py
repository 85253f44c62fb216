"""Batches in any ledger."""

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
    fired,
    firing,
    record,
    sendable,
    settlement,
    transition,
)
from tocsin.firing import Phase
from tocsin.ledger.base import Filter, Ledger, Status
from tocsin.model import Column, notification_id


async def test_alert_never_committed_is_unknown(ledger: Ledger) -> None:
    await ledger.commit(commit(alert="late"))
    assert await ledger.load("early") is None


async def test_committed_state_is_loaded_after_restart(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
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


async def test_frontier_may_become_unknown(ledger: Ledger) -> None:
    await ledger.commit(commit(frontier=5))
    await ledger.commit(commit(frontier=None))
    stored = await ledger.load("late")
    assert stored is not None
    assert stored.frontier is None


async def test_firings_are_added_overwritten_and_deleted(ledger: Ledger) -> None:
    await ledger.commit(commit(saved=[firing("1"), firing("2"), firing("3")]))
    await ledger.commit(commit(saved=[firing("2", note="new")], gone=[firing("1").fingerprint, "unknown"]))
    stored = await ledger.load("late")
    assert stored is not None
    assert {one.row for one in stored.firings} == {("2", "new"), ("3", "x")}


async def test_alerts_are_stored_independently(ledger: Ledger) -> None:
    await ledger.commit(commit(saved=[firing("1")]))
    await ledger.commit(commit(alert="early", saved=[firing("1", alert="early")], frontier=7))
    await ledger.commit(commit(alert="early", replace=True, frontier=8))
    late, early = await ledger.load("late"), await ledger.load("early")
    assert late is not None
    assert early is not None
    assert (late.frontier, len(late.firings)) == (1001, 1)
    assert (early.frontier, len(early.firings)) == (8, 0)


async def test_new_definition_replaces_every_firing(ledger: Ledger) -> None:
    await ledger.commit(commit(saved=[firing("1"), firing("2")]))
    await ledger.commit(commit(saved=[firing("3")], replace=True))
    stored = await ledger.load("late")
    assert stored is not None
    assert [one.row for one in stored.firings] == [("3", "x")]


async def test_commit_returns_notifications_in_order(ledger: Ledger, clock: Clock) -> None:
    batch = commit([transition("1"), transition("2")], to=("hook", "mail"))
    notifications = await ledger.commit(batch)
    expected = [(one, address.channel) for one, addresses in batch.transitions for address in addresses]
    assert [(one.transition, one.channel) for one in notifications] == expected
    assert [one.id for one in notifications] == [notification_id(*pair) for pair in expected]
    seqs = [one.seq for one in notifications]
    assert seqs == sorted(set(seqs))
    assert {(one.attempts, one.created_at, one.not_before) for one in notifications} == {(0, clock.now, 0.0)}
    assert await sendable(ledger) == [one for one in notifications if one.channel == "hook"]


async def test_numbers_rise_across_restarts(opener: OpenLedger, tmp_path: Path) -> None:
    seen = 0
    for key in "123":
        ledger = opener(tmp_path / "ledger")
        (notification,) = await fired(ledger, key)
        assert notification.seq > seen
        seen = notification.seq
        await ledger.close()


async def test_known_id_makes_no_notification(ledger: Ledger) -> None:
    """In the same commit, pending or delivered. A transition without a channel makes none either."""
    first = await fired(ledger, "1", "2", "1")
    await ledger.settle([delivered(first[0])])
    again = await fired(ledger, "2", "3", "1")
    assert [one.transition.row[0] for one in again] == ["3"]
    assert await fired(ledger, "4", to=()) == []
    assert await sendable(ledger) == [first[1], *again]
    assert len(await ledger.find(Filter())) == 3


async def test_old_rows_keep_their_columns(ledger: Ledger) -> None:
    wider = (*COLUMNS, Column(name="extra", oid=1700, typmod=655366))
    newer = transition("2", columns=wider)._replace(row=("2", "x", "9.5"))
    await fired(ledger, "1")
    await ledger.commit(commit([newer, transition("3")], columns=wider))
    stored = await ledger.load("late")
    assert stored is not None
    assert stored.columns == wider
    assert [one.transition.columns for one in await sendable(ledger)] == [COLUMNS, wider, COLUMNS]
    assert [one.columns for one in await ledger.find(Filter())] == [COLUMNS, wider, COLUMNS]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
async def test_any_text_is_stored_unchanged(opener: OpenLedger, tmp_path: Path, text: str) -> None:
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
    assert [found.transition for found in await sendable(ledger, text[:100])] == [one]
    assert (await record(ledger, notification)).detail == text
    await ledger.close()


async def test_null_is_not_empty_text(ledger: Ledger) -> None:
    await ledger.commit(commit([transition(None, note=None), transition("", note="", previous=(None, ""))]))
    assert [one.transition.row for one in await sendable(ledger)] == [(None, None), ("", "")]
    assert [one.transition.previous for one in await sendable(ledger)] == [None, (None, "")]


async def test_half_surrogate_pair_in_an_answer_is_stored(ledger: Ledger) -> None:
    (notification,) = await fired(ledger, "1")
    await ledger.settle([replace(settlement(notification, Status.DEAD), detail="bad \ud800 text")])
    assert (await record(ledger, notification)).status is Status.DEAD
