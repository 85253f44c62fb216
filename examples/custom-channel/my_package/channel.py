"""The channel `mychat`: one line in a room of a chat for each notification."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import aiohttp

from tocsin.plugin import (
    Channel,
    ChannelConfig,
    ChannelOptions,
    Delivered,
    Message,
    Reason,
    Rejected,
    Result,
    Retry,
    Secret,
    Template,
    TemplateError,
    TemplateText,
)


class Options(ChannelOptions):
    """What an alert can set otherwise, in its `notify`."""

    templates: ClassVar = ("text",)

    room: str = "general"
    """The room."""
    text: TemplateText = "{{ alert }} {{ status }}"
    """The line."""


class Config(ChannelConfig, Options):
    """A chat: one line in a room for each notification."""

    secrets: ClassVar = ("url",)

    url: Secret
    """Where to post. Hidden, since it has a key."""
    url_file: str | None = None
    """A file that holds the `url`."""


def build(name: str, config: Config, routes: Mapping[str, Options]) -> "Chat":
    """Make the channel; connect to nothing yet. `routes`: the options of each alert that notifies it."""
    return Chat(config, routes)


class Chat(Channel):
    """Posts JSON. It only sends: Tocsin repeats, orders, limits and counts."""

    def __init__(self, config: Config, routes: Mapping[str, Options]) -> None:
        self._url = config.url.get_secret_value()
        self._timeout = aiohttp.ClientTimeout(total=config.timeout)
        self._routes = routes

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return [await self._post(message) for message in messages]

    def preview(self, message: Message) -> Mapping[str, str] | Rejected:
        options = self._routes[message.alert]
        try:
            text = Template(options.text).render(message.envelope)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, str(error))
        # The chat drops a line whose key it has seen.
        return {"room": options.room, "text": text, "key": message.key}

    async def _post(self, message: Message) -> Result:
        line = self.preview(message)
        if isinstance(line, Rejected):
            return line
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.post(self._url, json=line) as got,
            ):
                if got.status == 429 or got.status >= 500:
                    return Retry(Reason.SERVER_ERROR, f"status {got.status}")
                return Delivered() if got.ok else Rejected(Reason.REJECTED, f"status {got.status}")
        except TimeoutError:
            return Retry(Reason.TIMEOUT)
        except aiohttp.ClientError as error:
            return Retry(Reason.CONNECTION, type(error).__name__)
