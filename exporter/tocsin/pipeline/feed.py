"""The latest transitions, and new ones as they come, for the page and `tocsin tail`."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

from tocsin.model import Transition

_RECENT = 200
_BEHIND = 1_000
"""Transitions that a slow reader may be behind before it is closed: a reader must never delay the pipeline."""


class Feed:
    """Publishes to any number of readers without ever waiting for one."""

    def __init__(self) -> None:
        self._recent: deque[Transition] = deque(maxlen=_RECENT)
        self._readers: set[asyncio.Queue[Transition | None]] = set()
        self._closed = False
        self.published = 0
        """How many transitions there were since the start."""
        self.observers: list[Callable[[Sequence[Transition]], None]] = []
        """Called with each batch of transitions; must not wait."""

    @property
    def readers(self) -> int:
        """How many read the feed now."""
        return len(self._readers)

    def publish(self, transitions: Sequence[Transition]) -> None:
        """Pass on what has just been committed."""
        self._recent.extend(transitions)
        self.published += len(transitions)
        for observer in self.observers:
            observer(transitions)
        for reader in list(self._readers):
            if reader.qsize() + len(transitions) > _BEHIND:
                self._end(reader)
                continue
            for transition in transitions:
                reader.put_nowait(transition)

    def since(self, number: int) -> list[Transition]:
        """Return the transitions after the first `number`, as far back as they are kept."""
        kept = list(self._recent)
        return kept[max(0, len(kept) - (self.published - number)) :]

    async def follow(self, quiet: float) -> AsyncGenerator[Transition | None, None]:
        """The recent transitions, then each new one, and None after each `quiet` seconds without one. Ends for a reader
        that falls too far behind, and when the feed is closed."""
        reader: asyncio.Queue[Transition | None] = asyncio.Queue()
        for transition in self._recent:
            reader.put_nowait(transition)
        self._readers.add(reader)
        if self._closed:
            self._end(reader)
        try:
            while True:
                try:
                    async with asyncio.timeout(quiet):
                        following = await reader.get()
                except TimeoutError:
                    yield None
                    continue
                if following is None:
                    return
                yield following
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        """End every reader, also those that come later."""
        self._closed = True
        for reader in list(self._readers):
            self._end(reader)

    def _end(self, reader: "asyncio.Queue[Transition | None]") -> None:
        self._readers.discard(reader)
        reader.put_nowait(None)
