"""Configurations written as text, and a source that `tocsin check --online` asks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tocsin.config import Config, load
from tocsin.model import Columns, Row
from tocsin.sources.base import Subject


def load_text(directory: Path, text: str, **environ: str) -> Config:
    """Load a configuration from a text, which becomes the file `c.yaml`."""
    file = directory / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ)


def in_effect(config: Config, path: str) -> Any:
    """What a configuration shows at a path such as `alerts.late.notify.0.channel`; None: nothing."""
    found: Any = config.redacted()
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, list) else found.get(part)
    return found


class FakeSource:
    """Has these columns and this row, or raises one of `errors` after the other. `names`: what `verify` got."""

    def __init__(
        self,
        columns: Columns | None = None,
        row: Row | None = None,
        *,
        errors: Sequence[Exception] = (),
        problems: Sequence[str] = (),
    ) -> None:
        self.names: Sequence[str] = ()
        self._columns = columns
        self._row = row
        self._errors = iter(errors)
        self._problems = list(problems)

    async def describe(self, _: Subject) -> Columns | None:
        for error in self._errors:
            raise error
        return self._columns

    async def sample(self, _: Subject) -> Row | None:
        return self._row

    async def type_name(self, oid: int) -> str:
        return f"public.type_{oid}"

    async def verify(self, names: Sequence[str]) -> list[str]:
        self.names = names
        return self._problems
