"""The ledger of a configuration."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from tocsin.config.sections import LedgerSettings
from tocsin.ledger import sqlite
from tocsin.ledger.base import Ledger


async def opened(
    settings: LedgerSettings,
    *,
    exclusive: bool = True,
    waiting: Callable[[str], None] = lambda _: None,
    observe: Callable[[float], None] = lambda _: None,
) -> Ledger:
    """Open the ledger. `exclusive`: for the process that runs alerts. In PostgreSQL it waits until no other one does,
    and calls `waiting` with who does. Raises LedgerError."""
    if (server := settings.server()) is None:
        path = Path(settings.path)
        return await asyncio.to_thread(sqlite.open_ledger, path, exclusive=exclusive, observe=observe)
    from tocsin.ledger import postgres

    return await postgres.open_ledger(server, exclusive=exclusive, waiting=waiting, observe=observe)
