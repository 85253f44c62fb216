"""Waiting for some work on a connection."""

import asyncio
import gc
from typing import Any

from tocsin.postgres import within


async def test_work_that_fails_while_cancelled_logs_nothing() -> None:
    """The cancellation comes in the moment in which the work fails."""
    logged: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await answer

    connection: Any = None  # not used, as the work has ended
    waiting = asyncio.create_task(within(10.0, connection, work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer.set_exception(OSError("closed"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    del waiting
    gc.collect()
    assert not logged
