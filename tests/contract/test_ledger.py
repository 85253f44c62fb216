"""Batches and events in any ledger: whole or not at all, together, and beside another process. See the machine too."""

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
    fired,
    firing,
    record,
    sendable,
    settlement,
    stored,
    transition,
)
from tocsin.errors import LedgerError
from tocsin.firing import Phase
from tocsin.ledger.base import Attempt, Episode, EventCommit, Filter, Ledger, Occurrence, Status
from tocsin.model import Address, Column, Kind, Transition

NEW = (*COLUMNS, Column(name="new", oid=1700, typmod=655366))


async def test_committed_state_is_loaded_after_restart(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    kept = [firing("1"), firing("2", phase=Phase.KEEPING), firing(None), firing("", started_at=999)]
    odd = replace(firing("3", phase=Phase.ABSENT), counts=((-2, ("3", "x")), (4, ("3", None))))
    ledger = await opener(tmp_path / "ledger", clock=clock)
    await ledger.commit(commit(saved=[*kept, odd], frontier=2**53))
    await ledger.close()
    ledger = await opener(tmp_path / "ledger", clock=clock)
    found = await stored(ledger)
    await ledger.close()
    assert (found.definition, found.columns, found.frontier) == ("definition of late", COLUMNS, 2**53)
    assert sorted(found.firings, key=repr) == sorted([*kept, odd], key=repr)


async def test_old_rows_keep_their_columns(ledger: Ledger) -> None:
    newer = transition("2", columns=NEW)._replace(row=("2", "x", "9.5"))
    await fired(ledger, "1")
    await ledger.commit(commit([newer, transition("3")], columns=NEW))
    assert (await stored(ledger)).columns == NEW
    assert [one.transition.columns for one in await sendable(ledger)] == [COLUMNS, NEW, COLUMNS]
    assert [one.columns for one in await ledger.find(Filter())] == [COLUMNS, NEW, COLUMNS]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
async def test_any_text_is_stored_unchanged(opener: OpenLedger, tmp_path: Path, text: str) -> None:
    ledger, name = await opener(tmp_path / "ledger"), text[:100]
    columns = (Column(name=name, oid=25), Column(name="note", oid=25))
    one = transition(text, note=text, alert=name, columns=columns, previous=(text, None))
    kept = firing(text, alert=name, note=text)
    (notification,) = await ledger.commit(commit([one], to=[name], alert=name, saved=[kept], columns=columns))
    await ledger.settle([replace(settlement(notification, Status.DEAD), detail=text)])
    assert await ledger.retry([notification.id]) == 1
    await ledger.close()
    ledger = await opener(tmp_path / "ledger")
    assert ((await stored(ledger, name)).columns, (await stored(ledger, name)).firings) == (columns, [kept])
    assert [found.transition for found in await sendable(ledger, name)] == [one]
    assert (await record(ledger, notification)).detail == text
    await ledger.close()


async def test_large_batch_is_stored_unchanged(opener: OpenLedger, tmp_path: Path) -> None:
    """A store may write it in another way than a small one."""
    ledger, texts = await opener(tmp_path / "ledger"), [text[:100] for text in HOSTILE]
    keys = [f"{number} {text}" for number in range(50) for text in texts]
    await ledger.commit(commit([transition("0")], saved=[firing(key, note="before") for key in keys]))
    gone, *kept = [firing(key, note=key) for key in keys]
    given = [transition("0"), *(transition(key, note=key, previous=(key, None)) for key in keys)]
    written = await ledger.commit(commit(given, saved=kept, gone=[gone.fingerprint]))
    assert [one.transition for one in written] == given[1:]  # the first was written before
    await ledger.close()
    ledger = await opener(tmp_path / "ledger")
    assert sorted((await stored(ledger)).firings, key=repr) == sorted(kept, key=repr)
    assert [found.transition for found in await sendable(ledger)] == given
    await ledger.close()


async def test_half_surrogate_pair_in_an_answer_is_stored(ledger: Ledger) -> None:
    (notification,) = await fired(ledger, "1")
    await ledger.settle([replace(settlement(notification, Status.DEAD), detail="bad \ud800 text")])
    assert (await record(ledger, notification)).status is Status.DEAD


# Whole or not at all; together or alone.


async def test_failed_commit_leaves_nothing(ledger: Ledger) -> None:
    await ledger.commit(commit([transition("1")], saved=[firing("1")], frontier=10))
    before = (await ledger.load("late"), await ledger.find(Filter()), await ledger.backlog())
    # A time that fits no integer fails in the last table that is written.
    transitions = [transition("2", columns=NEW), transition("3", at=2**70)]
    gone = [firing("1").fingerprint]
    with pytest.raises(Exception):  # noqa: B017, PT011 - a fault of the caller's, not of the store
        await ledger.commit(commit(transitions, saved=[firing("2")], gone=gone, frontier=20, columns=NEW))
    assert (await ledger.load("late"), await ledger.find(Filter()), await ledger.backlog()) == before
    # The columns that the failed commit brought are written with the next that has them.
    (notification,) = await ledger.commit(commit([transition("2", columns=NEW)], columns=NEW))
    assert (await stored(ledger)).columns == (await record(ledger, notification)).columns == NEW


async def test_bad_commit_fails_alone(ledger: Ledger) -> None:
    """Those that share its transaction are written."""

    async def one(alert: str) -> None:
        at = 2**70 if alert == "3" else 1000
        await ledger.commit(commit([transition(alert=alert, at=at, columns=NEW)], alert=alert, columns=NEW))

    results = await asyncio.gather(*map(one, "01234567"), return_exceptions=True)
    assert [isinstance(result, BaseException) for result in results] == [number == 3 for number in range(8)]
    assert await ledger.load("3") is None
    assert {(await stored(ledger, alert)).columns for alert in "0124567"} == {NEW}
    assert len(await sendable(ledger)) == 7


async def test_concurrent_commits_return_in_order(ledger: Ledger) -> None:
    answered: list[int] = []

    async def one(number: int) -> None:
        answered.extend(one.seq for one in await fired(ledger, str(number)))

    await asyncio.gather(*(one(number) for number in range(200)))
    assert answered == sorted(answered)
    assert len(answered) == 200


async def test_cancelled_caller_does_not_undo_commit(ledger: Ledger) -> None:
    task = asyncio.create_task(fired(ledger, "1"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ledger.commit(commit(alert="early"))
    assert len(await sendable(ledger)) == 1


async def test_closing_finishes_what_is_queued(ledger: Ledger) -> None:
    """After that, every use is an error."""
    commits = [asyncio.create_task(fired(ledger, str(number))) for number in range(20)]
    await asyncio.sleep(0)
    await ledger.close()
    assert sum(map(len, await asyncio.gather(*commits))) == 20
    for call in (
        ledger.backlog,
        ledger.changed_elsewhere,
        lambda: ledger.load("late"),
        lambda: ledger.commit(commit()),
    ):
        with pytest.raises(LedgerError, match="closed"):
            async with asyncio.timeout(10):
                await call()


# Another process.


@pytest.mark.parametrize("checked", [True, False])
async def test_change_by_another_process_is_noticed_once(
    ledger: Ledger, opener: OpenLedger, tmp_path: Path, checked: bool
) -> None:
    """Also before the first check. The ledger's own writes are no change."""
    (notification,) = await fired(ledger, "1")
    if checked:
        await ledger.settle([delivered(one) for one in await fired(ledger, "2")])
        assert not await ledger.changed_elsewhere()
    other = await opener(tmp_path / "ledger", runs_alerts=False)
    assert not checked or not await ledger.changed_elsewhere()
    await other.drop([notification.id])
    assert await other.retry([notification.id]) == 1
    await other.close()
    assert await ledger.changed_elsewhere()
    assert not await ledger.changed_elsewhere()
    assert len(await sendable(ledger)) == 1


async def test_failed_commit_does_not_hide_a_change(ledger: Ledger, opener: OpenLedger, tmp_path: Path) -> None:
    (notification,) = await fired(ledger, "1")
    await ledger.changed_elsewhere()
    other = await opener(tmp_path / "ledger", runs_alerts=False)
    await other.drop([notification.id])
    await other.close()
    # Queued together, they share a transaction that the last of them spoils.
    many = [asyncio.create_task(fired(ledger, str(number))) for number in range(5)]
    check = asyncio.create_task(ledger.changed_elsewhere())
    bad = asyncio.create_task(ledger.commit(commit([transition("2", at=2**70)])))
    await asyncio.gather(*many, check, bad, return_exceptions=True)
    assert check.result()
    assert bad.exception() is not None


# Events: positions, duplicates, attempts and episodes.


HOOK = Address(channel="hook")


def event(id_: str, at: int = 1000) -> Transition:
    return transition(id_, Kind.EVENT, at=at)


def occurrence(id_: str, *, key: str | None = None, at: int = 1000) -> Occurrence:
    return Occurrence(routed=(event(id_, at), [HOOK]), key=key, until=at + 60_000)


async def taken(ledger: Ledger, *occurrences: Occurrence, **position: int) -> list[str | None]:
    """Commit a batch; the ids of the events that are no duplicates."""
    _, new = await ledger.commit_events(EventCommit(source="queue", occurrences=occurrences, position=position))
    return [one.routed[0].row[0] for one in new]


async def test_position_is_kept_by_source(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    ledger = await opener(tmp_path / "ledger", clock=clock)
    assert await ledger.position("queue") == {}
    await taken(ledger, occurrence("1"), a=5, b=7)
    await taken(ledger, a=6)
    await ledger.close()
    ledger = await opener(tmp_path / "ledger", clock=clock)
    try:
        assert await ledger.position("queue") == {"a": 6, "b": 7}
        assert await ledger.position("other") == {}
        assert len(await sendable(ledger)) == 1
    finally:
        await ledger.close()


async def test_redelivered_event_is_one_notification(ledger: Ledger) -> None:
    """It is no duplicate of itself either."""
    await taken(ledger, occurrence("1", key="k", at=1000))
    assert await taken(ledger, occurrence("1", key="k", at=9000), occurrence("2", at=9000)) == ["1", "2"]
    assert [one.transition.row[0] for one in await sendable(ledger)] == ["1", "2"]


async def test_duplicates_within_window_are_suppressed(ledger: Ledger) -> None:
    assert await taken(ledger, occurrence("1", key="k"), occurrence("2", key="k"), occurrence("3", key="other")) == [
        "1",
        "3",
    ]
    assert await taken(ledger, occurrence("4", key="k", at=60_999)) == []
    assert await taken(ledger, occurrence("5", key="k", at=61_000)) == ["5"]
    assert await taken(ledger, occurrence("6", key="k", at=62_000)) == []


async def test_windows_of_duplicates_that_ended_are_deleted(ledger: Ledger, clock: Clock) -> None:
    now = round(clock.now * 1000)
    await taken(ledger, occurrence("1", key="k", at=now))
    clock.advance(61 + 14 * 60)
    await ledger.prune(0.0, 10)
    assert await taken(ledger, occurrence("2", key="k", at=now + 1)) == []  # a sender's clock may be behind
    clock.advance(60)
    await ledger.prune(0.0, 10)
    assert await taken(ledger, occurrence("2", key="k", at=now + 1)) == ["2"]


async def test_latest_attempts_are_kept_with_notification(ledger: Ledger, clock: Clock) -> None:
    """Only failed ones, and not those of a pruned notification."""
    [one] = await ledger.commit(commit([transition()]))
    for number in range(70):
        await ledger.settle([settlement(one, Status.PENDING, at=float(number), not_before=1.0)])
    await ledger.settle([replace(settlement(one, Status.DEAD, at=70.0), reason="exhausted", detail="71 attempts")])
    await ledger.retry([one.id])
    await ledger.settle([delivered(one, at=80.0)])
    *kept, last = await ledger.attempts(one.id)
    assert kept == [Attempt(at=float(at), reason="timeout", detail="no answer") for at in range(21, 70)]
    assert last == Attempt(at=70.0, reason="exhausted", detail="71 attempts")
    await ledger.prune(clock.now, 10)
    assert await ledger.attempts(one.id) == []


async def test_episode_has_start_end_and_deliveries(ledger: Ledger) -> None:
    """A new episode of the same row is another one."""
    fired, resolved = transition("1", at=1000), transition("1", Kind.RESOLVED, at=5000, started_at=1000)
    open_one = transition("1", at=6000)
    notifications = await ledger.commit(
        commit([fired, resolved, open_one], to=("hook", "mail"), saved=[firing("1", started_at=6000)])
    )
    await ledger.settle([delivered(one) for one in notifications if one.channel == "hook"])
    newest, oldest = await ledger.episodes("late", 10)
    assert (newest.started_at, newest.ended_at, newest.kind, newest.row) == (6000, None, "fired", ("1", "x"))
    assert newest.firing
    assert (oldest.started_at, oldest.ended_at, oldest.firing, oldest.kind) == (1000, 5000, False, "resolved")
    assert oldest.deliveries == {("hook", Status.DELIVERED): 2, ("mail", Status.PENDING): 2}
    assert oldest.columns == COLUMNS
    assert await ledger.ended(5000, 10) == [("late", 1000, 5000)]
    assert await ledger.ended(5001, 10) == []


async def only_episode(ledger: Ledger) -> Episode:
    [episode] = await ledger.episodes("late", 10)
    return episode


@pytest.mark.parametrize("resolved_first", [True, False])
async def test_row_on_another_route_still_fires(ledger: Ledger, resolved_first: bool) -> None:
    """It resolves on the one and fires on the other at one time."""
    await ledger.commit(commit([transition("1", at=1000, note="warning")], to=["mail"]))
    moved = [
        (transition("1", Kind.RESOLVED, at=5000, started_at=1000, note="warning"), [Address(channel="mail")]),
        (transition("1", at=5000, started_at=1000, note="page"), [Address(channel="pager")]),
    ]
    still = firing("1", started_at=1000, note="page")
    await ledger.commit(replace(commit(saved=[still]), transitions=moved if resolved_first else moved[::-1]))
    episode = await only_episode(ledger)
    assert (episode.firing, episode.ended_at, episode.row) == (True, None, ("1", "page"))
    # An end for one channel does not end the row, also when its own end has no notification.
    await ledger.commit(commit(gone=[still.fingerprint]))
    episode = await only_episode(ledger)
    assert (episode.firing, episode.ended_at, episode.row) == (False, None, ("1", "page"))


@pytest.mark.parametrize("phase", Phase)
async def test_episode_fires_by_phase(ledger: Ledger, phase: Phase) -> None:
    transitions = [transition("1", at=1000), transition("1", Kind.RESOLVED, at=5000, started_at=1000)]
    await ledger.commit(commit(transitions, saved=[firing("1", phase=phase, started_at=1000)]))
    episode = await only_episode(ledger)
    expected = (True, None) if phase in (Phase.FIRING, Phase.KEEPING) else (False, 5000)
    assert (episode.firing, episode.ended_at) == expected


async def test_event_is_an_episode_of_its_own(ledger: Ledger) -> None:
    await taken(ledger, occurrence("1", at=1000), occurrence("2", at=3000))
    assert [(one.started_at, one.ended_at) for one in await ledger.episodes("late", 1)] == [(3000, 3000)]
    assert len(await ledger.episodes("late", 10)) == 2
    assert await ledger.episodes("early", 10) == []
    assert await ledger.ended(0, 1) == [("late", 3000, 3000)], "the latest"
