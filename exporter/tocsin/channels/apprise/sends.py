"""Sends in threads: one at a time to each URL, also beyond the timeout of an attempt."""

import asyncio
import contextlib
from collections.abc import Callable
from weakref import WeakValueDictionary

from tocsin.channels.base import Result, Retry
from tocsin.channels.threads import Threads
from tocsin.errors import Reason

_STILL_RUNNING = 5.0
"""Seconds before checking again whether a hanging send has ended."""


class Sends:
    """A thread cannot be cancelled, so a send that exceeds its time blocks its URL until it ends: two sends to one URL
    never overlap, and at most one thread per URL hangs; for URLs made from rows, `made` threads together.

    A reload creates another object, which does not know what still hangs in the old one."""

    def __init__(self, name: str, timeout: float, made: int) -> None:
        """`timeout`: seconds that a send waits for its turn, and then may take."""
        self._timeout = timeout
        self._threads = Threads(name)
        self._urls: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._made = asyncio.Semaphore(made)
        self._tasks: set[asyncio.Task[Result]] = set()

    async def run(
        self, url: str, work: Callable[[], Result], settle: Callable[[Result], None], *, made: bool
    ) -> Result:
        """Send in a thread when it is the URL's turn. `made`: the URL is made from a row. `work` does not raise.
        `settle` gets the result when the send ends, before its URL is free again, also after the timeout."""
        begun = asyncio.Event()
        task = asyncio.create_task(self._in_turn(url, begun, work, settle, made=made))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await begun.wait()
        finally:
            if not begun.is_set():
                task.cancel()
        if not begun.is_set():
            # Nothing was started, so the attempt does not count.
            why = f"no free slot within {self._timeout:g} s"
            return Retry(Reason.TIMEOUT, why, after=_STILL_RUNNING, free=True)
        await asyncio.wait({task}, timeout=self._timeout)
        return task.result() if task.done() else Retry(Reason.TIMEOUT, f"no answer within {self._timeout:g} s")

    async def close(self) -> None:
        """Abandon running sends."""
        self._threads.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _in_turn(
        self,
        url: str,
        begun: asyncio.Event,
        work: Callable[[], Result],
        settle: Callable[[Result], None],
        *,
        made: bool,
    ) -> Result:
        async with self._urls.setdefault(url, asyncio.Lock()), self._made if made else contextlib.nullcontext():
            begun.set()
            result: Result = await self._threads.run(work)
            settle(result)
            return result
