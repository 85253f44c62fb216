"""A handler that keeps what it is called with."""

from typing import Any, Self

from support.channel_benches import HttpBench
from tocsin.handlers import Envelope


class Inbox:
    """A callable object."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    def __call__(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)


INBOX = Inbox()


class Bench(HttpBench):
    http = False

    async def __aenter__(self) -> Self:
        INBOX.envelopes.clear()
        return await super().__aenter__()

    def settings(self, url: str) -> dict[str, Any]:
        return {"handler": f"{__name__}:INBOX"}

    def arrived(self) -> list[Any]:
        return sorted(INBOX.envelopes, key=lambda envelope: envelope["id"])
