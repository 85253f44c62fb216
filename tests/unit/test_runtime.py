"""The objects of one process."""

import asyncio
from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs

from support.waiting import until
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
        ledger: Any = SimpleNamespace(backlog=backlog, fault=None)
        runtime.ledger = ledger
        maintenance = tasks.create_task(runtime.run_maintenance())
        await checking.wait()
        runtime.ledger, runtime.ledger_fault = None, "standing by"
        closed.set()
        await asyncio.sleep(0.05)
        assert runtime.ledger_fault == "standing by"
        maintenance.cancel()


async def test_fault_shows_while_maintenance_hangs() -> None:
    """Behind a pooler whose server is away, a read waits for as long as it may."""
    hanging = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        runtime = Runtime(tasks, Metrics("0"))
        fault = LedgerError("the server is away", LedgerReason.FAILED)
        ledger: Any = SimpleNamespace(backlog=hanging.wait, fault=None)
        runtime.ledger = ledger
        maintenance = tasks.create_task(runtime.run_maintenance())
        await asyncio.sleep(0)
        ledger.fault = fault
        await until(lambda: runtime.ledger_fault == "the server is away", "the fault is reported")
        ledger.fault = None
        await until(lambda: not runtime.ledger_fault, "its end is reported")
        maintenance.cancel()


async def test_old_notifications_that_cannot_be_deleted_are_named() -> None:
    """Else the ledger grows, and nothing says why."""

    async def prune(*_: object) -> int:
        raise LedgerError("the role may not do that", LedgerReason.UNREADABLE)

    async with asyncio.TaskGroup() as tasks:
        runtime = Runtime(tasks, Metrics("0"))
        ledger: Any = SimpleNamespace(prune=prune, now=lambda: 0.0, sharing=SimpleNamespace(first=True))
        config: Any = SimpleNamespace(ledger=SimpleNamespace(history=60.0))
        runtime.ledger, runtime.config = ledger, config
        with capture_logs() as logged:
            keeping = tasks.create_task(runtime._keep_history())
            await until(lambda: logged, "the failure is logged")
        keeping.cancel()
    event = "old notifications cannot be deleted"
    assert {"event": event, "log_level": "warning", "error": "the role may not do that"} in logged
