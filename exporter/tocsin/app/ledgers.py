"""The ledger of a configuration."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from tocsin.config.sections import LedgerSettings
from tocsin.errors import LedgerError
from tocsin.ledger import sqlite
from tocsin.ledger.base import Ledger


async def opened(
    settings: LedgerSettings,
    *,
    runs_alerts: bool = True,
    configuration: Callable[[], Mapping[str, str]] = dict,
    address: str = "",
    waiting: Callable[[str | LedgerError], None] = lambda _: None,
    observe: Callable[[float], None] = lambda _: None,
) -> Ledger:
    """Open the ledger. `runs_alerts`: for such a process, with this `configuration` (part -> hash). In PostgreSQL it
    waits while others run another one, and calls `waiting` with who does. Raises LedgerError."""
    if (server := settings.server()) is None:
        return await _opened_file(Path(settings.path), runs_alerts=runs_alerts, observe=observe)
    from tocsin.ledger import postgres

    return await postgres.open_ledger(
        server,
        runs_alerts=runs_alerts,
        configuration=configuration,
        address=address,
        waiting=waiting,
        observe=observe,
    )


async def _opened_file(path: Path, *, runs_alerts: bool, observe: Callable[[float], None]) -> Ledger:
    work = asyncio.to_thread(sqlite.open_ledger, path, runs_alerts=runs_alerts, observe=observe)
    opening = asyncio.create_task(work)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        # The thread goes on, and a ledger that no one closes would stay locked as long as the program runs.
        await asyncio.wait({opening})
        if opening.exception() is None:
            await opening.result().close()
        raise
