"""Threads for blocking calls that cannot be cancelled: handlers that are not `async`, services of a library."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

_Work: TypeAlias = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Threads:
    """As many threads as were ever busy at once; the caller bounds that number.

    They are daemons, unlike those of `concurrent.futures`: a hanging one must not keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._started = 0
        self._busy = 0

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run something in a thread and return its result. If it raises, RuntimeError names the exception."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._busy += 1
        if self._busy > self._started:
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        self._queue.put((loop, future, work))
        return await future

    def close(self) -> None:
        """End each thread when its work is done."""
        for _ in range(self._started):
            self._queue.put(None)
        self._started = 0

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            loop, future, work = item
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001 - SystemExit too; the thread and its place must not be lost
                error = RuntimeError(f"the work of a thread raised {type(raised).__name__}")
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._settle, future, result, error)
            del item, loop, future, work, result, error  # an idle thread keeps no references

    def _settle(self, future: "asyncio.Future[Any]", result: object, error: RuntimeError | None) -> None:
        self._busy -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
