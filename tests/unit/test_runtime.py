"""The objects of one process."""

import asyncio
from types import SimpleNamespace
from typing import Any

from tocsin.app.runtime import Runtime
from tocsin.errors import LedgerError, LedgerReason
from tocsin.exposition import Metrics


async def test_check_of_a_closed_ledger_says_nothing() -> None:
    """A reload that waits closes the ledger while it is being checked."""
    checking, closed = asyncio.Event(), asyncio.Event()

    async def backlog() -> dict[str, Any]:
        checking.set()
        await closed.wait()
        raise LedgerError("the ledger is closed", LedgerReason.FAILED)

    async with asyncio.TaskGroup() as tasks:
        runtime = Runtime(tasks, Metrics("0"))
        ledger: Any = SimpleNamespace(backlog=backlog)
        runtime.ledger = ledger
        maintenance = tasks.create_task(runtime.run_maintenance())
        await checking.wait()
        runtime.ledger, runtime.ledger_fault = None, "standing by"
        closed.set()
        await asyncio.sleep(0.05)
        assert runtime.ledger_fault == "standing by"
        maintenance.cancel()
