"""Threads for blocking work that cannot be cancelled."""

import asyncio
import threading

import pytest

from support.waiting import until
from tocsin.channels.threads import Threads


async def test_idle_thread_is_reused_before_new_one() -> None:
    threads = Threads("test")
    assert len({await threads.run(threading.get_ident) for _ in range(5)}) == 1
    both = threading.Barrier(2)
    assert len(set(await asyncio.gather(*(threads.run(lambda: both.wait(20)) for _ in range(2))))) == 2
    threads.close()


async def test_cancelled_hanging_work_does_not_block_others() -> None:
    threads = Threads("test")
    begun, go = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go.wait()

    hanging = asyncio.create_task(threads.run(hang))
    await until(begun.is_set)
    hanging.cancel()
    await asyncio.wait({hanging})
    async with asyncio.timeout(20):
        assert await threads.run(lambda: "done") == "done"
    go.set()
    threads.close()


async def test_thread_ends_after_close() -> None:
    threads = Threads("test-ending")
    await threads.run(lambda: None)
    threads.close()
    await until(lambda: not [each for each in threading.enumerate() if each.name.startswith("test-ending")])


@pytest.mark.parametrize("error", [ValueError, SystemExit])
async def test_raising_work_becomes_runtime_error_and_keeps_thread(error: type[BaseException]) -> None:
    threads = Threads("test")
    thread = await threads.run(threading.get_ident)

    def break_() -> None:
        raise error("secret")

    with pytest.raises(RuntimeError, match=f"^the work of a thread raised {error.__name__}$"):
        await asyncio.wait_for(threads.run(break_), 20)
    assert await asyncio.wait_for(threads.run(threading.get_ident), 20) == thread
    threads.close()
