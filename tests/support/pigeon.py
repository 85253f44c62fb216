"""A kind of channel that Tocsin does not have: the least that one module can be, for tests that add a kind."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

from tocsin.channels.base import Delivered, Message, Result
from tocsin.channels.settings import ChannelConfig, ChannelOptions
from tocsin.model import Kind


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    loft: str
    """Where the pigeon flies to."""


class Config(ChannelConfig, Options):
    """A pigeon with a note. Needs the extra `pigeon`: pip install 'tocsin[pigeon]'."""

    type: Literal["pigeon"] = "pigeon"
    """The kind of channel."""


def build(name: str, config: Config, routes: Mapping[str, Options]) -> "Pigeon":
    """Make the channel."""
    return Pigeon(routes)


class Pigeon:
    """`arrived`: loft and id of each message."""

    needs_previous_ids: AbstractSet[Kind] = frozenset()

    def __init__(self, routes: Mapping[str, Options]) -> None:
        self._routes = routes
        self.arrived: list[tuple[str, str]] = []

    def batch_size(self, pending: int) -> int:
        return 1

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        self.arrived += [(self._routes[message.alert].loft, message.id) for message in messages]
        return [Delivered()] * len(messages)

    async def close(self) -> None:
        """Nothing to let go of."""
