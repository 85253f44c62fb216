"""`tocsin check` and `tocsin schema`."""

import asyncio
import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Sequence

import yaml

from tocsin.app import build, logs
from tocsin.cli import Exit
from tocsin.cli.configuration import configuration
from tocsin.config import Config
from tocsin.config.check import check, check_online, warnings_online
from tocsin.config.sections import LogSettings
from tocsin.errors import ConfigError, Problem


def command(chosen: Namespace) -> Exit:
    if chosen.command == "schema":
        from tocsin.config.schema import schema
        from tocsin.simulation.cases import schema as tests_schema

        print(json.dumps(tests_schema() if chosen.tests else schema(), indent=2))
        return Exit.OK
    try:
        config = configuration(chosen)
    except ConfigError as error:
        return _report(error.problems, [], chosen)
    if chosen.show:
        print(yaml.safe_dump(config.redacted(), sort_keys=False, allow_unicode=True), end="")
    problems, warnings = check(config), [*config.warnings]
    if chosen.online:
        # Problems are reported below, and the output may be JSON.
        logs.configure(LogSettings(level="error"))
        problems += asyncio.run(_online(config, quiet=chosen.json))
        warnings += asyncio.run(warnings_online(config))
    return _report(problems, warnings, chosen, config)


async def problems_of(config: Config) -> list[Problem]:
    """Check a configuration as `tocsin check --online` does."""
    return [*check(config), *await _online(config, quiet=True)]


async def _online(config: Config, *, quiet: bool) -> list[Problem]:
    """Ask the servers. The objects are those that `tocsin run` would make."""
    sources = {name: build.make_source(source) for name, source in config.sources.items()}
    channels = {name: build.make_channel(channel) for name, channel in config.channels.items()}

    def asking(alert: str) -> None:
        if not quiet and sys.stderr.isatty():
            print(f"asking for {alert} ...", file=sys.stderr)

    try:
        return await check_online(config, sources, channels, asking)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels.values()), return_exceptions=True)


def _report(
    problems: Sequence[Problem], warnings: Sequence[Problem], chosen: Namespace, config: Config | None = None
) -> Exit:
    if chosen.json:
        found = {"problems": problems, "warnings": warnings}
        print(json.dumps({name: [dataclasses.asdict(one) for one in some] for name, some in found.items()}))
    else:
        for line in (*(f"warning: {warning}" for warning in warnings), *problems):
            print(line, file=sys.stderr)
        if not problems and config is not None and not chosen.show:
            print(_summary(config, online=chosen.online))
    return Exit.FAILED if problems else Exit.OK


def _summary(config: Config, *, online: bool) -> str:
    counts = {"alert": len(config.alerts), "source": len(config.sources), "channel": len(config.channels)}
    parts = [f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items()]
    if online:
        return f"the configuration is valid, and the servers agree: {', '.join(parts)}"
    return f"the configuration is valid: {', '.join(parts)}; --online also asks the servers"
