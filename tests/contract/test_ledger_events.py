"""Events in any ledger: positions, duplicates, attempts and episodes."""

from dataclasses import replace
from pathlib import Path

import pytest

from support.clock import Clock
from support.ledger import COLUMNS, OpenLedger, commit, delivered, firing, sendable, settlement, transition
from tocsin.firing import Phase
from tocsin.ledger.base import Attempt, Episode, EventCommit, Ledger, Occurrence, Status
from tocsin.model import Address, Kind, Transition

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
    ledger = opener(tmp_path / "ledger", clock=clock)
    assert await ledger.position("queue") == {}
    await taken(ledger, occurrence("1"), a=5, b=7)
    await taken(ledger, a=6)
    await ledger.close()
    ledger = opener(tmp_path / "ledger", clock=clock)
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
    clock.advance(61)
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
