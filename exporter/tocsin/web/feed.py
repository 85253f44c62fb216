"""Transitions for whoever watches: `tocsin tail` and the status page."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable

from tocsin.web.overview import TransitionRecord


class Feed:
    """Hands each transition to every reader, the latest `recent` of them also to one that comes later.

    Publishing never waits. A reader that falls `backlog` transitions behind is dropped: its iterator ends, and it can
    come again.
    """

    def __init__(self, *, recent: int = 100, backlog: int = 1_000) -> None:
        self._recent: deque[TransitionRecord] = deque(maxlen=recent)
        self._backlog = backlog
        self._readers: set[asyncio.Queue[TransitionRecord | None]] = set()

    def publish(self, transitions: Iterable[TransitionRecord]) -> None:
        for transition in transitions:
            self._recent.append(transition)
            for reader in list(self._readers):
                if reader.qsize() < self._backlog:
                    reader.put_nowait(transition)
                else:
                    self._readers.discard(reader)
                    reader.put_nowait(None)

    async def read(self) -> AsyncGenerator[TransitionRecord, None]:
        reader: asyncio.Queue[TransitionRecord | None] = asyncio.Queue()
        for recent in self._recent:
            reader.put_nowait(recent)
        self._readers.add(reader)
        try:
            while (transition := await reader.get()) is not None:
                yield transition
        finally:
            self._readers.discard(reader)
