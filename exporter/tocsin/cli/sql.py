"""`tocsin sql`: print SQL for the administrator of a database."""

from argparse import Namespace

from tocsin.channels import postgres
from tocsin.cli import Exit
from tocsin.cli.configuration import configuration
from tocsin.config import Config
from tocsin.errors import TocsinError
from tocsin.ledger import postgres as ledgers
from tocsin.sources import postgres_events


def command(chosen: Namespace) -> Exit:
    config = configuration(chosen)
    scripts = {place: text for place, text in _scripts(config, chosen).items() if chosen.name in (None, place[1])}
    if not scripts:
        raise TocsinError(_nothing(config, chosen.name))
    for (kind, name), text in scripts.items():
        print(f"-- For the {kind} {name}. Safe to run again.\n{text}")
    return Exit.OK


def _scripts(config: Config, chosen: Namespace) -> dict[tuple[str, str], str]:
    """(What it is for, name) -> SQL."""
    scripts: dict[tuple[str, str], str] = {}
    if (server := config.ledger.server()) is not None:
        scripts["schema of the", "ledger"] = ledgers.ddl(server)
    for name, source in config.sources.items():
        if isinstance(source.settings, postgres_events.Config):
            existing = chosen.existing or chosen.backlog
            scripts["source", name] = (
                postgres_events.existing_table(source.settings, backlog=chosen.backlog)
                if existing
                else postgres_events.new_table(source.settings)
            )
    for name, channel in config.channels.items():
        if isinstance(channel.settings, postgres.Config):
            tables = [options.table for options in channel.routes.values()]
            scripts["channel", name] = postgres.ddl(channel.settings, tables)
    return scripts


def _nothing(config: Config, name: str | None) -> str:
    which = "there is no source of type postgres_events, no channel of type postgres and no ledger.url"
    if name is None:
        return which
    if name in config.sources or name in config.channels:
        return f"{name} needs no SQL: only sources of type postgres_events and channels of type postgres do"
    return f"{which} called {name}"
