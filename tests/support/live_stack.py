"""The flow of the full stack on a live Materialize and a live broker: Tocsin with the shipped configuration, except for
addresses and paths, and an inbox."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from psycopg.conninfo import conninfo_to_dict

from support.inbox_server import InboxServer, inbox_server
from support.live_model import DSN, Model
from support.notifications import LONG, until_ready
from support.stack import KEY_FILE, tocsin_config
from support.tcp_proxy import TcpProxy
from support.tocsin import TocsinProcess, running
from support.waiting import until, until_some

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Stack:
    """`proxy` is between Tocsin and Materialize."""

    folder: Path
    model: Model
    history: bool
    inbox: InboxServer
    proxy: TcpProxy
    config: dict[str, Any]

    @asynccontextmanager
    async def tocsin(self) -> AsyncIterator[TocsinProcess]:
        """Start Tocsin and wait until it is ready."""
        async with running(self.folder, self.config) as process:
            await until_ready(process)
            yield process

    async def ask(self, work: Callable[[], T]) -> T:
        """Run a blocking call of the server, while the inbox goes on."""
        return await asyncio.to_thread(work)

    async def organization(self, threshold: int = 5) -> str:
        return await self.ask(lambda: self.model.organization(threshold))

    def people(self, organization: str) -> Counter[str]:
        """The workflows of the messages to the owner of an organization, and the number of ids."""
        owner = f"owner-of-{organization}"
        return Counter(
            {flow: n for (who, flow, what), n in self.inbox.people().items() if (who, what) == (owner, organization)}
        )

    def audit(self, organization: str) -> Counter[str]:
        """Notifications to the audit about an organization: kind, and the number of ids."""
        return Counter({kind: n for (kind, what), n in self.inbox.audit().items() if what == organization})

    def sold(self, item: str) -> Counter[str]:
        """Notifications to the audit about an item: kind, and the number of ids."""
        bodies = [body for body in self.inbox.delivered("audit") if body["row"].get("item_name") == item]
        return Counter(kind for kind, _ in {(body["status"], body["id"]) for body in bodies})

    async def until(self, probe: Callable[[], object], what: str, within: float = LONG) -> None:
        await until(probe, what, within)


async def until_gauge(
    tocsin: TocsinProcess, metric: str, value: float | None, within: float = LONG, **labels: str
) -> None:
    """Wait until the series with these labels, among others, have this value together; None: there are none."""

    async def probe() -> bool:
        found = await shown(tocsin, metric, **labels)
        assert found == value, f"{metric}{labels} is {found}, not {value}"
        return True

    await until_some(probe, within=within)


async def shown(tocsin: TocsinProcess, metric: str, **labels: str) -> float | None:
    """The sum of the series with these labels, among others; None where there are none."""
    series = await tocsin.gauge(metric)
    found = [value for each, value in series.items() if labels.items() <= dict(each).items()]
    return sum(found) if found else None


@asynccontextmanager
async def stacked(folder: Path, model: Model, *, history: bool) -> AsyncIterator[Stack]:
    """The stack, Tocsin apart. A further alert `spike` shows each row as 1, and for three seconds more as 0."""
    parts = conninfo_to_dict(DSN)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(str(parts["host"]), int(parts.get("port") or 6875)))
        inbox = await stack.enter_async_context(inbox_server(KEY_FILE.read_text(encoding="utf-8").strip()))
        source = {
            "host": "127.0.0.1",
            "port": proxy.port,
            "database": str(parts.get("dbname") or "materialize"),
            "sslmode": str(parts.get("sslmode") or "prefer"),
            "user": model.role,
            "cluster": model.cluster,
        }
        config = tocsin_config(folder, inbox.url, source)
        config["alerts"]["spike"] = {
            "source": "materialize",
            "relation": config["alerts"]["deployment_spike"]["relation"],
            "labels": ["organization", "alert_name"],
            "linger": "3s",
        }
        yield Stack(folder=folder, model=model, history=history, inbox=inbox, proxy=proxy, config=config)
