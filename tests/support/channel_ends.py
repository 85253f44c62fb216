"""The part of the contract suite that differs by type of channel: the minimal configuration, and the receiver on this
machine."""

import io
import json
import secrets
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import psycopg

from support.kafka import shared_kafka, stored
from support.postgres import shared_postgres
from support.receiver import Answer, Received, Receiver, of_json
from support.smtp import MailServer
from tocsin.envelope import Envelope

SECRET = "S3CR3T-and-quite-long"
TEXT = "{" + ", ".join(f'"{key}": {{{{ {key} | json }}}}' for key in sorted(Envelope.__required_keys__)) + "}"
"""A template of the whole envelope, as JSON."""


class End(ABC):
    """The other end of a channel. `http`: whether the channel keeps the part of the contract that is about HTTP."""

    http = False

    def __init__(self) -> None:
        self.receiver = Receiver()
        self._stack = AsyncExitStack()

    @abstractmethod
    def settings(self, url: str) -> dict[str, Any]:
        """The minimal configuration, without `type`. `url`: the receiver's address, or one without a server."""

    def extras(self) -> dict[str, Any]:
        """Further arguments of `build`."""
        return {}

    @abstractmethod
    def arrived(self) -> list[Any]:
        """The envelopes that arrived, oldest first."""

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.receiver)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()


class WebhookEnd(End):
    http = True

    def settings(self, url: str) -> dict[str, Any]:
        return {"url": f"{url}/hook", "headers": {"Authorization": f"Bearer {SECRET}"}}

    def arrived(self) -> list[Any]:
        return [request.json for request in self.receiver.requests]


class NovuEnd(End):
    """A receiver that answers like Novu."""

    http = True

    def __init__(self) -> None:
        super().__init__()
        self.receiver.otherwise = self._accept

    def settings(self, url: str) -> dict[str, Any]:
        return {"url": url, "api_key": SECRET, "workflow": "w", "recipients": ["sub-1"], "max_payload": 8_000_000}

    def arrived(self) -> list[Any]:
        bodies = (request.json for request in self.receiver.requests)
        return [event["payload"] for body in bodies for event in body.get("events", [body])]

    @staticmethod
    def _accept(request: Received) -> Answer:
        entry = {"acknowledged": True, "status": "processed", "transactionId": "x"}
        events = request.json.get("events")
        return of_json(201, {"data": entry if events is None else [entry] * len(events)})


class AppriseEnd(End):
    """A receiver of Apprise's own JSON."""

    def settings(self, url: str) -> dict[str, Any]:
        return {"urls": [url.replace("http://", "json://")], "body": TEXT}

    def arrived(self) -> list[Any]:
        return [json.loads(request.json["message"]) for request in self.receiver.requests]


class ConsoleEnd(End):
    """Standard output in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.printed = io.StringIO()

    def settings(self, url: str) -> dict[str, Any]:
        return {"format": "json"}

    def extras(self) -> dict[str, Any]:
        return {"stream": self.printed}

    def arrived(self) -> list[Any]:
        return [json.loads(line) for line in self.printed.getvalue().splitlines()]


class EmailEnd(End):
    """A mail server."""

    def __init__(self) -> None:
        super().__init__()
        self.server = MailServer()

    def settings(self, url: str) -> dict[str, Any]:
        addresses = {"from": "tocsin@example.com", "to": ["ann@example.com"]}
        return {"host": "127.0.0.1", "port": self.server.port, "security": "none", **addresses, "text": TEXT}

    def arrived(self) -> list[Any]:
        return [json.loads(mail.part("plain")) for mail in self.server.mails]

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.server)
        return await super().__aenter__()


class KafkaEnd(End):
    """A topic of its own in a real Kafka, one for all tests of a process."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = shared_kafka()
        self.topic = f"contract-{uuid.uuid4().hex[:8]}"

    def settings(self, url: str) -> dict[str, Any]:
        # The broker takes 1 MB, and the suite sends more.
        large = {"compression": "lz4", "max_bytes": 8_000_000}
        return {"bootstrap_servers": [self.broker.brokers], "topic": self.topic, "create": True, **large}

    def arrived(self) -> list[Any]:
        return [json.loads(record.value() or b"null") for record in stored(self.broker, self.topic)]


class PostgresEnd(End):
    """A table of its own in a real PostgreSQL, one server for all tests of a process."""

    def __init__(self) -> None:
        super().__init__()
        self.dsn = shared_postgres().dsn()
        self.table = f"contract_{secrets.token_hex(4)}"

    def settings(self, url: str) -> dict[str, Any]:
        return {"dsn": self.dsn, "table": self.table, "create": True}

    def arrived(self) -> list[Any]:
        with psycopg.connect(self.dsn) as connection:
            rows = connection.execute(f"SELECT envelope, exact FROM {self.table} ORDER BY written_at").fetchall()
        return [envelope if exact is None else json.loads(exact) for envelope, exact in rows]


class PythonEnd(End):
    """A handler that keeps its envelopes."""

    def __init__(self) -> None:
        super().__init__()
        HANDLED.clear()

    def settings(self, url: str) -> dict[str, Any]:
        return {"handler": f"{__name__}:handle"}

    def arrived(self) -> list[Any]:
        return sorted(HANDLED, key=lambda envelope: envelope["id"])


HANDLED: list[Envelope] = []


def handle(envelope: Envelope) -> None:
    """The handler of `PythonEnd`."""
    HANDLED.append(envelope)


ENDS: dict[str, Callable[[], End]] = {
    "webhook": WebhookEnd,
    "novu": NovuEnd,
    "apprise": AppriseEnd,
    "console": ConsoleEnd,
    "email": EmailEnd,
    "kafka": KafkaEnd,
    "postgres": PostgresEnd,
    "python": PythonEnd,
}
HTTP = ["novu", "webhook"]
"""The kinds that speak HTTP with the receiver."""
