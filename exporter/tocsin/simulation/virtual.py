"""An event loop whose time is virtual: when nothing is left to do, it is at once the time of the next timer.

Threads work in real time. While one works, virtual time stays, so that a timeout never fires over work that takes a
moment. The loop knows of the threads that it starts itself (`asyncio.to_thread`). Of others, as the ledger's writer, it
knows by `working`.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, TypeVarTuple, cast

from tocsin.errors import TocsinError
from tocsin.ledger.base import Ledger

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class NothingHappensError(TocsinError):
    """What runs in virtual time waits for something that can never happen."""


class _Selector(selectors.DefaultSelector):
    """Waits for threads only, and otherwise has virtual time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.working = 0
        """Calls that threads work on."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.working and (timeout is None or timeout > 0):
            return super().select()  # a thread that is ready wakes the loop
        if found := super().select(0):
            return found
        if timeout is None:
            raise NothingHappensError("a defect: everything waits, and no timer is set")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time begins at 0, in seconds."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    @contextmanager
    def working(self) -> Iterator[None]:
        """Virtual time stays within the block, which waits for a thread."""
        self._virtual.working += 1
        try:
            yield
        finally:
            self._virtual.working -= 1

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> "asyncio.Future[T]":
        future = super().run_in_executor(executor, func, *args)
        self._virtual.working += 1
        future.add_done_callback(self._worked)
        return future

    async def shutdown_default_executor(self, *_: object, **__: object) -> None:
        with self.working():
            await super().shutdown_default_executor()

    def _worked(self, _: "asyncio.Future[Any]") -> None:
        self._virtual.working -= 1


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class _Counted:
    """A ledger during whose calls virtual time stays."""

    def __init__(self, ledger: Ledger, loop: VirtualLoop) -> None:
        self._ledger = ledger
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ledger, name)
        if not asyncio.iscoroutinefunction(found):
            return found
        call = cast("Callable[..., Awaitable[Any]]", found)

        @wraps(call)
        async def counted(*arguments: Any, **named: Any) -> Any:
            with self._loop.working():
                return await call(*arguments, **named)

        return counted


def counted(ledger: Ledger) -> Ledger:
    """A ledger that a virtual loop waits for."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return cast("Ledger", _Counted(ledger, loop))
