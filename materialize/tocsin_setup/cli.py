"""The command line of `setup.py`."""

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tocsin_setup.apply import Setup, switch_on
from tocsin_setup.errors import SetupError
from tocsin_setup.plan import Outcome, Step
from tocsin_setup.script import Item, Variable, load, variables
from tocsin_setup.server import LostError, Patience, Server, StatementError

PREFIX = "TOCSIN_SETUP_"
DIRECTORY = Path(__file__).resolve().parent.parent

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}

_DESCRIPTION = """\
Put the SQL beside this command into Materialize: connection, sources, facts, rules and alert views. It may be run as
often as you like, also twice at once and under running subscribers: what did not change is not touched."""

_EPILOG = """\
examples:
  python setup.py --dsn postgresql://materialize@127.0.0.1:6875/materialize --broker redpanda:9092
  python setup.py --dsn ... --system-dsn postgresql://mz_system@127.0.0.1:6877/materialize
                                             also switch on RETAIN HISTORY, so that Tocsin resumes without a gap
  python setup.py --dsn ... --check          only say what would be done
  python setup.py --dsn ... --schema trial --deployment-window '30 seconds'
  psql -h 127.0.0.1 -p 6875 -U materialize materialize -v broker=127.0.0.1:9092 -f 002_sources.sql
                                             the files are plain SQL, too

Every option may also be set in the environment as TOCSIN_SETUP_ and its name, such as TOCSIN_SETUP_BROKER; the command
line wins. A connection string without a password takes it from PGPASSWORD or a password file, as psql does.

exit codes: 0 all is in place, 1 something went wrong, 2 the options make no sense, 3 there is something to do (--check)
"""


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command; returns its exit code."""
    environ = os.environ if environ is None else environ
    signal.signal(signal.SIGTERM, _stop)
    try:
        known = variables(DIRECTORY)
        options = _parser(known, environ).parse_args(arguments)
        values = {one.name: str(getattr(options, one.name)) for one in known}
        return _run(options, values, load(DIRECTORY, values))
    except (SetupError, StatementError, LostError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: stopped; run it again to go on", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, values: dict[str, str], items: Sequence[Item]) -> int:
    patience = Patience(
        say=_say,
        monotonic=time.monotonic,
        sleep=time.sleep,
        deadline=time.monotonic() + options.timeout,
    )
    table = _Table(check=options.check)
    server = _server("--dsn", options.dsn, patience)
    system = _server("--system-dsn", options.system_dsn, patience) if options.system_dsn else None
    try:
        server.connect()
        switch_on(items, system, table.row, check=options.check)
        setup = Setup(items, values, server, patience, table.row)
        if options.check:
            something = setup.check()
            _say(table.summary(values["schema"]))
            return 3 if something else 0
        setup.run()
        _say(table.summary(values["schema"]))
    finally:
        server.close()
        if system is not None:
            system.close()
    return 0


def _server(option: str, dsn: str, patience: Patience) -> Server:
    try:
        return Server(dsn, patience)
    except SetupError as error:
        raise SetupError(f"{option} (or {_environment(option)}): {error}") from None


class _Table:
    """Prints a line per item."""

    def __init__(self, *, check: bool) -> None:
        self._prefix = "would be " if check else ""
        self._counts: Counter[Outcome] = Counter()

    def row(self, step: Step) -> None:
        self._counts[step.outcome] += 1
        quiet = step.outcome in {Outcome.UNCHANGED, Outcome.SKIPPED}
        word = ("" if quiet else self._prefix) + step.outcome
        _say(f"{word:<{9 + len(self._prefix)}}  {step.item}{': ' + step.why if step.why else ''}")

    def summary(self, schema: str) -> str:
        counts = ", ".join(f"{self._counts[one]} {self._word(one)}" for one in Outcome if self._counts[one])
        return f"{schema}: {counts}"

    def _word(self, outcome: Outcome) -> str:
        return outcome if outcome in {Outcome.UNCHANGED, Outcome.SKIPPED} else f"{self._prefix}{outcome}"


def _parser(known: Sequence[Variable], environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="setup.py",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_connection(parser, environ)
    parser.add_argument(
        "--system-dsn",
        metavar="DSN",
        default=environ.get(_environment("--system-dsn")) or None,
        help="connection string for mz_system, to switch on RETAIN HISTORY (default: go without)",
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=_seconds,
        default=environ.get(_environment("--timeout")) or "10m",
        help="how long to wait for the server, the broker and the topics (default 10m)",
    )
    parser.add_argument("--check", action="store_true", help="only say what would be done")
    group = parser.add_argument_group("what the SQL leaves open")
    for one in known:
        option = f"--{one.name.replace('_', '-')}"
        default = environ.get(_environment(option)) or one.default
        group.add_argument(option, metavar="VALUE", type=_text, default=default, help=f"{one.help} ({one.default})")
    return parser


def add_connection(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """The option for the connection string."""
    dsn = environ.get(_environment("--dsn")) or None
    parser.add_argument(
        "--dsn",
        metavar="DSN",
        default=dsn,
        required=dsn is None,
        help="connection string for Materialize, such as postgresql://materialize@127.0.0.1:6875/materialize",
    )


def _environment(option: str) -> str:
    return PREFIX + option.removeprefix("--").replace("-", "_").upper()


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m or 1h")
    return seconds


def _text(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _say(line: str) -> None:
    print(line, flush=True)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
