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

    def confidential(self) -> dict[str, Any]:
        """Further settings: `SECRET` wherever this kind has secrets."""
        return {}

    @abstractmethod
    def arrived(self) -> list[Any]:
        """The envelopes that arrived, oldest first."""

    @abstractmethod
    def newest(self) -> dict[str, Any]:
        """What arrived last, as the channel's preview shows it."""

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

    def confidential(self) -> dict[str, Any]:
        body = {"token": "{{ secrets.token }}", "encoded": "{{ secrets.token | urlencode }}", "row": "{{ row }}"}
        secret_values = {"secrets": {"token": f'{SECRET}/+ "x'}, "query": {"key": SECRET}}
        secret_values["headers"] = {"X-Token": f"Bearer {SECRET}"}
        return {"url": f"https://user:{SECRET}@example.com/{SECRET}/x?token={SECRET}", "body": body, **secret_values}

    def arrived(self) -> list[Any]:
        return [request.json for request in self.receiver.requests]

    def newest(self) -> dict[str, Any]:
        request = self.receiver.requests[-1]
        headers = {name: request.headers[name.lower()] for name in ("Idempotency-Key", "Content-Type")}
        return {
            "method": request.method,
            "url": f"{self.receiver.url}/<secret>",
            "headers": {"Authorization": "<secret>", **headers},
            "body": request.json,
        }


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

    def newest(self) -> dict[str, Any]:
        body = self.receiver.requests[-1].json
        return {"workflow": body["name"], **{name: body[name] for name in ("transactionId", "to", "payload")}}

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

    def confidential(self) -> dict[str, Any]:
        return {"urls": [f"tgram://123:{SECRET}/45", f"json://user:{SECRET}@x/{SECRET}"], "title": "{{ row.note }}"}

    def newest(self) -> dict[str, Any]:
        content = self.receiver.requests[-1].json
        shown = {"title": content["title"], "body": content["message"]}
        return {"urls": ["json://<secret>"], **shown, "format": "text"}


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

    def newest(self) -> dict[str, Any]:
        return {"line": self.printed.getvalue().splitlines()[-1]}


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

    def confidential(self) -> dict[str, Any]:
        return {"username": "user", "password": SECRET, "security": "starttls", "subject": "{{ row.note }}"}

    def newest(self) -> dict[str, Any]:
        mail = self.server.mails[-1]
        shown = {"from": mail.sender, "to": [*mail.recipients], "subject": mail.parsed["subject"]}
        return {**shown, "text": mail.part("plain").removesuffix("\n")}

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

    def confidential(self) -> dict[str, Any]:
        return {"sasl_mechanism": "PLAIN", "sasl_username": "user", "sasl_password": SECRET}

    def newest(self) -> dict[str, Any]:
        record = stored(self.broker, self.topic)[-1]
        found = [header for header in record.headers() or () if isinstance(header, tuple)]
        headers = {name: value.decode() for name, value in found if isinstance(value, bytes)}
        key, value = record.key() or b"", record.value() or b"null"
        return {"topic": self.topic, "key": key.decode(), "headers": headers, "value": json.loads(value)}


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

    def confidential(self) -> dict[str, Any]:
        return {"dsn": f"postgresql://user:{SECRET}@localhost/db"}

    def newest(self) -> dict[str, Any]:
        columns = f"id, alert, status, fingerprint, {_moment('started_at')}, {_moment('at')}, envelope, exact"
        with psycopg.connect(self.dsn, row_factory=psycopg.rows.dict_row) as connection:
            found = connection.execute(f"SELECT {columns} FROM {self.table} ORDER BY written_at DESC").fetchone() or {}
        return {"table": self.table, "row": {name: value for name, value in found.items() if value is not None}}


def _moment(column: str) -> str:
    """A time in SQL as an envelope writes it."""
    return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS {column}"""


class PythonEnd(End):
    """A handler that keeps its envelopes."""

    def __init__(self) -> None:
        super().__init__()
        HANDLED.clear()

    def settings(self, url: str) -> dict[str, Any]:
        return {"handler": f"{__name__}:handle"}

    def arrived(self) -> list[Any]:
        return sorted(HANDLED, key=lambda envelope: envelope["id"])

    def confidential(self) -> dict[str, Any]:
        return {"handler": f"{__name__}:handle_secret", "secret_arguments": {"token": SECRET}}

    def newest(self) -> dict[str, Any]:
        return {"handler": f"{__name__}:handle", "envelope": HANDLED[-1]}


HANDLED: list[Envelope] = []


def handle(envelope: Envelope) -> None:
    """The handler of `PythonEnd`."""
    HANDLED.append(envelope)


def handle_secret(envelope: Envelope, token: str) -> None:
    """A handler with a secret argument."""


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
