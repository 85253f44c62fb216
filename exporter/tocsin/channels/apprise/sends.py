"""Sends in threads: one at a time to each URL, and what becomes of one that outlasts its attempt."""

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
    """Why an URL was not told. `final`: nothing will change that. Not `begun`: it was not even tried."""

    reason: Reason
    detail: str
    final: bool = False
    begun: bool = True


Outcome = Failure | None
"""What became of a send; None if it went well."""

Work = Callable[[], Outcome]
"""A send. It blocks, and does not raise."""


class _Room:
    """Room for so many sends at once. `hung`: those among them that nobody waits for any more."""

    def __init__(self, size: int) -> None:
        self.places = asyncio.Semaphore(size)
        self.size = size
        self.hung = 0


class Sends:
    """A thread cannot be ended. So a send that outlasts its time keeps its URL to itself until it ends: two to one URL
    never overlap, and as many threads hang at most as there are URLs, of those that rows make `made` together.

    This holds for one of these objects. One that is made anew, as a reload does, knows nothing of what still hangs in
    the one before."""

    def __init__(self, name: str, timeout: float, made: int) -> None:
        """`timeout`: seconds that a send waits for its turn, and then may take."""
        self._timeout = timeout
        self._threads = Threads(name)
        self._urls: WeakValueDictionary[str, _Room] = WeakValueDictionary()
        self._made = _Room(made)
        self._tasks: set[asyncio.Task[Outcome]] = set()

    async def run(self, url: str, work: Work, settle: Callable[[Outcome], None], *, made: bool) -> Outcome:
        """Send when its turn has come. `made`: the URL is made of a row. `settle` is told the outcome at once when the
        send ends, before its URL is free again, and also if nobody waits for it any more."""
        one = self._urls.setdefault(url, _Room(1))
        rooms = [one, self._made] if made else [one]
        if one.hung:
            return _waits("the send before, to the same URL, has not ended")
        if made and self._made.hung == self._made.size:
            return _waits(f"{self._made.hung} sends hang; no more are begun")
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
            return _waits(f"its turn did not come within {self._timeout:g} s")
        if not task.done():
            return Failure(Reason.TIMEOUT, f"no answer within {self._timeout:g} s")
        return task.result()

    async def close(self) -> None:
        """Let go of what still runs."""
        self._threads.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _in_turn(
        self, rooms: Sequence[_Room], begun: asyncio.Event, work: Work, settle: Callable[[Outcome], None]
    ) -> Outcome:
        async with contextlib.AsyncExitStack() as stack:
            for room in rooms:
                await stack.enter_async_context(room.places)
            begun.set()
            outcome: Outcome = await self._threads.run(work)
            settle(outcome)
            return outcome


def _waits(why: str) -> Failure:
    return Failure(Reason.TIMEOUT, why, begun=False)


def _ended(rooms: Sequence[_Room], _: asyncio.Task[Outcome]) -> None:
    for room in rooms:
        room.hung -= 1
