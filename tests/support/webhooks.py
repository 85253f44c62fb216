"""Webhook channels against a receiver on 127.0.0.1."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.messages import message
from support.receiver import Receiver
from tocsin.channels import webhook
from tocsin.channels.base import Message, Result


class Hooks:
    """Makes channels of the alert `late` that send to the receiver, and closes them at the end."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.made: list[webhook.Webhook] = []

    def build(self, now: float = 0.0, route: dict[str, Any] | None = None, **settings: Any) -> webhook.Webhook:
        """`route`: options of the alert `late` over those of the channel. `url` may be relative to the receiver."""
        url = settings.pop("url", "/hook")
        whole = f"{self.receiver.url}{url}" if url.startswith("/") else url
        config = webhook.Config.model_validate({"type": "webhook", "url": whole, **settings})
        names = webhook.Options.model_fields
        common = {name: value for name, value in settings.items() if name in names}
        options = webhook.Options.model_validate({**common, **(route or {})})
        self.made.append(webhook.build("hook", config, {"late": options}, now=lambda: now))
        return self.made[-1]

    async def sent(self, what: Message | None = None, **settings: Any) -> Result:
        """The result of one message through a channel of its own."""
        [result] = await self.build(**settings).send([what or message()])
        return result

    async def close(self) -> None:
        for channel in self.made:
            await channel.close()


@asynccontextmanager
async def hooks() -> AsyncIterator[Hooks]:
    """A receiver, and channels to it."""
    async with Receiver() as receiver:
        made = Hooks(receiver)
        try:
            yield made
        finally:
            await made.close()
