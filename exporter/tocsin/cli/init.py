"""`tocsin init`."""

import os
from argparse import Namespace

from tocsin.cli import Exit
from tocsin.cli.configuration import warn
from tocsin.config.environment import from_environment


def command(_chosen: Namespace) -> Exit:
    text, config = from_environment(os.environ)
    warn(config)
    print(text, end="")
    return Exit.OK
