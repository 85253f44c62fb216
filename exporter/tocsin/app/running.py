"""What runs as a task of its own, and how it ends."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running(Generic[T]):
    """Something that runs, and the parts of the configuration it was made of: equal parts need no new one."""

    what: T
    task: asyncio.Task[None]
    parts: object


async def cancelled(running: Iterable[Running[T]]) -> None:
    """Cancel, and return when all have ended."""
    tasks = [one.task for one in running]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
