"""The SQLite ledger's file in all the states in which a file can be found."""

import asyncio
import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from support.ledger import commit, delivered, firing, sendable, transition
from support.waiting import until_equal
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger import records
from tocsin.ledger.base import Filter
from tocsin.ledger.opening import lock_file
from tocsin.ledger.sqlite import SqliteLedger, open_ledger
from tocsin.model import fingerprint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tocsin.db"


async def filled(path: Path, rows: int = 300) -> None:
    """A ledger with data on every kind of page, all in the main file."""
    ledger = open_ledger(path)
    keys = [str(number) for number in range(rows)]
    notifications = await ledger.commit(
        commit([transition(key) for key in keys], to=("hook", "mail"), saved=[firing(key) for key in keys])
    )
    await ledger.settle([delivered(one) for one in notifications[: rows // 2]])
    await ledger.close()


async def use(path: Path) -> None:
    """All that a process does with its ledger."""
    ledger = open_ledger(path)
    try:
        await ledger.load("late")
        await ledger.backlog()
        await ledger.claim("hook", 1000)
        await ledger.find(Filter(limit=1000))
        keys = [str(number) for number in range(300)]
        await ledger.commit(commit([transition(key, at=2000) for key in keys], saved=[firing(key) for key in keys]))
        await ledger.prune(1e12, 1000)
    finally:
        await ledger.close()


def refused(path: Path, reason: LedgerReason, *, runs_alerts: bool = True) -> str:
    """The message with which the ledger is refused: one line that names the file."""
    with pytest.raises(LedgerError) as caught:
        open_ledger(path, runs_alerts=runs_alerts)
    assert caught.value.reason is reason
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


# One process at a time.


async def _write_for_ever(ledger: SqliteLedger) -> None:
    number = 0
    while True:
        number += 1
        await ledger.commit(commit([transition(str(number))]))


async def test_command_opens_ledger_during_writes(path: Path) -> None:
    ledger = open_ledger(path)
    writing = asyncio.create_task(_write_for_ever(ledger))
    for _ in range(5):
        other = await asyncio.to_thread(open_ledger, path, runs_alerts=False)
        found = await other.find(Filter(limit=1))
        if found:
            await other.drop([found[0].id])
        await other.close()
    assert not writing.done()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await ledger.close()


def test_lock_ends_with_killed_process(path: Path) -> None:
    with _writer(path) as (process, acknowledged):
        acknowledged.readline()
        assert str(process.pid) in refused(path, LedgerReason.LOCKED)
    asyncio.run(open_ledger(path).close())


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[tuple["subprocess.Popen[str]", IO[str]]]:
    """A process that commits until it is killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "support.ledger_writer", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=path.parent) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("commits", [1, 60])
def test_kill_leaves_whole_commits(path: Path, commits: int) -> None:
    with _writer(path) as (process, output):
        for _ in range(commits):
            output.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        acknowledged = commits + len(output.readlines())

    async def check() -> None:
        ledger = open_ledger(path)
        stored = await ledger.load("late")
        assert stored is not None
        assert stored.frontier in (acknowledged, acknowledged + 1)
        assert [one.fingerprint for one in stored.firings] == [fingerprint("late", [str(stored.frontier)])]
        for channel in ("hook", "mail"):
            notifications = await sendable(ledger, channel, 10_000)
            assert [one.transition.at for one in notifications] == list(range(1, stored.frontier + 1))
        await ledger.close()

    asyncio.run(check())


# Files that are something else, or damaged.


def execute(path: Path, statement: str) -> None:
    """Change a file as another program does."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()


async def damage(path: Path) -> str:
    """The message of a ledger that finds itself damaged in use; empty if it does not."""
    found: LedgerError | None = None
    try:
        async with asyncio.timeout(30):
            await use(path)
    except LedgerError as error:
        found = error
    assert found is None or found.reason is LedgerReason.CORRUPT, str(found)
    assert "\n" not in str(found)
    return str(found or "")


VALUES = (
    *("alerts.shape", "firings.counts", "firings.phase", "firings.row"),
    *("shapes.columns", "transitions.kind", "transitions.row"),
)


async def test_file_that_is_no_ledger_of_this_version_is_refused(path: Path) -> None:
    """It stays as it is. A command does not bring an older one up to date."""
    execute(path, "CREATE TABLE customers (name TEXT)")
    before = path.read_bytes()
    assert "not a ledger" in refused(path, LedgerReason.CORRUPT)
    assert path.read_bytes() == before
    path.write_text("alerts:\n  late:\n" * 1000)
    refused(path, LedgerReason.CORRUPT)
    path.write_bytes(b"")
    assert "older version" in refused(path, LedgerReason.OLDER, runs_alerts=False)
    await filled(path, 1)
    execute(path, "PRAGMA user_version = 99")
    assert "newer version" in refused(path, LedgerReason.NEWER)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
async def test_truncated_file_is_damaged(path: Path, share: float) -> None:
    await filled(path)
    os.truncate(path, int(path.stat().st_size * share))
    assert str(path) in await damage(path)


@pytest.mark.parametrize("seed", range(6))
async def test_garbage_in_file_is_damage(path: Path, seed: int) -> None:
    """It may be in unused space or in a note: then it is not found."""
    await filled(path)
    dice, content = random.Random(seed), bytearray(path.read_bytes())
    length = dice.choice([1, 16, 4096])
    for _ in range(8):
        at = dice.randrange(100, len(content) - length)
        content[at : at + length] = dice.randbytes(length)
    path.write_bytes(content)
    await damage(path)


@pytest.mark.parametrize("column", VALUES)
async def test_wrong_value_is_damage(path: Path, column: str) -> None:
    await filled(path)
    table, name = column.split(".")
    execute(path, f"UPDATE {table} SET {name} = 17")
    assert await damage(path)


async def test_ledger_that_cannot_be_opened_leaves_no_thread(path: Path) -> None:
    await open_ledger(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE transitions")
    before = threading.active_count()
    with pytest.raises(LedgerError):
        open_ledger(path)
    assert threading.active_count() == before


async def test_empty_file_becomes_a_ledger(path: Path) -> None:
    path.touch()
    await use(path)


# Places without write access.


def test_path_that_is_no_file_is_refused(path: Path) -> None:
    """A command makes none."""
    assert "tocsin run" in refused(path, LedgerReason.UNREADABLE, runs_alerts=False)
    assert not path.exists()
    refused(path / "missing" / "tocsin.db", LedgerReason.UNREADABLE)
    path.mkdir()
    refused(path, LedgerReason.UNREADABLE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where the tests may mount one."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = os.geteuid() == 0 and _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where))
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


async def test_read_only_directory_is_refused(small_disk: Path) -> None:
    path = small_disk / "tocsin.db"
    assert _mount("-o", "remount,ro", str(small_disk))
    refused(path, LedgerReason.UNREADABLE)
    assert _mount("-o", "remount,rw", str(small_disk))
    await filled(path)
    assert _mount("-o", "remount,ro", str(small_disk))
    refused(path, LedgerReason.UNREADABLE)


async def test_full_ledger_keeps_its_content(path: Path) -> None:
    ledger = open_ledger(path)
    await ledger.commit(commit([transition("1")], saved=[firing("1")]))
    before = (await ledger.load("late"), await ledger.find(Filter()))
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    keys = [str(number) for number in range(2, 300)]
    big = commit([transition(key) for key in keys], saved=[firing(key) for key in keys], frontier=2000)
    await _is_full(ledger, big)
    assert (await ledger.load("late"), await ledger.find(Filter())) == before
    ledger._connection.execute("PRAGMA max_page_count = 1000000")
    assert len(await ledger.commit(big)) == len(keys)
    await ledger.close()


def test_lock_needs_no_room_on_the_disk(path: Path) -> None:
    """A start on a full disk is refused by the database, with words that say so."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        lock = lock_file(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with lock, pytest.raises(LedgerError, match=r"in use by another tocsin \(process unknown\)"):
        lock_file(path)


async def _is_full(ledger: SqliteLedger, big: object) -> None:
    with pytest.raises(LedgerError) as caught:
        await ledger.commit(big)  # type: ignore[arg-type]
    assert caught.value.reason is LedgerReason.FULL, str(caught.value)


# The cost of a commit.


async def test_waiting_commits_share_transactions(path: Path) -> None:
    ledger = open_ledger(path)
    begun: list[str] = []
    ledger._connection.set_trace_callback(lambda text: begun.append(text) if text.startswith("BEGIN") else None)
    await asyncio.gather(*(ledger.commit(commit([transition(str(number))])) for number in range(200)))
    assert len(begun) < 50
    assert len(await sendable(ledger)) == 200
    await ledger.close()


async def test_reads_do_not_wait_for_writes(path: Path) -> None:
    ledger = open_ledger(path)
    await ledger.commit(commit(saved=[firing()]))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(ledger.commit(commit()))
    async with asyncio.timeout(4):  # a writer waits five seconds for the lock
        assert await ledger.load("late") is not None
        assert await sendable(ledger) == []
    assert not writing.done()
    other.execute("ROLLBACK")
    await writing
    other.close()
    await ledger.close()


async def test_claims_wait_for_no_search(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting and listing may read all of a large outbox; what one channel sends next does not wait for that."""
    ended = threading.Event()
    monkeypatch.setattr(records, "backlog", lambda _: {} if ended.wait(20) else None)
    ledger = open_ledger(path)
    await ledger.commit(commit([transition()]))
    counting = asyncio.create_task(ledger.backlog())
    await asyncio.sleep(0)
    async with asyncio.timeout(4):
        assert len(await sendable(ledger)) == 1
    assert not counting.done()
    ended.set()
    assert await counting == {}
    await ledger.close()


async def test_wal_is_moved_to_the_file_between_commits(path: Path) -> None:
    """Otherwise one commit moves all of a long WAL, and everything waits for it."""
    ledger = open_ledger(path)
    keys = [str(number) for number in range(1000)]
    await ledger.commit(commit([transition(key) for key in keys], saved=[firing(key) for key in keys]))

    async def in_the_file() -> int:
        with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:  # without the WAL
            return int(db.execute("SELECT count(*) FROM notifications").fetchone()[0])

    await until_equal(in_the_file, 1000, "notifications in the file")
    await ledger.close()
