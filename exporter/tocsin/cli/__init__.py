"""The command `tocsin`. What a command needs is imported when it runs, so that help answers at once."""

import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from importlib import import_module

from tocsin.cli.arguments import arguments_parser


class Exit(IntEnum):
    """What the process says at its end."""

    OK = 0
    FAILED = 1
    USAGE = 2
    LEDGER = 3
    LISTEN = 4
    STALL = 124
    INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit status. No traceback reaches a person, unless TOCSIN_DEBUG is set."""
    parser = arguments_parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return Exit.USAGE
    from tocsin.errors import ConfigError, LedgerError, TocsinError

    try:
        return int(import_module(f"tocsin.cli.{chosen.module}").command(chosen))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return Exit.USAGE
    except LedgerError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        return Exit.LEDGER
    except TocsinError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        return Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # `tocsin outbox list | head`: nobody reads on. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:
        if os.environ.get("TOCSIN_DEBUG"):
            raise
        print(f"tocsin: {_defect(error)}", file=sys.stderr)
        return Exit.FAILED


def _defect(error: BaseException) -> str:
    """A sentence for a fault of the program's own. Without the error's text, which may hold anything."""
    where = "an unknown place"
    trace = error.__traceback__
    while trace is not None:
        if "tocsin" in trace.tb_frame.f_globals.get("__name__", ""):
            where = f"{trace.tb_frame.f_globals['__name__']}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return (
        f"a defect of Tocsin: {type(error).__name__} in {where}. "
        "Please report it; with TOCSIN_DEBUG=1 it is shown whole"
    )
