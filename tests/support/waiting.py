"""Waiting by polling, for conditions without an event."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

SOON = 20.0
"""Seconds that something immediate may take on a busy machine."""
PATIENCE = 60.0
"""Seconds that a condition is waited for: a busy machine makes tests slow, not wrong."""

_T = TypeVar("_T")


async def until(
    condition: Callable[[], object], what: str = "", within: float = PATIENCE, *, longest: float = 0.01
) -> None:
    """Wait until a condition holds. Raises TimeoutError, which names `what` was waited for."""
    await until_some(lambda: _answered(condition()), what, within, longest=longest)


async def until_some(
    probe: Callable[[], Awaitable[_T]], what: str = "", within: float = PATIENCE, *, longest: float = 0.1
) -> _T:
    """Poll until the result is true, and return it. An AssertionError counts as false; at the end the last one is
    raised. The pauses grow to `longest`, since a poll takes time from what is waited for."""
    last: AssertionError | None = None
    pause = 0.01
    try:
        async with asyncio.timeout(within):
            while True:
                try:
                    found = await probe()
                except AssertionError as error:
                    last = error
                else:
                    last = None
                    if found:
                        return found
                await asyncio.sleep(pause)
                pause = min(pause * 1.2, longest)
    except TimeoutError:
        if last is not None:
            raise last from None
        raise TimeoutError(f"not within {within:g} s: {what}") from None


async def until_equal(read: Callable[[], Awaitable[object]], wanted: object, what: str) -> None:
    """Poll until a value is this one. A failure names both."""

    async def probe() -> bool:
        found = await read()
        assert found == wanted, f"{what} is {found}, not {wanted}"
        return True

    await until_some(probe)


def seen(probe: Callable[[], _T | None], what: str, within: float = PATIENCE) -> _T:
    """Poll until the result is true, and return it, without an event loop."""
    deadline = time.monotonic() + within
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.02)
    return found


async def _answered(value: object) -> object:
    return value
