"""Apply the SQL files beside this script to Materialize: `python setup.py --help`.

psql runs the same files. This script also waits for the server, the broker and the topics, leaves unchanged objects
alone, and recreates a view whose definition changed, together with the views that read it. It recognises a change by a
hash at the end of an object's COMMENT. The COMMENT comes last, so an object without a hash is unfinished.
"""

import argparse
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from sql_plan import CHANGES, HASH, VIEWS, SetupError, Statement, plan, statements, variables

PREFIX = "TOCSIN_SETUP_"
RETRY_EVERY = 1.0  # seconds
SETTLE = 3.0  # seconds that another setup gets to finish a view
ATTEMPTS = 8  # passes that may fail because another setup works at the same time

EXTERNAL = ("CREATE CONNECTION", "CREATE SOURCE")  # fail until the broker answers and has the topic
OPTIONAL = ("ALTER SYSTEM", "SET", "CREATE ROLE", "ALTER MATERIALIZED VIEW", "GRANT")  # the views work without them
FINAL = ("42501", "42601")  # SQLSTATE: not permitted, syntax error

# Ids are unique within a type only, so comments are joined by type as well.
CATALOG = """
SELECT o.name, o.type, c.comment
FROM mz_catalog.mz_objects AS o
JOIN mz_catalog.mz_schemas AS s ON s.id = o.schema_id
JOIN mz_catalog.mz_databases AS d ON d.id = s.database_id
LEFT JOIN mz_internal.mz_comments AS c ON c.id = o.id AND c.object_type = o.type AND c.object_sub_id IS NULL
WHERE d.name = current_database() AND s.name = %s
"""
_EPILOG = """\
examples:
  python setup.py --dsn postgresql://materialize@127.0.0.1:6875/materialize --broker redpanda:9092
  python setup.py --dsn ... --system-dsn postgresql://mz_system@127.0.0.1:6877/materialize
                                      also allow RETAIN HISTORY, so that Tocsin resumes without a gap
  python setup.py --dsn ... --check   only print what a run would do

Every option can be set in the environment: --broker is TOCSIN_SETUP_BROKER. The command line wins. A connection string
without a password takes it from PGPASSWORD or a password file, as psql does.

exit status: 0 everything is in place, 1 failed, 2 wrong usage, 3 --check found something to do, 130 interrupted
"""


class Waiting:
    """Wait a second for something, and print for what and why, whenever that changes."""

    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._printed = ""

    def on(self, what: str, why: object) -> None:
        """Raises `SetupError` when the time is up."""
        line = f"waiting for {what}: {' '.join(str(why).split())}"
        if time.monotonic() >= self._deadline:
            raise SetupError(f"gave up {line}")
        if line != self._printed:
            print(line, flush=True)
        self._printed = line
        time.sleep(RETRY_EVERY)


def connect(dsn: str, waiting: Waiting) -> psycopg.Connection[Any]:
    """Connect, or wait until the server answers. Raises `SetupError`."""
    parts = conninfo_to_dict(dsn)
    port = parts.get("port") or 6875
    # ClientCursor puts values into the text, so that no statement depends on the type of a parameter.
    settings = {"autocommit": True, "prepare_threshold": None, "cursor_factory": psycopg.ClientCursor}
    while True:
        try:
            return psycopg.connect(dsn, port=port, connect_timeout=5, application_name="tocsin-setup", **settings)  # type: ignore[arg-type]
        except psycopg.OperationalError as error:
            waiting.on(f"Materialize at {parts.get('host') or 'the default host'}:{port}", error)


class Setup:
    """One run. `connect` waits for the server, `waiting` is for the broker and the topics; `check`: execute nothing."""

    def __init__(
        self, script: Sequence[Statement], schema: str, connect: Callable[[], Any], waiting: Waiting, *, check: bool
    ) -> None:
        self.outcomes: dict[str, str] = {}
        """Object -> created, recreated, unchanged, kept or skipped."""
        self._script = script
        self._schema = schema
        self._connect = connect
        self._waiting = waiting
        self._check = check

    def run(self) -> None:
        """Raises `SetupError`: a statement fails again and again, or something was not there in time."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._connect() as connection:
                    named, found = self._catalog(connection)
                    views = [found[each.name] for each in self._script if each.action in VIEWS and each.name in found]
                    if attempt == 1 and not all(HASH.search(comment or "") for _, comment in views):
                        time.sleep(SETTLE)
                        continue
                    for source, text, outcome in plan(self._script, self._schema, named, found):
                        why = self._execute(connection, source, text)
                        self.report(source, "skipped" if why else outcome, why)
                return
            except psycopg.Error as error:
                if attempt == ATTEMPTS:
                    raise SetupError(": ".join([*getattr(error, "__notes__", ()), _one_line(error)])) from None
                time.sleep(0.1 * attempt)

    def _catalog(self, connection: Any) -> tuple[set[str], dict[str, tuple[str, str | None]]]:
        """Clusters and roles, and the objects in the schema."""
        named = connection.execute("SELECT name FROM mz_catalog.mz_clusters").fetchall()
        named += connection.execute("SELECT name FROM mz_catalog.mz_roles").fetchall()
        rows = connection.execute(CATALOG, (self._schema,)).fetchall()
        return {name for (name,) in named}, {name: (kind, comment) for name, kind, comment in rows}

    def _execute(self, connection: Any, source: Statement, text: str) -> str:
        """Returns why an optional statement failed, or nothing."""
        while text and not self._check:
            try:
                connection.execute(text.encode())
            except psycopg.Error as error:
                if not connection.closed and source.action in OPTIONAL:
                    return _one_line(error)
                if connection.closed or source.action not in EXTERNAL or error.sqlstate in FINAL:
                    error.add_note(str(source))
                    raise
                self._waiting.on(f"the broker or the topic of {source.name}", error)
            else:
                break
        return ""

    def report(self, source: Statement, outcome: str, why: str = "") -> None:
        """Print what became of an object, once."""
        what = f"{source.action.lower().removeprefix('create ')} {source.name}".strip()
        if outcome == "kept":
            why = "its definition differs, but it holds data; to recreate it, DROP it ... CASCADE first"
        if outcome and what not in self.outcomes:
            self.outcomes[what] = outcome
            word = f"would be {outcome}" if self._check and outcome in CHANGES else outcome
            print(f"{word:<9}  {what}{': ' if why else ''}{why}", flush=True)


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command; returns its exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    known = variables()
    options = _parser(known, os.environ if environ is None else environ).parse_args(arguments)
    waiting = Waiting(options.timeout)
    script = list(statements({name: getattr(options, name) for name in known}))
    system = [each for each in script if each.action == "ALTER SYSTEM"]
    rest = [each for each in script if each not in system]
    outcomes: Counter[str] = Counter()
    try:
        for part, dsn in ((system, options.system_dsn or options.dsn), (rest, options.dsn)):
            setup = Setup(part, options.schema, partial(connect, dsn, waiting), waiting, check=options.check)
            setup.run()
            outcomes.update(setup.outcomes.values())
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    print(f"{options.schema}: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")
    return 3 if options.check and outcomes.keys() & CHANGES else 0


def _parser(known: Mapping[str, tuple[str, str]], environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="setup.py",
        description="Apply the SQL beside this script to Materialize. It can be repeated, and two may run at once.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def add(name: str, text: str, default: str = "", kind: Callable[[str], Any] = str) -> None:
        option, default = f"--{name.replace('_', '-')}", environ.get(f"{PREFIX}{name.upper()}") or default
        required = name == "dsn" and not default
        parser.add_argument(option, metavar="VALUE", help=text, type=kind, default=default or None, required=required)

    add("dsn", "connection string for Materialize", kind=_dsn)
    add("system_dsn", "connection string for mz_system, to allow RETAIN HISTORY (default: none)", kind=_dsn)
    add("timeout", "how long to wait for server, broker and topics (default: 10m)", "10m", _seconds)
    parser.add_argument("--check", action="store_true", help="only print what a run would do")
    for name, (default, description) in known.items():
        add(name, f"{description} (default: {default})", default)
    return parser


def _dsn(text: str) -> str:
    try:
        conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        # libpq's message repeats a piece of the string, which may be the password.
        raise argparse.ArgumentTypeError("not a connection string, such as postgresql://user@host:6875/name") from None
    return text


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m or 1h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
