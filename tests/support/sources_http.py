"""The source of events over HTTP without a server in front of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tocsin.model import Event
from tocsin.sources import http as kind
from tocsin.sources.http import Http

TOKEN = "a-token-of-some-length"
NOW = 1_795_242_548


class Body:
    """A body in pieces. `read` counts the pieces that were requested; with `stays`, the last one never arrives."""

    def __init__(self, *pieces: bytes, stays: bool = False) -> None:
        self.read = 0
        self._pieces = pieces
        self._stays = stays

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.read += 1
            yield piece
        if self._stays:
            self.read += 1
            await asyncio.Event().wait()


def settings(**given: Any) -> kind.Config:
    """Settings of the source, with a token unless senders sign."""
    own = {} if "signing_secret" in given else {"token": TOKEN}
    return kind.Config.model_validate({**own, **given})


@asynccontextmanager
async def taking(events: list[Event] | None = None, *, now: float = NOW, **given: Any) -> AsyncIterator[Http]:
    """A source whose events are stored immediately, and collected."""
    source = kind.build("posted", settings(**given), clock=lambda: now)
    async with source.open([], position={}) as stream:

        async def take() -> None:
            async for batch in stream.batches():
                if events is not None:
                    events.extend(batch.events)
                await stream.acknowledge(batch, [])

        taker = asyncio.create_task(take())
        try:
            yield source
        finally:
            taker.cancel()
            await asyncio.gather(taker, return_exceptions=True)
