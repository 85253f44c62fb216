"""The demo's inbox as the receiver in tests: messages to people through Novu, and requests to webhooks."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from support.ports import free_port
from tocsin_demo.inbox.app import serving
from tocsin_demo.inbox.inbox import Inbox, Logged, Settings
from tocsin_demo.inbox.model import Notification

TRIGGERS = ("/v1/events/trigger", "/v1/events/trigger/bulk")


@dataclass(slots=True, kw_only=True)
class InboxServer:
    """The inbox at a port that can be closed and opened again. What arrived is kept."""

    core: Inbox
    port: int
    _open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        await self._open.enter_async_context(serving(self.core, port=self.port))

    async def close(self) -> None:
        """Refuse connections from now on."""
        await self._open.aclose()

    def messages(self) -> list[Notification]:
        """The messages to people, each with its payload."""
        return [each for each in self.core.engine.worker.notifications.values() if each.messages]

    def cancels(self) -> list[Logged]:
        """Requests that cancel an event."""
        return [each for each in self.core.requests if each.method == "DELETE"]

    def triggers(self) -> list[Logged]:
        """Requests that send events."""
        return [each for each in self.core.requests if each.method == "POST" and each.path in TRIGGERS]

    def people(self) -> Counter[tuple[str, str, str]]:
        """Messages to people about spikes: person, workflow and organization, and the number of ids."""
        ids = {
            (each.subscriber_id, each.workflow.workflow_id, each.payload["labels"]["organization"], each.transaction_id)
            for each in self.messages()
            if "organization" in each.payload["labels"]
        }
        return Counter(each[:3] for each in ids)

    def audit(self) -> Counter[tuple[str, str]]:
        """Notifications to the audit about spikes: kind and organization, and the number of ids."""
        bodies = [body for body in self.delivered("audit") if "organization" in body["row"]]
        ids = {(body["status"], body["row"]["organization"], body["id"]) for body in bodies}
        return Counter(each[:2] for each in ids)

    def alerts(self) -> Counter[tuple[str, str]]:
        """Alertmanager's alerts about spikes: status and organization, and the number of start times."""
        found = {
            (alert["status"], alert["labels"]["organization"], alert["startsAt"])
            for group in self.groups()
            for alert in group["alerts"]
        }
        return Counter(each[:2] for each in found)

    def groups(self, name: str = "DeploymentSpike") -> list[Any]:
        """Alertmanager's messages about the alert of a name."""
        bodies = self.delivered("alertmanager")
        return [body for body in bodies if body["groupLabels"]["alertname"] == name]

    def delivered(self, name: str) -> Iterator[Any]:
        """The bodies that came to a webhook."""
        return (each.body for each in self.core.engine.deliveries.values() if each.name == name)


@asynccontextmanager
async def inbox_server(api_key: str | None = None) -> AsyncIterator[InboxServer]:
    """An open inbox that makes the workflows it is asked for. `api_key`: the only accepted one."""
    made = InboxServer(core=Inbox(Settings(api_key=api_key, auto_workflows=True)), port=free_port())
    await made.open()
    try:
        yield made
    finally:
        await made.close()
