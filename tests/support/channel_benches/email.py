"""A mail server, and mails whose text is the whole envelope."""

import json
from types import TracebackType
from typing import Any, Self

from support.channel_benches import HttpBench
from support.smtp import MailServer
from tocsin.envelope import Envelope

_KEYS = sorted(Envelope.__required_keys__)
TEXT = "{" + ", ".join(f'"{key}": {{{{ {key} | json }}}}' for key in _KEYS) + "}"
"""A template of the envelope, as JSON."""


class Bench(HttpBench):
    http = False

    def __init__(self) -> None:
        super().__init__()
        self.server = MailServer()

    def settings(self, url: str) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.server.port,
            "security": "none",
            "from": "tocsin@example.com",
            "to": ["ann@example.com"],
            "text": TEXT,
        }

    def arrived(self) -> list[Any]:
        return [json.loads(mail.part("plain")) for mail in self.server.mails]

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.server.__aexit__(kind, error, trace)
        await super().__aexit__(kind, error, trace)
