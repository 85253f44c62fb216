"""The process as its supervisor sees it: start, refusal to start, and end."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from support.forks import Started
from support.tocsin import Harness, command, quick_channel, running, start, write
from support.waiting import SOON, until, until_some

pytestmark = pytest.mark.e2e


class Hesitant:
    """A receiver that answers once it is released."""

    def __init__(self) -> None:
        self.arrived: list[Any] = []
        self.answer = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.arrived.append(await request.json())
        await self.answer.wait()
        return web.Response()


@pytest.fixture
async def hesitant() -> AsyncIterator[Hesitant]:
    receiver = Hesitant()
    runner = web.ServerRunner(web.Server(receiver.handle), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield receiver
    receiver.answer.set()
    await runner.cleanup()


def stored(path: Path, query: str) -> list[Any]:
    """The content of the ledger's file."""
    with contextlib.closing(sqlite3.connect(path, timeout=SOON)) as ledger:
        return ledger.execute(query).fetchall()


# The end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_process_in_order(harness: Harness, number: signal.Signals) -> None:
    """Although a page is open that follows what happens."""
    async with harness.run() as tocsin:
        await harness.until_notified(("fired", "1"))
        await tocsin.until_ready()
        host, _, port = tocsin.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /api/v1/transitions HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(SOON):
            assert b"200 OK" in await reader.readline()
        began = time.monotonic()
        tocsin.signal(number)
        assert await tocsin.exited() == 0
        assert time.monotonic() - began < SOON / 2
        writer.close()
        assert tocsin.logged("event=stopping")
        assert not tocsin.logged("Traceback")
        assert not tocsin.logged("level=error")
    assert not harness.double.connections
    assert not Path(f"{harness.ledger}-wal").exists(), "the ledger was closed, not left behind"


async def test_frontier_is_stored_at_shutdown(harness: Harness) -> None:
    """Otherwise the next start would request history from seconds earlier than necessary."""
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        [(first,)] = stored(harness.ledger, "SELECT frontier FROM alerts")

        async def moved_on() -> float:
            frontier = await tocsin.metric("tocsin_alert_frontier_timestamp_seconds", alert="orders") or 0.0
            return frontier if frontier * 1000 > first + 300 else 0.0

        frontier = await until_some(moved_on)
        assert await tocsin.stop() == 0
    [(last,)] = stored(harness.ledger, "SELECT frontier FROM alerts")
    assert last >= round(frontier * 1000)


async def test_requests_in_flight_finish_at_shutdown(harness: Harness, hesitant: Hesitant) -> None:
    """They are not sent again by the next process."""
    harness.config["channels"]["hook"] = quick_channel(hesitant.url, timeout="15s")
    async with harness.run() as tocsin:
        await until(lambda: hesitant.arrived, "the request arrived")
        tocsin.signal(signal.SIGTERM)
        await tocsin.until_logged("event=stopping")
        hesitant.answer.set()
        assert await tocsin.exited() == 0
    assert stored(harness.ledger, "SELECT status FROM notifications") == [("delivered",)]
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        harness.orders.insert(("2", "Bob", "20"))
        await until(lambda: len(hesitant.arrived) == 2, "the next one arrived")
        assert hesitant.arrived[1]["row"]["id"] == 2


async def test_hanging_channel_does_not_block_shutdown(harness: Harness, hesitant: Hesitant) -> None:
    harness.config["channels"]["hook"] = quick_channel(hesitant.url, timeout="500ms", backoff_max="60s")
    async with harness.run() as tocsin:
        await until(lambda: hesitant.arrived, "the request arrived")
        began = time.monotonic()
        assert await tocsin.stop() == 0
        assert time.monotonic() - began < SOON * 0.75
    assert stored(harness.ledger, "SELECT status FROM notifications") == [("pending",)], "it stays for the next start"


async def test_hanging_source_does_not_block_shutdown(harness: Harness) -> None:
    harness.source["connect_timeout"] = "60s"
    harness.double.deaf = True
    async with harness.run() as tocsin:
        await until(lambda: harness.double.connections, "it tries to connect")
        began = time.monotonic()
        assert await tocsin.stop() == 0
        assert time.monotonic() - began < SOON / 2


# Starts that cannot be.


async def refused(harness: Harness, status: int, *parts: str) -> None:
    """The process ends with this status and these words, without a traceback."""
    async with harness.run() as tocsin:
        assert await tocsin.exited() == status, tocsin.log
        text = "\n".join(tocsin.log)
        assert [part for part in parts if part not in text] == []
        assert "Traceback" not in text
        assert len(tocsin.logged("tocsin: ")) <= 1


async def test_second_process_on_ledger_is_refused(harness: Harness) -> None:
    async with harness.run() as first:
        await first.until_ready()
        async with running(harness.directory, harness.config, file="second.yaml") as second:
            assert await second.exited() == 3
            assert second.logged(f"in use by another tocsin (process {first.pid})")
        harness.orders.insert(("2", "Bob", "20"))
        await harness.until_notified(("fired", "1"), ("fired", "2"))
        assert await first.ready() == ""


async def test_file_that_is_no_ledger_is_left_alone(harness: Harness) -> None:
    harness.ledger.write_text("my diary\n" * 1000)
    await refused(harness, 3, str(harness.ledger), "ledger.path")
    assert harness.ledger.read_text().startswith("my diary")
    harness.config["ledger"]["path"] = str(harness.directory / "nonesuch" / "ledger.db")
    await refused(harness, 3, "nonesuch", "ledger.path")


async def test_port_in_use_is_reported(harness: Harness) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        harness.config["web"]["listen"] = address
        await refused(harness, 4, f"tocsin: cannot listen on {address}", "web.listen")
    assert not harness.ledger.exists() or not stored(harness.ledger, "SELECT 1 FROM sqlite_schema"), "nothing was begun"


async def test_all_configuration_mistakes_are_named(harness: Harness) -> None:
    harness.config["log"]["output"] = str(harness.directory / "nonesuch" / "log")
    await refused(harness, 2, "log.output", "nonesuch")
    harness.alert["sorce"] = "mz"
    harness.config["web"]["listen"] = "nowhere"
    harness.source["progress_timeout"] = "soon"
    await refused(harness, 2, "tocsin.yaml:", "alerts.orders.sorce", "web.listen", "sources.mz.progress_timeout")


async def test_missing_configuration_is_reported(tmp_path: Path) -> None:
    status, output, errors = await command(tmp_path, "run", TOCSIN_CONFIG="")
    assert (status, output) == (2, "")
    assert "tocsin.yaml" in errors
    assert "Traceback" not in errors


async def ended(process: Started) -> str:
    """End a process in order, and return the rest of its standard output."""
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(SOON):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def test_log_in_file_as_json(harness: Harness) -> None:
    path = harness.directory / "log.json"
    harness.config["log"] = {"output": str(path), "format": "json", "level": "info"}
    process = await start(harness.directory, "run", "-c", str(write(harness.directory / "t.yaml", harness.config)))
    await harness.until_notified(("fired", "1"))
    await ended(process)
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert "running" in events
    assert events[-1] == "stopping"


@pytest.mark.parametrize("ledger", [None, {"url": "postgresql://tocsin@127.0.0.1:1/tocsin"}])
async def test_dry_run_prints_without_sending_or_storing(harness: Harness, ledger: Any) -> None:
    """A ledger on a server is not asked."""
    path = harness.ledger
    harness.config["ledger"] = ledger or harness.config["ledger"]
    harness.orders.insert(("2", "Bob", "20"))
    file = write(harness.directory / "t.yaml", harness.config)
    process = await start(harness.directory, "run", "--dry-run", "-c", str(file))
    assert process.stdout is not None
    async with asyncio.timeout(SOON):
        text = (await process.stdout.readline() + await process.stdout.readline()).decode()
    text += await ended(process)
    assert "Ann" in text
    assert "Bob" in text
    assert not harness.receiver.requests
    assert not path.exists()


# Signals.


async def test_hangup_at_the_start_is_a_reload(harness: Harness, tmp_path: Path) -> None:
    """Its file is a pipe at first, so that the process reads it until then."""
    file = tmp_path / "pipe.yaml"
    os.mkfifo(file)

    async def until_read() -> int:
        with contextlib.suppress(OSError):  # there is no reader
            return os.open(file, os.O_WRONLY | os.O_NONBLOCK)
        return 0

    process = await start(tmp_path, "run", "--config", str(file))
    assert process.stderr
    try:
        writer = await until_some(until_read, "it reads its configuration")
        process.send_signal(signal.SIGHUP)
        await until(lambda: ended_or_has(process, signal.SIGHUP), "it has ended, or keeps the signal for its handler")
        write(tmp_path / "tocsin.yaml", harness.config).replace(file)
        os.write(writer, file.read_bytes())
        os.close(writer)
        async with asyncio.timeout(SOON):
            while b'event="configuration ' not in (line := await process.stderr.readline()):
                assert line, "it has ended"
    finally:
        process.kill()
        await process.wait()


def ended_or_has(process: Started, number: signal.Signals) -> bool:
    """Whether a process has ended, or a signal waits in it."""
    if process.returncode is not None:
        return True
    waiting = re.search(r"^ShdPnd:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return waiting is not None and bool(int(waiting[1], 16) & 1 << number - 1)


# The disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


async def test_full_disk_is_reported_and_loses_nothing(harness: Harness, small_disk: Path) -> None:
    harness.config["ledger"]["path"] = str(small_disk / "ledger.db")
    ballast = small_disk / "ballast"
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.until_notified(("fired", "1"))
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        rows = [(str(number), "x" * 5000, "1") for number in range(2, 20)]
        harness.orders.insert(*rows)
        await tocsin.until_not_ready("the disk is full")
        assert tocsin.logged("the disk is full")
        assert await tocsin.metric("tocsin_alert_up", alert="orders") == 0
        await tocsin.until_metric("tocsin_ledger_up", 0)
        harness.orders.delete(rows[0])
        ballast.unlink()
        expected = [("fired", "1"), *(("fired", row[0]) for row in rows), ("resolved", "2")]
        await harness.until_notified(*expected)
        await tocsin.until_ready()
        await tocsin.until_metric("tocsin_ledger_up", 1)
        await harness.until_shown(tocsin)
        assert not tocsin.logged("Traceback")
        assert await tocsin.stop() == 0
