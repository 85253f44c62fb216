"""Batches in any ledger: whole or not at all, together, and beside another process. See test_ledger_machine.py too."""

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
from tocsin.ledger.base import Filter, Ledger, Status
from tocsin.model import Column

NEW = (*COLUMNS, Column(name="new", oid=1700, typmod=655366))


async def test_committed_state_is_loaded_after_restart(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    kept = [firing("1"), firing("2", phase=Phase.KEEPING), firing(None), firing("", started_at=999)]
    odd = replace(firing("3", phase=Phase.ABSENT), counts=((-2, ("3", "x")), (4, ("3", None))))
    ledger = opener(tmp_path / "ledger", clock=clock)
    await ledger.commit(commit(saved=[*kept, odd], frontier=2**53))
    await ledger.close()
    ledger = opener(tmp_path / "ledger", clock=clock)
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
    ledger, name = opener(tmp_path / "ledger"), text[:100]
    columns = (Column(name=name, oid=25), Column(name="note", oid=25))
    one = transition(text, note=text, alert=name, columns=columns, previous=(text, None))
    kept = firing(text, alert=name, note=text)
    (notification,) = await ledger.commit(commit([one], to=[name], alert=name, saved=[kept], columns=columns))
    await ledger.settle([replace(settlement(notification, Status.DEAD), detail=text)])
    assert await ledger.retry([notification.id]) == 1
    await ledger.close()
    ledger = opener(tmp_path / "ledger")
    assert ((await stored(ledger, name)).columns, (await stored(ledger, name)).firings) == (columns, [kept])
    assert [found.transition for found in await sendable(ledger, name)] == [one]
    assert (await record(ledger, notification)).detail == text
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
    other = opener(tmp_path / "ledger", exclusive=False)
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
    other = opener(tmp_path / "ledger", exclusive=False)
    await other.drop([notification.id])
    await other.close()
    # Queued together, they share a transaction that the last of them spoils.
    many = [asyncio.create_task(fired(ledger, str(number))) for number in range(5)]
    check = asyncio.create_task(ledger.changed_elsewhere())
    bad = asyncio.create_task(ledger.commit(commit([transition("2", at=2**70)])))
    await asyncio.gather(*many, check, bad, return_exceptions=True)
    assert check.result()
    assert bad.exception() is not None
