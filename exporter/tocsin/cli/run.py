"""`tocsin run`."""

import asyncio
import dataclasses
import os
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from tocsin import app
from tocsin.app.logs import configure
from tocsin.cli import Exit, workers
from tocsin.cli.configuration import configuration, warn
from tocsin.config import Config
from tocsin.config.sections import LedgerSettings
from tocsin.errors import ConfigError, ListenError, Problem, StallError


def command(chosen: Namespace) -> int:
    config = _own(chosen)
    if not chosen.worker:
        warn(config)
    try:
        configure(config.log, worker=chosen.worker)
    except OSError as error:
        why = f"cannot write {config.log.output}: {error.strerror}"
        raise ConfigError([Problem(code="unwritable", path="log.output", message=why)]) from None
    if chosen.workers > 1:
        workers.check(config, chosen.workers, chosen.config or os.environ.get("TOCSIN_CONFIG"))
        return workers.run(chosen.workers, chosen.config)
    if chosen.worker:
        workers.end_with_supervisor()
    try:
        if chosen.dry_run or config.dry_run:
            with tempfile.TemporaryDirectory(prefix="tocsin-") as directory:
                asyncio.run(app.run(_dry(config, directory), lambda: _dry(configuration(chosen), directory)))
        else:
            asyncio.run(app.run(config, lambda: _own(chosen)))
    except (ListenError, StallError) as error:
        print(f"tocsin: {error}", file=sys.stderr)
        return Exit.LISTEN if isinstance(error, ListenError) else Exit.STALL
    return Exit.OK


def _own(chosen: Namespace) -> Config:
    """The configuration of this process."""
    config = configuration(chosen)
    if not chosen.worker:
        return config
    workers.check(config, chosen.worker, None)
    return workers.of_worker(config, chosen.worker)


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
