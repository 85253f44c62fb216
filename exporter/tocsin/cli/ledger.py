"""`tocsin ledger`: copy a ledger from one store to another, or bring its tables up to date."""

import asyncio
import os
import sys
import textwrap
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tocsin.cli import Exit
from tocsin.config import load
from tocsin.config.sections import LedgerSettings
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger import postgres, sqlite_tables
from tocsin.ledger.tables import Store, copy


class _Open(Store, Protocol):
    async def close(self) -> None: ...


def command(chosen: Namespace) -> Exit:
    return _migrate(chosen) if chosen.action == "migrate" else _copied(chosen)


def _migrate(chosen: Namespace) -> Exit:
    settings = _settings(chosen.place)
    if (server := settings.server()) is None:
        why = "`tocsin run` brings a ledger in a file up to date by itself"
        raise LedgerError(f"{settings.path}: {why}", LedgerReason.LOCKED)
    before, steps = asyncio.run(postgres.update(server, dry_run=chosen.dry_run))
    now = before + len(steps)
    tables = f"the tables in {_shown(chosen.place)}"
    if not steps:
        print(f"{tables} are up to date (version {now}); nothing was to do")
    elif chosen.dry_run:
        print("\n".join(textwrap.dedent(step).strip() for step in steps))
    elif not before:
        print(f"{tables} were made (version {now})")
    else:
        print(f"{tables} were brought from version {before} to {now}")
    return Exit.OK


def _copied(chosen: Namespace) -> Exit:
    count = asyncio.run(_copy(chosen.source, chosen.target))
    print(f"{count:,} rows are the same in {_shown(chosen.target)}")
    return Exit.OK


async def _copy(source: str, target: str) -> int:
    if source == target:
        raise LedgerError("source and target are the same ledger", LedgerReason.LOCKED)
    opened = await _opened(source, existing=True)
    try:
        into = await _opened(target)
        try:
            return await copy(opened, into, _shown(source), _progress())
        finally:
            await into.close()
    finally:
        await opened.close()


async def _opened(place: str, *, existing: bool = False) -> _Open:
    settings = _settings(place)
    if (server := settings.server()) is not None:
        return await postgres.open_tables(server)
    return await asyncio.to_thread(_file, Path(settings.path), existing)


def _file(path: Path, existing: bool) -> _Open:
    if existing and not path.exists():
        raise LedgerError(f"{path}: there is no such file", LedgerReason.UNREADABLE)
    return sqlite_tables.open_tables(path)


def _settings(place: str) -> LedgerSettings:
    """The ledger of a configuration file, at an address, or in a file."""
    if place.endswith((".yaml", ".yml")):
        return load(Path(place), os.environ).ledger
    if place.startswith(("postgresql://", "postgres://")):
        return LedgerSettings.model_validate({"url": place})
    return LedgerSettings(path=place)


def _shown(place: str) -> str:
    """A place without its password."""
    settings = _settings(place)
    server = settings.server()
    return settings.path if server is None else f"{server.display}, schema {server.namespace}"


def _progress() -> Callable[[str, int, int], None]:
    """Print how far the copy is: on a terminal one line that changes."""
    last = ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        text = f"{what}: {done:,} of {total:,}" if total else what
        if sys.stderr.isatty():
            print(f"\r{text.ljust(len(last))}", end="" if done < total else "\n", file=sys.stderr, flush=True)
            last = text if done < total else ""
        elif done == total and total:
            print(text, file=sys.stderr)

    return show
