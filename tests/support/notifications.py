"""A view, an inbox behind it and Tocsin between them, on the double or on a live Materialize."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from support.inbox_server import InboxServer, inbox_server
from support.live import ColumnSpec, Server, TextRow, View
from support.tocsin import TocsinProcess, quick_channel, quick_source, running, running_with
from support.waiting import until_some

KEY = "key-of-the-inbox"
LONG = 60.0
"""Seconds that the first snapshot of a view, and its notifications, may take on a live server."""
COLUMNS: ColumnSpec = (("id", "int4"), ("item", "text"), ("amount", "numeric"), ("people", "text"))
PIZZA: TextRow = ("1", "pizza", "90.5", None)
ART: TextRow = ("2", "art", "7", None)
BIKE: TextRow = ("3", "bike", "110", None)
"""Rows. Their amounts have no zero at the end, which a live server would drop."""


@dataclass(slots=True, kw_only=True)
class Scenario:
    """`config`: plain data that a test may change before it starts the process. Two alerts' worth of channels: Novu
    and a webhook, both at the inbox."""

    folder: Path
    server: Server
    view: View
    inbox: InboxServer
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def alert(self) -> dict[str, Any]:
        alert: dict[str, Any] = self.config["alerts"]["sold"]
        return alert

    @asynccontextmanager
    async def run(self, **environment: str) -> AsyncIterator[TocsinProcess]:
        """Start Tocsin and wait until it is ready."""
        async with running(self.folder, self.config, **environment) as tocsin:
            await until_ready(tocsin)
            yield tocsin

    def variables(self, **more: str) -> dict[str, str]:
        """The environment variables that are the whole configuration."""
        parts = conninfo_to_dict(self.server.dsn)
        return {
            "NOVU_API_KEY": KEY,
            "NOVU_WORKFLOW_NAME": "sold",
            "NOVU_RECIPIENTS": "ann",
            "NOVU_URL": self.inbox.url,
            "MTZ_USER": str(parts["user"]),
            "MTZ_PASSWORD": str(parts.get("password") or "not-asked-for"),
            "MTZ_HOST": str(parts["host"]),
            "MTZ_PORT": str(parts.get("port") or 6875),
            "MTZ_SSLMODE": str(parts.get("sslmode") or "prefer"),
            "MTZ_DATABASE": str(parts.get("dbname") or "materialize"),
            "MTZ_ALERT_VIEW": self.view.name,
            "MTZ_PERSIST_TABLE": "sent",
            "MTZ_ALERT_PAYLOAD": "item,amount",
            "TOCSIN_LISTEN": "127.0.0.1:0",
            "LOG_LEVEL": "INFO",
            "LOG_OUTPUT": "stderr",
            "TOCSIN_CONFIG": "",
        } | more

    @asynccontextmanager
    async def run_by_variables(self, **more: str) -> AsyncIterator[TocsinProcess]:
        """Start Tocsin with environment variables only, and wait until it is ready."""
        async with running_with(self.folder, file=None, **self.variables(**more)) as tocsin:
            await until_ready(tocsin)
            yield tocsin

    def notified(self) -> list[tuple[str, str]]:
        """The notifications that arrived at the webhook, without repeats of one id: kind and item, in order."""
        first: dict[str, tuple[str, str]] = {}
        for body in self.inbox.delivered("hook"):
            first.setdefault(body["id"], (body["status"], body["row"]["item"]))
        return list(first.values())

    async def until_notified(self, *expected: tuple[str, str]) -> None:
        """Wait until exactly these notifications arrived at the webhook, in any order."""

        async def probe() -> bool:
            assert sorted(self.notified()) == sorted(expected), f"notified {self.notified()}, not {list(expected)}"
            return True

        await until_some(probe, within=LONG)

    async def until_messages(self, count: int) -> None:
        """Wait until people have so many messages."""

        async def probe() -> bool:
            found = len(self.inbox.messages())
            assert found == count, f"{found} messages, not {count}"
            return True

        await until_some(probe, within=LONG)


async def until_ready(tocsin: TocsinProcess) -> None:
    """As `Tocsin.until_ready`, for servers that have to read their views in first."""

    async def probe() -> bool:
        if not tocsin.running:
            pytest.fail(f"it has ended: {tocsin.log[-5:]}")
        reasons = await tocsin.ready()
        assert not reasons, reasons
        return True

    await until_some(probe, "ready", LONG)


@asynccontextmanager
async def new_scenario(
    folder: Path, server: Server, *rows: TextRow, columns: ColumnSpec = COLUMNS, retain: bool | int = True
) -> AsyncIterator[Scenario]:
    """A scenario whose view `sold` holds these rows."""
    async with inbox_server(KEY) as inbox:
        view = await server.view("sold", columns, *rows, retain=retain)
        source = quick_source(server.dsn, snapshot_timeout="60s", connect_timeout="10s", progress_timeout="10s")
        novu = {"type": "novu", "url": inbox.url, "api_key": KEY, "workflow": "sold", "recipients": ["ann"]}
        quick = {"timeout": "3s", "backoff_initial": "20ms", "backoff_max": "100ms", "max_attempts": 1000}
        config = {
            "web": {"listen": "127.0.0.1:0"},
            "ledger": {"path": str(folder / "ledger.db")},
            "sources": {"mz": source},
            "channels": {"novu": novu | quick, "hook": quick_channel(f"{inbox.url}/webhook/hook")},
            "alerts": {
                "sold": {
                    "source": "mz",
                    "relation": view.name,
                    "key": ["id"],
                    "labels": ["id", "item"],
                    "notify": ["hook"],
                }
            },
        }
        yield Scenario(folder=folder, server=server, view=view, inbox=inbox, config=config)
