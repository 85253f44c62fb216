"""`tocsin run`."""

import asyncio
import dataclasses
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from tocsin import app
from tocsin.app.logs import configure
from tocsin.cli import Exit
from tocsin.cli.configuration import configuration, warn
from tocsin.config import Config
from tocsin.config.sections import LedgerSettings
from tocsin.errors import ConfigError, Problem


def command(chosen: Namespace) -> Exit:
    config = configuration(chosen)
    warn(config)
    try:
        configure(config.log)
    except OSError as error:
        why = f"cannot write {config.log.output}: {error.strerror}"
        raise ConfigError([Problem(code="unwritable", path="log.output", message=why)]) from None
    try:
        if chosen.dry_run or config.dry_run:
            with tempfile.TemporaryDirectory(prefix="tocsin-") as directory:
                asyncio.run(app.run(_dry(config, directory), lambda: _dry(configuration(chosen), directory)))
        else:
            asyncio.run(app.run(config, lambda: configuration(chosen)))
    except (app.ListenError, app.StallError) as error:
        print(f"tocsin: {error}", file=sys.stderr)
        return Exit.LISTEN if isinstance(error, app.ListenError) else Exit.STALL
    return Exit.OK


def _dry(config: Config, directory: str) -> Config:
    """Return the configuration with console channels and a temporary ledger: nothing is sent, nothing is kept."""
    from tocsin.channels import console
    from tocsin.channels.settings import ChannelOptions

    channels = {
        name: dataclasses.replace(
            channel,
            kind="console",
            settings=console.Config(type="console"),
            routes={
                alert: console.Options(**options.model_dump(include=set(ChannelOptions.model_fields)))
                for alert, options in channel.routes.items()
            },
        )
        for name, channel in config.channels.items()
    }
    ledger = LedgerSettings(path=str(Path(directory) / "dry-run.db"))
    levelled = {name: dataclasses.replace(alert, levels=frozenset()) for name, alert in config.row_alerts.items()}
    alerts = {**config.alerts, **levelled}
    return dataclasses.replace(config, channels=channels, alerts=alerts, ledger=ledger, dry_run=True)
