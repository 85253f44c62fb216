"""The configuration of a command, and `tocsin init`."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from tocsin.cli import Exit
from tocsin.config import Config, load
from tocsin.config.environment import from_environment, is_configured
from tocsin.config.problems import problem
from tocsin.errors import ConfigError

_DEFAULT = "tocsin.yaml"


def configuration(chosen: Namespace) -> Config:
    """Load the file named on the command line or by the environment, or ./tocsin.yaml, or else the environment
    alone."""
    named = chosen.config or os.environ.get("TOCSIN_CONFIG")
    if named:
        return load(Path(named), os.environ)
    if Path(_DEFAULT).exists():
        return load(Path(_DEFAULT), os.environ)
    if is_configured(os.environ):
        return from_environment(os.environ)[1]
    raise ConfigError([problem("no_file", name=_DEFAULT)])


def warn(config: Config) -> None:
    """Print the warnings of a configuration on standard error."""
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def command(_chosen: Namespace) -> Exit:
    """Run `tocsin init`."""
    text, config = from_environment(os.environ)
    warn(config)
    print(text, end="")
    return Exit.OK
