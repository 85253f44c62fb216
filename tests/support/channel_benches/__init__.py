"""What the contract suite of the channels needs of each kind: one module here per kind, named like it, with a class
`Bench`."""

import importlib
from types import TracebackType
from typing import Any, Protocol, Self

from support.receiver import Receiver


class Bench(Protocol):
    """One kind of channel, its least configuration, and how to see what arrived at the other end. An `async with`
    starts that end on 127.0.0.1."""

    http: bool
    """Whether the channel speaks HTTP with `receiver`, and keeps the part of the contract that is about HTTP too."""

    receiver: Receiver

    def settings(self, url: str) -> dict[str, Any]:
        """The least configuration, without `type`. `url`: the receiver's address, or one where nobody listens."""
        ...

    def extras(self) -> dict[str, Any]:
        """Further arguments of `build`."""
        ...

    def arrived(self) -> list[Any]:
        """The envelopes that reached the other end, oldest first."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


SECRET = "S3CR3T-and-quite-long"


def bench(kind: str) -> Bench:
    """The bench of a kind of channel."""
    made: Bench = importlib.import_module(f"{__name__}.{kind}").Bench()
    return made


class HttpBench:
    """What the benches of channels that speak HTTP share: a receiver."""

    http = True

    def __init__(self) -> None:
        self.receiver = Receiver()

    def extras(self) -> dict[str, Any]:
        return {}

    async def __aenter__(self) -> Self:
        await self.receiver.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.receiver.__aexit__(kind, error, trace)
