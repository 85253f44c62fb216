"""`tocsin run --workers N`: several processes on one machine with a ledger in PostgreSQL."""

import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.ports import free_port
from support.postgres import Database
from support.tocsin import Harness, TocsinProcess, command, new_harness, running_with, write
from support.waiting import until, until_equal

pytestmark = pytest.mark.e2e

VIEWS = ("orders", "late", "spikes", "fraud")


@pytest.fixture
def harness(shared: Harness) -> Harness:
    shared.add_views(*VIEWS[1:])
    return shared


@dataclass(frozen=True)
class Instance:
    """A row of the table of processes."""

    pid: int
    address: str
    leads: int


@dataclass(frozen=True)
class Workers:
    """What runs, and the table of its processes."""

    supervisor: TocsinProcess
    database: Database

    async def instances(self) -> list[Instance]:
        rows = await self.database.run(
            "SELECT i.name, i.address, count(l.alert) FROM tocsin.instances i LEFT JOIN tocsin.leaders l USING (epoch)"
            " GROUP BY i.epoch ORDER BY i.epoch"
        )
        return [Instance(int(name.split()[1]), address, leads) for name, address, leads in rows]

    async def until_shared(self, *shares: int) -> list[Instance]:
        """Wait until so many processes lead so many alerts each, in any order."""

        async def found() -> list[int]:
            return sorted(one.leads for one in await self.instances())

        await until_equal(found, sorted(shares), "the shares of the workers")
        return await self.instances()


Start = Callable[[int], AbstractAsyncContextManager[TocsinProcess]]


@pytest.fixture
def start(harness: Harness) -> Start:
    def run(count: int) -> AbstractAsyncContextManager[TocsinProcess]:
        file = write(harness.directory / "tocsin.yaml", harness.config)
        return running_with(harness.directory, "--config", str(file), "--workers", str(count), file=file)

    return run


@pytest.fixture
async def two(start: Start, database: Database) -> AsyncIterator[Workers]:
    async with start(2) as supervisor:
        for number in (1, 2):
            await supervisor.until_logged("event=running", f"worker={number}")
        yield Workers(supervisor, database)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_workers_share_the_alerts_and_stop_together(harness: Harness, two: Workers) -> None:
    found = await two.until_shared(2, 2)
    for name in VIEWS:
        harness.double.relation(f"public.{name}").insert(("1", "Ann", "10"))
    await until(lambda: len(harness.receiver.requests) == len(VIEWS), "one notification for each")
    async with aiohttp.ClientSession() as client:
        for one in found:
            async with client.get(f"{one.address}/readyz") as answer:
                assert answer.status == 200
    assert await two.supervisor.stop() == 0
    assert not any(alive(one.pid) for one in found)
    assert await two.instances() == []
    assert len({one["id"] for one in harness.envelopes()}) == len(harness.receiver.requests) == len(VIEWS)


async def test_worker_that_was_killed_is_started_again(two: Workers) -> None:
    first, second = await two.until_shared(2, 2)
    os.kill(first.pid, signal.SIGKILL)
    await two.supervisor.until_logged("a worker has ended; starting it again", "status=-9")
    await two.supervisor.until_logged("event=running", count=3)
    assert {one.pid for one in await two.until_shared(2, 2)} & {first.pid, second.pid} == {second.pid}


async def test_worker_that_lost_its_lease_is_started_again(two: Workers) -> None:
    """It ends with 124, as others lead its alerts by then."""
    first, second = await two.until_shared(2, 2)
    os.kill(first.pid, signal.SIGSTOP)
    assert [one.pid for one in await two.until_shared(4)] == [second.pid]
    os.kill(first.pid, signal.SIGCONT)
    await two.supervisor.until_logged("a worker has ended; starting it again", "status=124")
    await two.until_shared(2, 2)


async def test_workers_end_when_their_supervisor_is_killed(two: Workers) -> None:
    """They also close their output, for which this waits."""
    found = await two.until_shared(2, 2)
    await two.supervisor.kill()
    await until(lambda: not any(alive(one.pid) for one in found), "the workers have ended")
    assert await two.instances() == [], "they left in good order"


async def test_hangup_reloads_every_worker(harness: Harness, two: Workers) -> None:
    """The first one leaves, and begins with the new configuration when the other has it, too."""
    await two.until_shared(2, 2)
    del harness.config["alerts"]["fraud"]
    two.supervisor.write(harness.config)
    two.supervisor.signal(signal.SIGHUP)
    await two.supervisor.until_logged('event="configuration ', "alerts=3", count=2)
    await two.until_shared(1, 2)


async def test_mistake_found_by_a_restart_spares_the_others(harness: Harness, two: Workers) -> None:
    """The worker is tried again until the file is right."""
    first, second = await two.until_shared(2, 2)
    two.supervisor.write("alerts: []")
    os.kill(first.pid, signal.SIGKILL)
    await two.supervisor.until_logged("starting it again", "status=2")
    assert [one.pid for one in await two.until_shared(4)] == [second.pid]
    two.supervisor.write(harness.config)
    await two.until_shared(2, 2)


async def test_last_worker_that_finds_a_mistake_ends_all(two: Workers) -> None:
    found = await two.until_shared(2, 2)
    two.supervisor.write("alerts: []")
    for one in found:
        os.kill(one.pid, signal.SIGKILL)
    assert await two.supervisor.exited() == 2


def two_free_ports() -> int:
    """The first of two."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port + 1)):
                return port


async def test_workers_listen_on_following_ports(harness: Harness, start: Start, database: Database) -> None:
    port = two_free_ports()
    harness.config["web"] = {"listen": f"127.0.0.1:{port}"}
    async with start(2) as supervisor:
        found = await Workers(supervisor, database).until_shared(2, 2)
        assert {one.address for one in found} == {f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"}


async def test_port_in_use_ends_all_workers(harness: Harness, start: Start, database: Database) -> None:
    port = two_free_ports()
    harness.config["web"] = {"listen": f"127.0.0.1:{port}"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        async with start(2) as supervisor:
            assert await supervisor.exited() == 4
            line = f"tocsin: cannot listen on 127.0.0.1:{port + 1}: address already in use; choose another web.listen"
            assert line in supervisor.log
            assert not supervisor.logged("starting it again")


@pytest.mark.parametrize(
    ("arguments", "changes", "words"),
    [
        (["--workers", "2"], {}, ["ledger: only one process can use the file", "for several workers, set ledger.url"]),
        (
            ["--workers", "3"],
            {"ledger": {"url": "postgresql://u@h/d"}, "web": {"listen": "127.0.0.1:65534"}},
            ["web.listen: 3 workers need 3 ports from 65534 on"],
        ),
        (["--workers", "0"], {}, ["--workers: it must be a whole number from 1 on"]),
        (["--workers", "two"], {}, ["--workers: it must be a whole number from 1 on"]),
        (["--workers", "2", "--dry-run"], {}, ["--dry-run: not allowed with argument --workers"]),
    ],
)
async def test_impossible_workers_are_refused(
    tmp_path: Path, arguments: list[str], changes: dict[str, Any], words: list[str]
) -> None:
    async with new_harness(tmp_path) as harness:
        file = write(tmp_path / "tocsin.yaml", {**harness.config, **changes})
        status, output, errors = await command(tmp_path, "run", "-c", str(file), *arguments)
        assert (status, output) == (2, "")
        for one in words:
            assert one in errors
        assert not re.search("Traceback", errors)
