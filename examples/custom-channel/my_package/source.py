"""The source `folder`: each file in a folder is a row, as long as it is there."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from tocsin.plugin import (
    Batch,
    Columns,
    Duration,
    Row,
    RowSourceSettings,
    SourceError,
    SourceReason,
    Stream,
    Subject,
    row_of,
)

COLUMNS, _ = row_of({"name": "a name", "bytes": 1})


class Config(RowSourceSettings):
    """Folders: each file in a folder is a row, as long as it is there. `relation` names the folder."""

    subjects: ClassVar = ("relation",)

    path: str
    """Where the folders are."""
    interval: Duration = 5.0
    """Time between two readings."""

    @property
    def progress_interval(self) -> float:
        """The time within which a healthy source reads again."""
        return self.interval


def build(name: str, config: Config) -> "Folders":
    """Make the source; read nothing yet."""
    return Folders(config)


class Folders:
    """A `tocsin.plugin.Source`. It only reads: Tocsin compares the readings, and opens it again after an error."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @asynccontextmanager
    async def open(
        self, subject: Subject, *, as_of: int | None, checked: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Stream]:
        yield Stream(COLUMNS, lambda: self._readings(subject, as_of or 0))

    async def describe(self, subject: Subject) -> Columns:
        await self._rows(subject)
        return COLUMNS

    async def sample(self, subject: Subject) -> Row | None:
        return next(iter(await self._rows(subject)), None)

    async def _readings(self, subject: Subject, at: int) -> AsyncIterator[Batch]:
        while True:
            rows = await self._rows(subject)
            at = max(time.time_ns() // 1_000_000, at + 1)  # never goes back
            yield Batch(updates=[(at, 1, row) for row in rows], frontier=at + 1, snapshot=at, polled=True)
            await asyncio.sleep(self._config.interval)

    async def _rows(self, subject: Subject) -> list[Row]:
        return await asyncio.to_thread(_files, Path(self._config.path) / str(subject.relation))


def _files(folder: Path) -> list[Row]:
    try:
        found = [(file.name, file.stat().st_size) for file in sorted(folder.iterdir())]
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise SourceError(why, SourceReason.MISSING, server=str(folder), fix="create the folder") from None
    return [row_of({"name": name, "bytes": size})[1] for name, size in found]
