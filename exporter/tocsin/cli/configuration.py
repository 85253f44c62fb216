"""The configuration of a command, with its ledger."""

import asyncio
import os
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from tocsin.app.ledgers import opened
from tocsin.config import Config, load
from tocsin.config.environment import from_environment, is_configured
from tocsin.config.loading import decoded, load_text
from tocsin.config.problems import problem
from tocsin.errors import ConfigError, LedgerError, LedgerReason, Problem
from tocsin.ledger.base import Ledger

T = TypeVar("T")
_DEFAULT = "tocsin.yaml"


def configuration(chosen: Namespace) -> Config:
    """Load the file named on the command line or by the environment, or ./tocsin.yaml, or else the environment
    alone."""
    named = chosen.config or os.environ.get("TOCSIN_CONFIG")
    if named == "-":
        text = decoded(_standard_input(), "standard input")
        if isinstance(text, Problem):
            raise ConfigError([text])
        return load_text(text, "standard input", os.environ)
    if named:
        return load(Path(named), os.environ)
    if Path(_DEFAULT).exists():
        return load(Path(_DEFAULT), os.environ)
    if is_configured(os.environ):
        return from_environment(os.environ)[1]
    raise ConfigError([problem("no_file", name=_DEFAULT)])


@cache
def _standard_input() -> bytes:
    return sys.stdin.buffer.read()


def warn(config: Config) -> None:
    """Print the warnings of a configuration on standard error."""
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def with_ledger(config: Config, work: Callable[[Ledger], Awaitable[T]]) -> T:
    """Do something with the ledger of a configuration, beside the process that writes it. Raises LedgerError."""
    if not config.needs_ledger and config.ledger.url is None and not Path(config.ledger.path).exists():
        why = "Alertmanager outputs are sent what fires now, without a ledger" if config.channels else "there is none"
        raise LedgerError(f"no channel of this configuration keeps notifications: {why}", LedgerReason.UNREADABLE)

    async def run() -> T:
        ledger = await opened(config.ledger, runs_alerts=False)
        try:
            return await work(ledger)
        finally:
            await ledger.close()

    return asyncio.run(run())
