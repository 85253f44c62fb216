"""A type of channel that Tocsin does not have, as short as a module can be, for tests that add a type."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

from tocsin.channels.base import Delivered, Message, Result
from tocsin.channels.settings import ChannelConfig, ChannelOptions
from tocsin.model import Kind


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    target: str
    """Where messages go."""


class Config(ChannelConfig, Options):
    """A sample. Needs the extra `sample`: pip install 'tocsin[sample]'."""

    type: Literal["sample"] = "sample"
    """The type of channel."""


class SampleChannel:
    """`sent`: target and id of each message."""

    needs_previous_ids: AbstractSet[Kind] = frozenset()

    def __init__(self, routes: Mapping[str, Options]) -> None:
        self._routes = routes
        self.sent: list[tuple[str, str]] = []

    def batch_size(self, pending: int) -> int:
        return 1

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        self.sent += [(self._routes[message.alert].target, message.id) for message in messages]
        return [Delivered()] * len(messages)

    async def close(self) -> None:
        """Nothing to close."""


def build(name: str, config: Config, routes: Mapping[str, Options]) -> SampleChannel:
    """Make the channel."""
    return SampleChannel(routes)
