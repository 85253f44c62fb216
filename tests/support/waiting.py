"""Waiting for what is outside this event loop's reach, by looking again and again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

SOON = 20.0
"""Seconds that anything may take which should be there at once; generous, for busy machines."""

_T = TypeVar("_T")


async def until(condition: Callable[[], object], what: str = "", within: float = SOON) -> None:
    """Wait until something is so. Raises TimeoutError, which says `what` was waited for."""
    await until_some(lambda: _answered(condition()), what, within)


async def until_some(look: Callable[[], Awaitable[_T]], what: str = "", within: float = SOON) -> _T:
    """Look until there is something true to see, and return it. An AssertionError counts as "not yet", and the last one
    is raised in the end."""
    last: AssertionError | None = None
    try:
        async with asyncio.timeout(within):
            while True:
                try:
                    found = await look()
                except AssertionError as error:
                    last = error
                else:
                    last = None
                    if found:
                        return found
                await asyncio.sleep(0.01)
    except TimeoutError:
        if last is not None:
            raise last from None
        raise TimeoutError(f"not within {within:g} s: {what}") from None


def seen(look: Callable[[], _T | None], what: str, within: float = SOON) -> _T:
    """Look until there is something true to see, and return it, where no event loop runs."""
    deadline = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.02)
    return found


async def _answered(value: object) -> object:
    return value
