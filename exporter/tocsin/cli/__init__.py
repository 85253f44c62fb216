"""The command `tocsin`. What a command needs is imported when it runs, so that help answers at once."""

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from enum import IntEnum
from importlib import import_module

from tocsin.cli.arguments import arguments_parser


class Exit(IntEnum):
    """Exit status of the process."""

    OK = 0
    FAILED = 1
    USAGE = 2
    LEDGER = 3
    LISTEN = 4
    WARNINGS = 5
    """`tocsin doctor` found nothing worse than warnings."""
    STALL = 124
    INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. Prints no traceback, unless TOCSIN_DEBUG is set."""
    _open_streams()
    _write_any_text()
    parser = arguments_parser()
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        file = next((f"; name the configuration with -c {one}" for one in unknown if os.path.isfile(one)), "")  # noqa: PTH113 - pathlib takes a moment
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{file}")
    if chosen.version:
        chosen = parser.parse_args(["version"])
    if chosen.command is None:
        parser.print_help()
        return Exit.USAGE
    if chosen.command == "run":  # a reload that is asked for at the start waits for its handler, and ends nothing
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from tocsin.errors import ConfigError, LedgerError, TocsinError

    try:
        status = int(import_module(f"tocsin.cli.{chosen.module}").command(chosen))
        sys.stdout.flush()  # here, where it may fail
        return status
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
        # `tocsin outbox list | head`: the reader is gone. Python would complain again when it closes the stream.
        _forget_output()
        return Exit.OK
    except Exception as error:
        if os.environ.get("TOCSIN_DEBUG"):
            raise
        print(f"tocsin: {_unexpected(error)}", file=sys.stderr)
        return Exit.FAILED


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
        _forget_output()
        return f"the output cannot be written: {error.strerror}"
    from tocsin.faults import unexpected

    return f"a defect of Tocsin: {unexpected(error)}. Please report it; TOCSIN_DEBUG=1 shows the traceback"


def _forget_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Open the standard streams that the caller has closed: Python has None in their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - pathlib takes a moment; open until the end


def _write_any_text() -> None:
    """Have standard output take every text, whatever the locale: a terminal in its own encoding, a file or a pipe in
    UTF-8, as every file that Tocsin reads."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() not in ("utf-8", "utf8"):
        encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
