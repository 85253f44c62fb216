"""A watch or an intake at work in a test, and the pauses that it takes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol


class Follower(Protocol):
    async def run(self) -> None: ...


class Pauses:
    """The argument `sleep` of whoever takes one: notes how long it was to be, and lasts no time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def at_work(follower: Follower) -> AsyncIterator[None]:
    """It runs while the body does."""
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
