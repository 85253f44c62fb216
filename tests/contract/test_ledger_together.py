"""Any ledger under failed writes, concurrent writes, and another process on the same store."""

import asyncio
from pathlib import Path

import pytest

from support.ledger import (
    COLUMNS,
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
from tocsin.errors import LedgerError
from tocsin.ledger.base import Filter, Ledger, Status
from tocsin.model import Column

# Whole or not at all; together or alone.


async def test_failed_commit_leaves_nothing(ledger: Ledger) -> None:
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


async def test_bad_commit_fails_alone(ledger: Ledger) -> None:
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
    assert len(await sendable(ledger)) == 7


async def test_concurrent_commits_return_in_order(
    ledger: Ledger,
) -> None:
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


async def test_closing_finishes_what_is_queued(opener: OpenLedger, tmp_path: Path) -> None:
    ledger = opener(tmp_path / "ledger")
    commits = [asyncio.create_task(fired(ledger, str(number))) for number in range(20)]
    await asyncio.sleep(0)
    await ledger.close()
    assert sum(map(len, await asyncio.gather(*commits))) == 20


async def test_closed_ledger_raises_on_use(opener: OpenLedger, tmp_path: Path) -> None:
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


async def test_change_by_another_process_is_noticed_once(ledger: Ledger, opener: OpenLedger, tmp_path: Path) -> None:
    (notification,) = await fired(ledger, "1")
    await ledger.settle([settlement(notification, Status.DEAD)])
    assert not await ledger.changed_elsewhere()
    other = opener(tmp_path / "ledger", exclusive=False)
    assert not await ledger.changed_elsewhere()
    assert await other.retry([notification.id]) == 1
    await other.close()
    assert await ledger.changed_elsewhere()
    assert not await ledger.changed_elsewhere()
    assert len(await sendable(ledger)) == 1


async def test_change_before_first_check_is_noticed(ledger: Ledger, opener: OpenLedger, tmp_path: Path) -> None:
    (notification,) = await fired(ledger, "1")
    other = opener(tmp_path / "ledger", exclusive=False)
    await other.drop([notification.id])
    await other.close()
    assert await ledger.changed_elsewhere()


async def test_failed_commit_does_not_hide_a_change(ledger: Ledger, opener: OpenLedger, tmp_path: Path) -> None:
    (notification,) = await fired(ledger, "1")
    await ledger.changed_elsewhere()
    other = opener(tmp_path / "ledger", exclusive=False)
    await other.drop([notification.id])
    await other.close()
    # Queued together, they share a transaction that the last of them spoils.
    many = [asyncio.create_task(fired(ledger, str(number))) for number in range(5)]
    look = asyncio.create_task(ledger.changed_elsewhere())
    bad = asyncio.create_task(ledger.commit(commit([transition("2", at=2**70)])))
    await asyncio.gather(*many, look, bad, return_exceptions=True)
    assert look.result()
    assert bad.exception() is not None


async def test_own_writes_are_no_change(ledger: Ledger) -> None:
    await ledger.changed_elsewhere()
    (notification,) = await fired(ledger, "1")
    await sendable(ledger)
    await ledger.settle([delivered(notification)])
    assert not await ledger.changed_elsewhere()
