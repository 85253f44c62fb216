"""Reading a source in tests: batch by batch, with what they add up to."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import cast

import pytest

from support.waiting import SOON
from tocsin.errors import SourceError, SourceReason
from tocsin.model import Batch, Columns, Row, Update
from tocsin.sources.base import Source, Stream, Subject


class Reading:
    """An open stream. `stream`: the source's own. `state`: what all batches so far add up to, a snapshot replacing what
    was before."""

    def __init__(self, stream: Stream, batches: AsyncIterator[Batch]) -> None:
        self.stream = stream
        self.columns: Columns = stream.columns
        self.batches: list[Batch] = []
        self.state: Counter[Row] = Counter()
        self._coming = batches

    @property
    def last(self) -> Batch:
        return self.batches[-1]

    @property
    def frontier(self) -> int:
        assert self.last.frontier is not None
        return self.last.frontier

    @property
    def updates(self) -> list[Update]:
        """All updates so far, in order."""
        return [update for batch in self.batches for update in batch.updates]

    async def next(self) -> Batch:
        """The next batch. Raises StopAsyncIteration at a normal end."""
        async with asyncio.timeout(SOON):
            batch = await anext(self._coming)
        self.batches.append(batch)
        if batch.snapshot is not None:
            self.state = Counter()
        for _, diff, row in batch.updates:
            self.state[row] += diff
        self.state = Counter({row: count for row, count in self.state.items() if count})
        return batch

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read until a condition holds."""
        async with asyncio.timeout(SOON):
            while not condition():
                await self.next()

    async def until_state(self, *rows: Row) -> None:
        """Read on until exactly these rows are there, a row given twice in two copies."""
        expected = Counter(rows)
        await self.until(lambda: bool(self.batches) and self.state == expected)

    async def error(self) -> SourceError:
        """Read on until the stream breaks."""
        with pytest.raises(SourceError) as raised:  # noqa: PT012 - the read that fails is one of many
            async with asyncio.timeout(SOON):
                while True:
                    await self.next()
        return raised.value


@asynccontextmanager
async def reading(
    source: Source,
    what: Subject | str,
    as_of: int | None = None,
    *,
    checked: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Reading]:
    """Open a stream of a relation, given by name, or of a subject."""
    subject = Subject(relation=what) if isinstance(what, str) else what
    async with (
        source.open(subject, as_of=as_of, checked=checked) as stream,
        aclosing(cast("AsyncGenerator[Batch, None]", stream.batches())) as batches,
    ):
        yield Reading(stream, batches)


async def error_of(source: Source, what: Subject | str, as_of: int | None = None) -> SourceError:
    """Return the error that ends the opening or reading of a stream."""
    with pytest.raises(SourceError) as raised:
        async with asyncio.timeout(SOON), reading(source, what, as_of) as stream:
            raise await stream.error()
    return raised.value


def check(error: SourceError, reason: SourceReason, *parts: str, history: bool = True) -> None:
    """An error has this reason, says these things on one line, and allows to ask for the history or not."""
    text = str(error)
    assert error.reason is reason, text
    assert error.history is history, text
    assert "\n" not in text
    for part in parts:
        assert part in text
