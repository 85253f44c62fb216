"""Sends in threads: one at a time to each URL, also beyond the timeout of an attempt."""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from tocsin.channels.threads import Threads
from tocsin.errors import Reason


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a send failed. `final`: a retry is pointless. Not `begun`: it was not tried."""

    reason: Reason
    detail: str
    final: bool = False
    begun: bool = True


Outcome = Failure | None
"""The result of a send; None: delivered."""

Work = Callable[[], Outcome]
"""A send. It blocks, and does not raise."""


class _Slots:
    """Slots for sends. `hung`: sends whose attempt is over."""

    def __init__(self, size: int) -> None:
        self.slots = asyncio.Semaphore(size)
        self.size = size
        self.hung = 0


class Sends:
    """A thread cannot be cancelled, so a send that exceeds its time blocks its URL until it ends: two sends to one URL
    never overlap, and at most one thread per URL hangs; for URLs made from rows, `made` threads together.

    A reload creates another object, which does not know what still hangs in the old one."""

    def __init__(self, name: str, timeout: float, made: int) -> None:
        """`timeout`: seconds that a send waits for its slot, and then may take."""
        self._timeout = timeout
        self._threads = Threads(name)
        self._urls: WeakValueDictionary[str, _Slots] = WeakValueDictionary()
        self._made = _Slots(made)
        self._tasks: set[asyncio.Task[Outcome]] = set()

    async def run(self, url: str, work: Work, settle: Callable[[Outcome], None], *, made: bool) -> Outcome:
        """Send when a slot is free. `made`: the URL is made from a row. `settle` gets the outcome when the send ends,
        before its URL is free again, also after the timeout."""
        one = self._urls.setdefault(url, _Slots(1))
        rooms = [one, self._made] if made else [one]
        if one.hung:
            return _waits("the previous send to this URL has not ended")
        if made and self._made.hung == self._made.size:
            return _waits(f"{self._made.hung} sends hang; no more are started")
        begun = asyncio.Event()
        task = asyncio.create_task(self._in_turn(rooms, begun, work, settle))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await begun.wait()
            if begun.is_set():
                await asyncio.wait({task}, timeout=self._timeout)
        finally:
            if not begun.is_set():
                task.cancel()
            elif not task.done():
                for room in rooms:
                    room.hung += 1
                task.add_done_callback(functools.partial(_ended, rooms))
        if not begun.is_set():
            return _waits(f"no free slot within {self._timeout:g} s")
        if not task.done():
            return Failure(Reason.TIMEOUT, f"no answer within {self._timeout:g} s")
        return task.result()

    async def close(self) -> None:
        """Abandon running sends."""
        self._threads.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _in_turn(
        self, rooms: Sequence[_Slots], begun: asyncio.Event, work: Work, settle: Callable[[Outcome], None]
    ) -> Outcome:
        async with contextlib.AsyncExitStack() as stack:
            for room in rooms:
                await stack.enter_async_context(room.slots)
            begun.set()
            outcome: Outcome = await self._threads.run(work)
            settle(outcome)
            return outcome


def _waits(why: str) -> Failure:
    return Failure(Reason.TIMEOUT, why, begun=False)


def _ended(rooms: Sequence[_Slots], _: asyncio.Task[Outcome]) -> None:
    for room in rooms:
        room.hung -= 1
