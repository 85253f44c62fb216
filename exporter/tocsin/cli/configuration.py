"""Which configuration a command works with."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from tocsin.config import Config, load
from tocsin.errors import ConfigError, Problem

_DEFAULT = "tocsin.yaml"


def configuration(chosen: Namespace) -> Config:
    """The file named on the command line or by the environment, or ./tocsin.yaml, or else the environment alone."""
    named = chosen.config or os.environ.get("TOCSIN_CONFIG")
    if named:
        return load(Path(named), os.environ)
    if Path(_DEFAULT).exists():
        return load(Path(_DEFAULT), os.environ)
    from tocsin.config.environment import from_environment, speaks

    if speaks(os.environ):
        return from_environment(os.environ)
    raise ConfigError([Problem(message=f"there is no {_DEFAULT} here; name a file with --config or TOCSIN_CONFIG")])


def warn(config: Config) -> None:
    """Say what is odd, on standard error."""
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
