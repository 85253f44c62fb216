"""The latest transitions, and new ones as they come, for the page and `tocsin tail`."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from tocsin.model import Transition

_RECENT = 200
_BEHIND = 1_000
"""Transitions that a slow reader may be behind before it is closed: a reader must never delay the pipeline."""


class Feed:
    """Publishes to any number of readers without ever waiting for one."""

    def __init__(self) -> None:
        self._recent: deque[Transition] = deque(maxlen=_RECENT)
        self._readers: set[asyncio.Queue[Transition | None]] = set()

    @property
    def readers(self) -> int:
        """How many read the feed now."""
        return len(self._readers)

    def publish(self, transitions: Sequence[Transition]) -> None:
        """Pass on what has just been committed."""
        self._recent.extend(transitions)
        for reader in list(self._readers):
            if reader.qsize() + len(transitions) > _BEHIND:
                self._readers.discard(reader)
                reader.put_nowait(None)
                continue
            for transition in transitions:
                reader.put_nowait(transition)

    async def follow(self) -> AsyncGenerator[Transition, None]:
        """The recent transitions, then each new one; ends for a reader that falls too far behind, and at the end."""
        reader: asyncio.Queue[Transition | None] = asyncio.Queue()
        recent = list(self._recent)
        self._readers.add(reader)
        try:
            for transition in recent:
                yield transition
            while (following := await reader.get()) is not None:
                yield following
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        """End every reader."""
        for reader in self._readers:
            reader.put_nowait(None)
        self._readers.clear()
