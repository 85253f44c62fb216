"""`tocsin.run` and `tocsin.Tocsin`: Tocsin inside another program, in its event loop, in a thread, and alone."""

import asyncio
import contextlib
import gc
import json
import logging
import re
import signal
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.pages import blocks
from support.receiver import Receiver
from support.tocsin import write
from support.waiting import SOON, seen, until, until_some
from tocsin import ConfigError, LedgerError, ListenError, StallError, Tocsin, TocsinError, errors

TOKEN = "a-token-of-some-length"
HANDLED: list[str] = []


def handled(envelope: Any) -> None:
    """The handler of a `python` channel, in this process."""
    HANDLED.append(envelope["row"]["order"])


def config(directory: Path, **channel: Any) -> dict[str, Any]:
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(directory / "tocsin.db")},
        "sources": {"shop": {"type": "http", "token": TOKEN}},
        "channels": {"here": channel or {"type": "python", "handler": f"{__name__}:handled"}},
        "alerts": {"orders": {"source": "shop", "notify": ["here"]}},
    }


def post(address: str, order: str) -> int:
    """Send an event, and return the status of the answer."""
    request = urllib.request.Request(
        f"{address}/api/v1/events/orders",
        json.dumps({"order": order}).encode(),
        {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=SOON) as answer:
        return int(answer.status)


def of_the_process() -> list[object]:
    """What belongs to the program."""
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    root = logging.getLogger()
    return [*handlers, root.handlers[:], root.level, gc.get_threshold(), gc.get_freeze_count()]


def test_thread_of_its_own_runs_beside_a_program(tmp_path: Path) -> None:
    before, threads = of_the_process(), threading.active_count()
    with Tocsin(config(tmp_path)) as tocsin:
        seen(lambda: tocsin.problems() == [], "ready")
        assert of_the_process() == before
        assert post(tocsin.address, "one") == 202
        seen(lambda: "one" in HANDLED, "the notification")
    assert tocsin.problems() == ["it does not run"]
    assert threading.active_count() == threads
    with pytest.raises(OSError, match="refused"):
        post(tocsin.address, "two")


async def test_event_loop_of_the_program_is_used(tmp_path: Path) -> None:
    before, tasks = of_the_process(), asyncio.all_tasks()
    async with Receiver() as receiver:
        async with Tocsin(config(tmp_path, type="webhook", url=receiver.url)) as tocsin:
            await until_some(lambda: asyncio.sleep(0, tocsin.problems() == []), "ready")
            assert await asyncio.to_thread(post, tocsin.address, "three") == 202
            assert await asyncio.to_thread(tocsin.problems) == []
            assert of_the_process() == before
        # What was ready is sent before the block ends.
        assert [one.json["row"]["order"] for one in receiver.requests] == ["three"]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks


async def test_two_run_in_one_process(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with Tocsin(config(tmp_path / "a")) as one, Tocsin(config(tmp_path / "b")) as two:
        assert one.address != two.address
        assert [await asyncio.to_thread(post, each.address, "four") for each in (one, two)] == [202, 202]


async def test_stop_from_a_thread_ends_the_wait(tmp_path: Path) -> None:
    async with Tocsin(config(tmp_path)) as tocsin:
        waiting = asyncio.create_task(tocsin.wait())
        await asyncio.to_thread(tocsin.stop)
        async with asyncio.timeout(SOON):
            await waiting
        assert tocsin.problems() == ["it does not run"]
    with pytest.raises(RuntimeError, match="make another one"):
        await tocsin.__aenter__()


async def test_cancelled_block_stops_cleanly(tmp_path: Path) -> None:
    began = asyncio.Event()

    async def block() -> None:
        async with Tocsin(config(tmp_path)) as tocsin:
            began.set()
            await tocsin.wait()

    running = asyncio.create_task(block())
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with Tocsin(config(tmp_path)):  # the ledger is free
        pass


# Errors.


def test_invalid_configuration_raises_its_problems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        Tocsin({**config(tmp_path), "web": {"listen": 7}})
    assert str(found.value).startswith("web.listen: ")
    file = write(tmp_path / "bad.yaml", "sources: {}\nalerts: {x: {source: y}}")
    with pytest.raises(ConfigError, match=r"bad\.yaml:2: alerts\.x\.source: there is no source 'y'"):
        Tocsin(file)


def test_taken_address_and_taken_ledger_raise_at_the_start(tmp_path: Path) -> None:
    with Tocsin(config(tmp_path)) as first:
        other = config(tmp_path)
        with pytest.raises(LedgerError) as taken, Tocsin(other):
            pass
        assert taken.value.reason == errors.LedgerReason.LOCKED
        other["web"]["listen"] = first.address.removeprefix("http://")
        with pytest.raises(ListenError, match="address already in use"), Tocsin(other):
            pass
    with Tocsin(config(tmp_path)):
        pass


@pytest.fixture
def stall(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Ends Tocsin once it is set, as a source with `on_stall: exit` does."""
    event = threading.Event()

    async def end(self: Any) -> None:
        await until(event.is_set)
        self.stall = "source shop: silent"
        self.ending.set()

    monkeypatch.setattr("tocsin.app.runtime.Runtime.run_maintenance", end)
    return event


def test_error_in_the_thread_is_raised_at_the_end(tmp_path: Path, stall: threading.Event) -> None:
    def block() -> None:
        with Tocsin(config(tmp_path)) as tocsin:
            stall.set()
            seen(lambda: tocsin.problems() == ["source shop: silent"], "the reason")

    with pytest.raises(StallError, match="source shop: silent"):
        block()


@pytest.mark.parametrize("error", [None, ValueError("of the program")])
async def test_error_of_the_program_counts_more_than_that_of_tocsin(
    tmp_path: Path, stall: threading.Event, error: Exception | None
) -> None:
    async def block() -> None:
        async with Tocsin(config(tmp_path)) as tocsin:
            stall.set()
            with contextlib.suppress(StallError):
                await tocsin.wait()
                pytest.fail("it did not raise")
            assert tocsin.problems() == ["source shop: silent"]
            if error is not None:
                raise error

    with pytest.raises(type(error) if error else StallError, match=str(error or "source shop: silent")):
        await block()


async def test_start_that_is_cancelled_leaves_the_ledger_free(tmp_path: Path) -> None:
    for steps in range(30):  # so many steps of the event loop after it began
        entering = asyncio.create_task(Tocsin(config(tmp_path)).__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        entering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await entering).__aexit__(None, None, None)
    async with Tocsin(config(tmp_path)):
        pass


def test_signals_need_the_main_thread(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use `async with`"), Tocsin(config(tmp_path), signals=True):
        pass
    assert issubclass(StallError, TocsinError)


# Programs.


@asynccontextmanager
async def program(directory: Path, code: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """A program that logs, once Tocsin runs in it, and its lines on standard error."""
    (directory / "main.py").write_text(f"import logging\nlogging.basicConfig(level='INFO')\n{code}")
    pipe = asyncio.subprocess.PIPE
    started = await asyncio.create_subprocess_exec(sys.executable, "main.py", cwd=directory, stderr=pipe)
    assert started.stderr is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(SOON):
            async for line in started.stderr:
                lines.append(line.decode())
                if "running" in lines[-1]:
                    break
        yield started, lines
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


async def test_first_program_of_the_page_ends_by_interrupt(tmp_path: Path) -> None:
    write(tmp_path / "tocsin.yaml", config(tmp_path, type="console"))
    async with program(tmp_path, blocks("python-api.md", "python")[0]) as (process, lines):
        running = r"INFO:tocsin\.app:.*running.* alerts=1 channels=1 listen=http://127.0.0.1:\d+\n"
        assert re.fullmatch(running, lines[-1])
        process.send_signal(signal.SIGINT)
        _, rest = await process.communicate()
    assert b"stopping" in rest
    assert process.returncode == -signal.SIGINT  # KeyboardInterrupt


async def test_program_that_asks_for_signals_reloads_and_ends(tmp_path: Path) -> None:
    write(tmp_path / "tocsin.yaml", config(tmp_path, type="console"))
    async with program(tmp_path, 'import tocsin\ntocsin.run("tocsin.yaml", signals=True)') as (process, _):
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        async with asyncio.timeout(SOON):
            while b"configuration applied" not in await process.stderr.readline():
                pass
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_other_programs_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, with_file, lifespan, with_mapping = blocks("python-api.md", "python")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tocsin.yaml", config(tmp_path, type="console"))
    worked: list[str] = []

    def work() -> None:
        worked.append("yes")

    quiet: dict[str, Any] = {"work": work}
    await asyncio.to_thread(exec, with_file, quiet)
    monkeypatch.setitem(sys.modules, "my_service", sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], "notified", handled, raising=False)
    free = with_mapping.replace("config = {", 'config = {\n"web": {"listen": "127.0.0.1:0"},')
    await asyncio.to_thread(exec, free, {"work": work})
    assert worked == ["yes", "yes"]
    names: dict[str, Any] = {}
    exec(lifespan, names)

    class App:
        class state:  # noqa: N801 - as Starlette calls it
            pass

    async with names["lifespan"](App):
        assert App.state.tocsin.address  # type: ignore[attr-defined]
